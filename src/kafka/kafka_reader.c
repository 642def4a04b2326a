/*-------------------------------------------------------------------------
 *
 * kafka_reader.c
 *	  The reader (the consumer of a stream): reads bounded ranges of the
 *	  records of topics, batch by batch.
 *
 * A batch is begun here and filled by batch_fill.c.  No function of this file
 * waits for Kafka; topic_query.c has those that do. librdkafka always fetches
 * ahead, between batches, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "kafka_internal.h"

/* called right before the client is destroyed, perhaps at process exit */
static void
release_fetch(void *owner)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) owner;

	sagg_prefetch_end(reader);
	sagg_batch_reset(reader->base.batch);
	reader->nranges = 0;
	for (int round = 0; round < SAGG_DRAIN_ROUNDS; round++)
	{
		rd_kafka_assign(reader->fetch->rk, NULL);
		for (int i = 0; i < reader->npartitions; i++)
			sagg_queue_drain(reader->partitions[i]->queue);
	}
	for (int i = 0; i < reader->npartitions; i++)
		sagg_partition_detach(reader, reader->partitions[i]);
	sagg_group_detach(reader);
	reader->fetch = NULL;
}

/*
 * Open a reader of the topics of foreign tables of one server, with the
 * options of the server and of the current user's mapping.
 */
void
sagg_kafka_open(SaggReader *base, List *sources)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	reader->fd = -1;
	reader->conf = sagg_client_conf(linitial_oid(sources));
	sagg_conf_prepare(reader->conf);
	reader->fd = sagg_event_fd_open();
	sagg_kafka_open_query_client(reader);
}

/*
 * Close the clients.  Raises no error and waits for no broker.
 */
void
sagg_kafka_close(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	if (reader->fetch)
		sagg_client_close(reader->fetch);
	if (reader->query_client)
		sagg_client_close(reader->query_client);
	if (reader->conf)
		rd_kafka_conf_destroy(reader->conf);
	if (reader->fd >= 0)
		sagg_event_fd_close(reader->fd);
}

/*
 * Returns a descriptor that is readable when records may have arrived, until
 * sagg_kafka_has_records or sagg_kafka_collect was called.
 */
int
sagg_kafka_fd(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	return reader->fd;
}

static SaggPartition *
find_partition(SaggKafkaReader *reader, const SaggRange *key)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (reader->partitions[i]->partition == key->partition &&
			reader->partitions[i]->topic == key->topic)
			return reader->partitions[i];
	}
	return NULL;
}

static SaggPartition *
add_partition(SaggKafkaReader *reader, const SaggRange *key)
{
	MemoryContext old = MemoryContextSwitchTo(reader->base.memory);
	SaggPartition *part = palloc0(sizeof(SaggPartition));

	part->topic = key->topic;
	part->topic_name = sagg_topic_name(key->topic);
	part->partition = key->partition;
	part->range_end = -1;
	part->position = -1;
	part->last_offset = -1;
	part->readable_at = -1;
	dlist_init(&part->prefetched);
	sagg_partition_attach(reader, part);
	if (reader->npartitions == 0)
		reader->partitions = palloc(sizeof(SaggPartition *));
	else
		reader->partitions = repalloc(reader->partitions,
									  sizeof(SaggPartition *) * (reader->npartitions + 1));
	reader->partitions[reader->npartitions++] = part;
	MemoryContextSwitchTo(old);
	return part;
}

/*
 * Make the client that fetches.  "topic" is one of those it will read.
 */
static void
open_fetch(SaggKafkaReader *reader, int npartitions, int32 topic)
{
	static const uint64 one = 1;
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(reader->conf);
	char	   *name = unconstify(char *, sagg_topic_name(topic));
	int			known = 0;

	for (int i = 0; i < reader->nknown; i++)
		known += reader->known[i].npartitions;
	reader->sized_for = Max(npartitions, known);

	sagg_conf_for_fetch(conf, reader->sized_for,
						&reader->queue_bytes, &reader->queue_records);
	reader->fetch = sagg_client_open(RD_KAFKA_CONSUMER, conf, &name, 1,
									 release_fetch, reader);
	sagg_arrivals_expect(reader->fetch->arrivals, reader->sized_for);

	/* an idle stream also has to notice broken connections */
	rd_kafka_queue_io_event_enable(reader->fetch->events, reader->fd, &one, sizeof(one));
	sagg_group_attach(reader);
}

/*
 * There are many more partitions than the client was made for, and their
 * queues together would be larger than stream_agg.fetch_memory (I7): make a
 * new client.
 */
