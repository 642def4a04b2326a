/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  The reader: bounded ranges of the records of topics, batch by batch.
 *
 * A batch is begun here and collected by collect.c.  No function of this file
 * waits for Kafka; topic_query.c has those that do.
 * librdkafka fetches ahead all the time, between batches too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "reader_internal.h"

/* called right before the client is destroyed, perhaps at process exit */
static void
release_fetch(void *owner)
{
	SaggReader *reader = (SaggReader *) owner;

	sagg_collector_end(reader);
	sagg_batch_reset(reader->batch);
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

static bool
any_has_headers(List *sources)
{
	ListCell   *lc;

	foreach(lc, sources)
	{
		if (sagg_source_has_headers(lfirst_oid(lc)))
			return true;
	}
	return false;
}

/*
 * Open a reader for the topics of foreign tables (OIDs) of one server, with the
 * options of the server and of the current user's mapping.  Headers of records
 * are kept if a source has a column of them, or with "want_headers".  Needs a
 * transaction; contacts nobody yet.  The reader stays until sagg_reader_close
 * or the end of the process.
 */
SaggReader *
sagg_reader_open(List *sources, bool want_headers)
{
	Oid			source = linitial_oid(sources);
	bool		headers = want_headers || any_has_headers(sources);
	struct SaggRegistry *registry = sagg_source_registry(source, GetUserId());
	rd_kafka_conf_t *conf = sagg_client_conf(source);
	MemoryContext memory = AllocSetContextCreate(TopMemoryContext,
												 "stream_agg reader",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);
	SaggReader *reader = palloc0(sizeof(SaggReader));

	reader->memory = memory;
	reader->fd = -1;
	reader->conf = conf;
	reader->registry = registry;
	PG_TRY();
	{
		sagg_conf_prepare(conf);
		reader->topics = sagg_sources_topics(sources);
		reader->batch = sagg_batch_create(headers);
		reader->fd = sagg_event_fd_open();
		sagg_reader_open_asks(reader);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		sagg_reader_close(reader);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return reader;
}

/*
 * Close the reader and free its batch.  Raises no error and waits for no
 * broker.
 */
void
sagg_reader_close(SaggReader *reader)
{
	if (reader->fetch)
		sagg_client_close(reader->fetch);
	if (reader->asks)
		sagg_client_close(reader->asks);
	if (reader->batch)
		sagg_batch_reset(reader->batch);
	if (reader->conf)
		rd_kafka_conf_destroy(reader->conf);
	if (reader->fd >= 0)
		sagg_event_fd_close(reader->fd);
	MemoryContextDelete(reader->memory);
}

/*
 * A descriptor that is readable when records may have arrived, until
 * sagg_reader_has_records or sagg_reader_collect was called.
 */
int
sagg_reader_fd(SaggReader *reader)
{
	return reader->fd;
}

/*
 * What the reader reads, for messages: topic "a".  The reader's memory.
 */
const char *
sagg_reader_subject(SaggReader *reader)
{
	return reader->topics->subject;
}

/*
 * The name of the topic if there is one source with one topic; the reader's
 * memory.
 */
const char *
sagg_reader_one_topic(SaggReader *reader)
{
	return reader->topics->one;
}

/*
 * Have the sources other topics than when the reader was opened?  Needs a
 * transaction.
 */
bool
sagg_reader_sources_changed(SaggReader *reader, List *sources)
{
	return strcmp(sagg_sources_topics(sources)->subject, reader->topics->subject) != 0;
}

/*
 * Is a topic one of the sources', whether it exists or not?
 */
bool
sagg_reader_has_topic(SaggReader *reader, int32 topic)
{
	return sagg_topics_include(reader->topics, sagg_topic_name(topic));
}

static SaggPartition *
find_partition(SaggReader *reader, const SaggRange *key)
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
add_partition(SaggReader *reader, const SaggRange *key)
{
	MemoryContext old = MemoryContextSwitchTo(reader->memory);
	SaggPartition *part = palloc0(sizeof(SaggPartition));

	part->topic = key->topic;
	part->topic_name = sagg_topic_name(key->topic);
	part->partition = key->partition;
	part->range_end = -1;
	part->position = -1;
	part->last_offset = -1;
	part->readable_at = -1;
	dlist_init(&part->portions);
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
 * Make the client that fetches.  "topic" is one of those it is to read.
 */
static void
open_fetch(SaggReader *reader, int npartitions, int32 topic)
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

	/* an idle stream is to hear of broken connections, too */
	rd_kafka_queue_io_event_enable(reader->fetch->events, reader->fd, &one, sizeof(one));
	sagg_group_attach(reader);
}

/*
 * There are many more partitions than the client was made for, whose queues
 * together would be larger than stream_agg.fetch_memory (I7): make another.
 */
static void
resize_fetch(SaggReader *reader, int npartitions, int32 topic)
{
	sagg_reader_release(reader);
	sagg_client_close(reader->fetch);
	open_fetch(reader, npartitions, topic);
	for (int i = 0; i < reader->npartitions; i++)
		sagg_partition_attach(reader, reader->partitions[i]);
}

/*
 * Tell librdkafka where to fetch, all partitions anew: it then drops what it
 * has fetched from elsewhere.
 */
void
sagg_reader_assign_all(SaggReader *reader)
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
				 errmsg("could not assign the partitions of %s", reader->topics->subject),
				 errdetail_internal("%s.", rd_kafka_err2str(err))));
}