static void
resize_fetch(SaggKafkaReader *reader, int npartitions, int32 topic)
{
	sagg_kafka_release(&reader->base);
	sagg_client_close(reader->fetch);
	open_fetch(reader, npartitions, topic);
	for (int i = 0; i < reader->npartitions; i++)
		sagg_partition_attach(reader, reader->partitions[i]);
}

/*
 * Tell librdkafka where to fetch, by assigning all partitions again: it then
 * drops what it has fetched from elsewhere.
 */
void
sagg_kafka_assign_all(SaggKafkaReader *reader)
{
	rd_kafka_topic_partition_list_t *list =
	rd_kafka_topic_partition_list_new(reader->npartitions);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < reader->npartitions; i++)
	{
		SaggPartition *part = reader->partitions[i];

		sagg_partition_restart(reader, part, part->position);
		rd_kafka_topic_partition_list_add(list, part->topic_name,
										  part->partition)->offset = part->position;
	}
	err = rd_kafka_assign(reader->fetch->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not assign the partitions of %s", reader->base.topics->subject),
				 errdetail_internal("%s.", rd_kafka_err2str(err))));
}

/*
 * Read from the starts of "positions" on, unless the reader is there already;
 * other partitions continue.  Drops a batch begun before if anything changes.
 */
void
sagg_kafka_assign(SaggReader *base, const SaggRange *positions,
				  int npositions)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	bool		changed = false;

	if (npositions == 0)
		return;
	sagg_prefetch_halt(reader);
	if (reader->fetch == NULL)
		open_fetch(reader, npositions, positions[0].topic);
	else if (npositions > 2 * reader->sized_for)
	{
		resize_fetch(reader, npositions, positions[0].topic);
		changed = true;
	}
	for (int i = 0; i < npositions; i++)
	{
		SaggPartition *part = find_partition(reader, &positions[i]);

		if (part == NULL)
			part = add_partition(reader, &positions[i]);
		if (part->position == positions[i].start && !part->lost)
			continue;
		part->position = positions[i].start;
		changed = true;
	}
	if (changed)
	{
		sagg_kafka_release(&reader->base);
		sagg_kafka_assign_all(reader);
	}
}

/*
 * Returns the end of the gap at the start of a range: the offsets that have no
 * record, as far as known from what has arrived; at most the end of the range.
 * Returns its start if nothing has arrived, or the reader is elsewhere.
 * "pass": continue there.  May raise what sagg_kafka_collect raises.  Does not
 * wait.
 */
int64
sagg_kafka_gap_end(SaggReader *base, const SaggRange *range, bool pass)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	SaggPartition *part;
	int64		next;

	sagg_prefetch_halt(reader);
	part = find_partition(reader, range);
	if (part == NULL || part->position != range->start)
		return range->start;
	next = sagg_prefetched_first(part);
	if (next < 0)
	{
		rd_kafka_message_t *message = sagg_partition_peek(reader, part);

		if (part->lost || part->unreadable)
			return range->start;
		next = message ? message->offset : part->eof;
	}
	next = Max(range->start, Min(next, range->end));
	if (pass)
		part->position = next;
	return next;
}

/*
 * Returns whether records were collected without headers that are wanted since
 * then.
 */
static bool
collected_without_headers(const SaggKafkaReader *reader)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (sagg_batch_keeps_headers(reader->base.batch) &&
			sagg_prefetched_lack_headers(reader->partitions[i]))
			return true;
	}
	return false;
}

/*
 * Begin a batch of these ranges; releases the one before.
 */
void
sagg_kafka_begin(SaggReader *base, const SaggRange *ranges, int nranges)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	sagg_kafka_release(&reader->base);
	if (nranges == 0)
		return;

	sagg_kafka_assign(&reader->base, ranges, nranges);
	if (collected_without_headers(reader))
		sagg_kafka_assign_all(reader);
	reader->nranges = nranges;
	for (int i = 0; i < nranges; i++)
	{
		SaggPartition *part = find_partition(reader, &ranges[i]);

		part->range_start = ranges[i].start;
		part->range_end = ranges[i].end;
		part->complete = part->position >= part->range_end;
	}
}

/*
 * Release the batch: frees its records.  The reader's position is behind them.
 */
void
sagg_kafka_release(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	sagg_prefetch_halt(reader);
	sagg_batch_reset(reader->base.batch);
	sagg_kafka_forget_losses(reader);
	for (int i = 0; i < reader->npartitions; i++)
	{
		reader->partitions[i]->range_end = -1;
		reader->partitions[i]->complete = false;
	}
	reader->nranges = 0;
}