/*
 * Read from the starts of "positions" on, as far as the reader is not there
 * anyway; other partitions go on as they are.  Drops a batch begun before if
 * anything changes.
 */
void
sagg_reader_assign(SaggReader *reader, const SaggRange *positions,
				   int npositions)
{
	bool		changed = false;

	if (npositions == 0)
		return;
	sagg_collector_halt(reader);
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
		sagg_reader_release(reader);
		sagg_reader_assign_all(reader);
	}
}

static bool
same_ranges(const SaggReader *reader, const SaggRange *ranges, int nranges)
{
	if (nranges == 0 || reader->nranges != nranges)
		return false;
	for (int i = 0; i < nranges; i++)
	{
		if (reader->ranges[i].topic != ranges[i].topic ||
			reader->ranges[i].partition != ranges[i].partition ||
			reader->ranges[i].start != ranges[i].start ||
			reader->ranges[i].end != ranges[i].end)
			return false;
	}
	return true;
}

/*
 * Pass over the offsets from the start of a range on that have no record, as far
 * as what has arrived tells; no further than to its end.  Returns where the
 * partition goes on: the range's start, if nothing has arrived.  May raise what
 * sagg_reader_collect would.  Does not wait.
 */
int64
sagg_reader_pass_gap(SaggReader *reader, const SaggRange *range)
{
	SaggPartition *part;
	int64		next;

	sagg_collector_halt(reader);
	part = find_partition(reader, range);
	if (part == NULL || part->position != range->start)
		return range->start;
	next = sagg_portions_first(part);
	if (next < 0)
	{
		rd_kafka_message_t *message = sagg_partition_peek(reader, part);

		if (part->lost || part->unreadable)
			return range->start;
		next = message ? message->offset : part->eof;
	}
	part->position = Max(part->position, Min(next, range->end));
	return part->position;
}

/*
 * Have records been collected of which the headers are wanted since?
 */
static bool
collected_without_headers(const SaggReader *reader)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (sagg_batch_keeps_headers(reader->batch) &&
			sagg_portions_lack_headers(reader->partitions[i]))
			return true;
	}
	return false;
}

/*
 * Begin a batch of these ranges.  What was collected of the very same ranges
 * before, and not released, is kept: a retry need not fetch it again.
 */
void
sagg_reader_begin(SaggReader *reader, const SaggRange *ranges, int nranges)
{
	if (same_ranges(reader, ranges, nranges) && sagg_batch_usable(reader->batch))
		return;
	sagg_reader_release(reader);
	if (nranges == 0)
		return;

	sagg_reader_assign(reader, ranges, nranges);
	if (collected_without_headers(reader))
		sagg_reader_assign_all(reader);
	reader->ranges = MemoryContextAlloc(reader->memory, sizeof(SaggRange) * nranges);
	memcpy(reader->ranges, ranges, sizeof(SaggRange) * nranges);
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
 * The batch collected; the reader's, until sagg_reader_release or the next
 * sagg_reader_begin.
 */
SaggBatch *
sagg_reader_batch(SaggReader *reader)
{
	return reader->batch;
}

/*
 * Done with the batch: free its records.  The reader stands behind them.
 */
void
sagg_reader_release(SaggReader *reader)
{
	sagg_collector_halt(reader);
	sagg_batch_reset(reader->batch);
	sagg_reader_forget_losses(reader);
	for (int i = 0; i < reader->npartitions; i++)
	{
		reader->partitions[i]->range_end = -1;
		reader->partitions[i]->complete = false;
	}
	if (reader->ranges)
		pfree(reader->ranges);
	reader->ranges = NULL;
	reader->nranges = 0;
}

/*
 * Keep the headers of records, of a batch at hand too: it is collected anew.
 */
void
sagg_reader_keep_headers(SaggReader *reader)
{
	sagg_batch_keep_headers(reader->batch);
}
