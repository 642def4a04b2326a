/*-------------------------------------------------------------------------
 *
 * topic_query.c
 *	  Queries of a reader to Kafka: which cluster, which topics and partitions,
 *	  from and to which offset.
 *
 * They wait up to stream_agg.kafka_timeout, in slices short enough to serve
 * interrupts, and then raise connection_failure with what librdkafka reported
 * last.  After the start, queries are rare: an idle stream asks once in
 * PARTITIONS_CHECK_MS whether there are new partitions or topics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "kafka_internal.h"

/* pause after an answer that is not usable yet */
#define PAUSE_MS				100

#define PARTITIONS_CHECK_MS		30000

/*
 * number of partitions that librdkafka asks for at once; its time is quadratic
 * in that
 */
#define ASK_PARTITIONS			1000

/* see sagg_kafka_rest */
#define REST_AFTER_MS			5000

/* attempts of sagg_kafka_partitions_changed, each of SAGG_KAFKA_SLICE_MS */
#define PARTITIONS_ATTEMPTS		2

static void
serve_interrupts(SaggKafkaReader *reader)
{
	CHECK_FOR_INTERRUPTS();
	if (reader->base.check)
		reader->base.check(reader->base.check_arg);
}

/*
 * An answer is waited for from now on; returns until when.
 */
TimestampTz
sagg_kafka_deadline(SaggKafkaReader *reader)
{
	reader->waiting_since = GetCurrentTimestamp();
	return TimestampTzPlusMilliseconds(reader->waiting_since, sagg_kafka_timeout_ms);
}

static void
release_query_client(void *owner)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) owner;

	reader->query_client = NULL;
}

/*
 * Make sure that there is a query client.
 */
void
sagg_kafka_open_query_client(SaggKafkaReader *reader)
{
	reader->asked = GetCurrentTimestamp();
	if (reader->query_client == NULL)
		reader->query_client = sagg_client_open(RD_KAFKA_CONSUMER,
												rd_kafka_conf_dup(reader->conf),
												reader->base.topics->names, reader->base.topics->nnames,
												release_query_client, reader);
}

/*
 * The reader is idle, perhaps for a while: close a query client that has not
 * been used for some time, because every client of librdkafka costs a
 * millisecond of CPU per second. "interval_ms" is how often queries come when
 * there is something to do.  Returns how many of "timeout_ms" to sleep before
 * calling this again.
 */
long
sagg_kafka_rest(SaggReader *base, long interval_ms, long timeout_ms)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	TimestampTz now;
	TimestampTz until;

	if (reader->query_client == NULL)
		return timeout_ms;
	now = GetCurrentTimestamp();
	until = TimestampTzPlusMilliseconds(reader->asked,
										Max(REST_AFTER_MS, 2 * interval_ms));
	if (now < until)
		return Min(timeout_ms,
				   Max(1, TimestampDifferenceMilliseconds(now, until)));
	sagg_client_close(reader->query_client);
	return timeout_ms;
}

/*
 * An attempt of "client" to get an answer failed with "err": raises an error
 * if it is time to give up, otherwise waits before the next attempt.
 */
void
sagg_kafka_before_attempt(SaggKafkaReader *reader, SaggClient *client,
						  TimestampTz until, rd_kafka_resp_err_t err)
{
	serve_interrupts(reader);
	sagg_client_serve(client);
	if (client->rejected || GetCurrentTimestamp() >= until ||
		sagg_kafka_is_hopeless(reader, client))
		sagg_kafka_raise_no_answer(reader, client, err);
	if (err != RD_KAFKA_RESP_ERR__TIMED_OUT)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PAUSE_MS, SAGG_WAIT_EVENT("StreamAggKafka"));
		ResetLatch(MyLatch);
		serve_interrupts(reader);
	}
}

static void
before_next_attempt(SaggKafkaReader *reader, TimestampTz until, rd_kafka_resp_err_t err)
{
	sagg_kafka_before_attempt(reader, reader->query_client, until, err);
}

/*
 * Returns how long to wait at once, in milliseconds.
 */
int
sagg_kafka_slice(TimestampTz until)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

	return (int) Max(1, Min(left, SAGG_KAFKA_SLICE_MS));
}

/*
 * Handle the error of a topic in an answer: raises it if waiting does not
 * help.
 */
static void
check_topic_error(const char *topic, rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("topic \"%s\" does not exist in the Kafka cluster", topic),
					 errhint("Create it, or name another topic in the options of the foreign table.")));
			break;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("Kafka does not permit reading topic \"%s\"", topic)));
			break;
		default:
			break;
	}
}

static bool
is_known(const SaggKafkaReader *reader, const char *name)
{
	for (int i = 0; i < reader->nknown; i++)
	{
		if (strcmp(sagg_topic_name(reader->known[i].topic), name) == 0)
			return true;
	}
	return false;
}

/*
 * Returns whether the reader should read a topic of an answer now.  A topic
 * that matches a pattern and was just created, and is not complete yet, will
 * be there the next time.
 */
static bool
wanted(const SaggKafkaReader *reader, const rd_kafka_metadata_topic_t *topic)
{
	if (!sagg_topics_include(reader->base.topics, topic->topic))
		return false;
	if (reader->base.topics->pattern == NULL)
		return true;
	if (topic->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		topic->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
		return false;
	return !reader->asked_topics || is_known(reader, topic->topic) ||
		(topic->err == RD_KAFKA_RESP_ERR_NO_ERROR && topic->partition_cnt > 0);
}

static int
compare_known(const void *a, const void *b)
{
	return strcmp(sagg_topic_name(((const SaggKnownTopic *) a)->topic),
				  sagg_topic_name(((const SaggKnownTopic *) b)->topic));
}

/*
 * Take the reader's topics from an answer.  An error is that of "*topic".
 */
static rd_kafka_resp_err_t
take_topics(SaggKafkaReader *reader, const struct rd_kafka_metadata *metadata,
			SaggKnownTopic *found, int *nfound, int32 *topic)
{
	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		const rd_kafka_metadata_topic_t *t = &metadata->topics[i];

		/* a pattern may match names of any topics */
		if (reader->base.topics->pattern)
			sagg_check_topic_name(t->topic);
		if (!wanted(reader, t))
			continue;
		*topic = sagg_topic_number(t->topic);
		if (t->err != RD_KAFKA_RESP_ERR_NO_ERROR)
			return t->err;
		if (t->partition_cnt == 0)
			return RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
		found[*nfound].topic = *topic;
		found[(*nfound)++].npartitions = t->partition_cnt;
	}
	if (*nfound < reader->base.topics->nnames)
		return RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	qsort(found, *nfound, sizeof(SaggKnownTopic), compare_known);
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/*
 * Make one attempt to get the topics and their partitions: by one request,
 * whatever their number.  They are allocated in the current context.  An error
 * is that of "*topic", unless that is -1.
 */
static rd_kafka_resp_err_t
ask_topics(SaggKafkaReader *reader, int timeout_ms, SaggKnownTopic **found,
		   int *nfound, int32 *topic)
{
	const SaggTopics *topics = reader->base.topics;
	MemoryContext memory = CurrentMemoryContext;
	MemoryContext matching;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;

	*nfound = 0;
	*topic = -1;
	err = rd_kafka_metadata(reader->query_client->rk, topics->pattern != NULL,
							topics->one ? reader->query_client->topics[0] : NULL,
							&metadata, timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return err;

	matching = AllocSetContextCreate(memory, "stream_agg topics",
									 ALLOCSET_SMALL_SIZES);
	PG_TRY();
	{
		*found = palloc(sizeof(SaggKnownTopic) * Max(metadata->topic_cnt, 1));
		MemoryContextSwitchTo(matching);
		err = take_topics(reader, metadata, *found, nfound, topic);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(memory);
		MemoryContextDelete(matching);
		rd_kafka_metadata_destroy(metadata);
	}
	PG_END_TRY();
	return err;
}

/*
 * Wait for the list of topics; returns the number of their partitions.  Raises
 * configuration_limit_exceeded if that is more than stream_agg.max_partitions.
 */
static int
wait_for_topics(SaggKafkaReader *reader, TimestampTz until)
{
	SaggKnownTopic *found;
	int			nfound;
	int64		npartitions = 0;
	int32		topic;

	for (;;)
	{
		MemoryContext old = MemoryContextSwitchTo(reader->base.memory);
		rd_kafka_resp_err_t err;

		found = NULL;
		err = ask_topics(reader, sagg_kafka_slice(until), &found, &nfound, &topic);
		MemoryContextSwitchTo(old);
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (found)
			pfree(found);
		if (topic >= 0)
			check_topic_error(sagg_topic_name(topic), err);
		before_next_attempt(reader, until, err);
	}
	reader->query_client->trouble[0] = '\0';
	reader->query_client->down_since = 0;
	if (reader->known)
		pfree(reader->known);
	reader->known = found;
	reader->nknown = nfound;
	reader->asked_topics = true;
	reader->other_partitions = false;
	reader->partitions_checked = GetCurrentTimestamp();
	for (int i = 0; i < nfound; i++)
		npartitions += found[i].npartitions;
	if (npartitions > sagg_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("there are more than %d partitions of %s",
						sagg_max_partitions, reader->base.topics->subject),
				 errhint("Increase stream_agg.max_partitions.")));
	return (int) npartitions;
}

/*
 * Wait until a broker has answered anything at all: the topics need not exist.
 */
static void
wait_for_broker(SaggKafkaReader *reader, TimestampTz until)
{
	for (;;)
	{
		SaggKnownTopic *found = NULL;
		int			nfound;
		int32		topic;
		rd_kafka_resp_err_t err = ask_topics(reader, sagg_kafka_slice(until),
											 &found, &nfound, &topic);

		if (found)
			pfree(found);
		switch (err)
		{
			case RD_KAFKA_RESP_ERR_NO_ERROR:
			case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
			case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
			case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
				return;
			default:
				before_next_attempt(reader, until, err);
		}
	}
}

/*
 * Returns the id of the cluster that the brokers belong to; in the reader's
 * memory.  Waits.
 */
const char *
sagg_kafka_cluster_id(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	TimestampTz until;
	char	   *volatile id;

	if (reader->cluster_id)
		return reader->cluster_id;
	sagg_kafka_open_query_client(reader);
	until = sagg_kafka_deadline(reader);

	wait_for_broker(reader, until);
	while ((id = rd_kafka_clusterid(reader->query_client->rk, sagg_kafka_slice(until))) == NULL)
		before_next_attempt(reader, until, RD_KAFKA_RESP_ERR__TIMED_OUT);
	reader->waiting_since = 0;
	PG_TRY();
	{
		sagg_check_cluster_id(id);
		reader->cluster_id = MemoryContextStrdup(reader->base.memory, id);
	}
	PG_FINALLY();
	{
		rd_kafka_mem_free(reader->query_client->rk, id);
	}
	PG_END_TRY();
	return reader->cluster_id;
}

/*
 * Make one attempt to get the first or the last offset of partitions, or the
 * first of a time in ms: one request per broker, whatever their number.  Where
 * no record has that time or a later one, it is RD_KAFKA_OFFSET_END.  An error
 * is that of "*topic".
 */
static rd_kafka_resp_err_t
ask_offsets(SaggKafkaReader *reader, int64 which, int timeout_ms,
			const SaggRange *bounds, int n, int64 *offsets, int32 *topic)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
	rd_kafka_resp_err_t err;

	*topic = -1;
	for (int i = 0; i < n; i++)
		rd_kafka_topic_partition_list_add(list, sagg_topic_name(bounds[i].topic),
										  bounds[i].partition)->offset = which;
	err = rd_kafka_offsets_for_times(reader->query_client->rk, list, timeout_ms);
	for (int i = 0; i < n && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		const char *name = sagg_topic_name(bounds[i].topic);
		rd_kafka_topic_partition_t *answer = &list->elems[i];

		/* librdkafka promises no order */
		if (answer->partition != bounds[i].partition ||
			strcmp(answer->topic, name) != 0)
			answer = rd_kafka_topic_partition_list_find(list, name, bounds[i].partition);
		*topic = bounds[i].topic;
		err = answer->err;
		offsets[i] = answer->offset;
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR && answer->offset < 0 &&
			!(which >= 0 && answer->offset == RD_KAFKA_OFFSET_END))
			err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	}
	rd_kafka_topic_partition_list_destroy(list);
	return err;
}

static void
wait_for_some_offsets(SaggKafkaReader *reader, int64 which, TimestampTz until,
					  const SaggRange *bounds, int n, int64 *offsets)
{
	int32		topic;

	for (;;)
	{
		rd_kafka_resp_err_t err = ask_offsets(reader, which, sagg_kafka_slice(until),
											  bounds, n, offsets, &topic);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED && topic >= 0)
			check_topic_error(sagg_topic_name(topic), err);
		before_next_attempt(reader, until, err);
	}
}

static void
wait_for_offsets(SaggKafkaReader *reader, int64 which, TimestampTz until,
				 const SaggRange *bounds, int n, int64 *offsets)
{
	for (int i = 0; i < n; i += ASK_PARTITIONS)
	{
		serve_interrupts(reader);
		wait_for_some_offsets(reader, which, until, &bounds[i],
							  Min(n - i, ASK_PARTITIONS), &offsets[i]);
	}
}

/*
 * Returns, for every partition of the source's topics, sorted, the first
 * offset that exists and the end: where the next record goes, or with the
 * default isolation level, where the first open transaction begins.  Allocated
 * in the current context.  Waits.  Raises undefined_object if a topic that the
 * source names does not exist; a pattern matches those that do, which may be
 * none.
 */
SaggRange *
sagg_kafka_bounds(SaggReader *base, int *npartitions)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	TimestampTz until = sagg_kafka_deadline(reader);
	SaggRange  *bounds;
	int64	   *low;
	int64	   *high;
	int			total;
	int			n = 0;

	sagg_kafka_open_query_client(reader);
	total = wait_for_topics(reader, until);
	bounds = palloc(sizeof(SaggRange) * Max(total, 1));
	for (int i = 0; i < reader->nknown; i++)
	{
		for (int j = 0; j < reader->known[i].npartitions; j++)
		{
			bounds[n].topic = reader->known[i].topic;
			bounds[n++].partition = j;
		}
	}
	*npartitions = n;
	if (n == 0)
	{
		reader->waiting_since = 0;
		return bounds;
	}

	/* in this order the end is never before the start */
	low = palloc(sizeof(int64) * n);
	high = palloc(sizeof(int64) * n);
	wait_for_offsets(reader, RD_KAFKA_OFFSET_BEGINNING, until, bounds, n, low);
	wait_for_offsets(reader, RD_KAFKA_OFFSET_END, until, bounds, n, high);
	for (int i = 0; i < n; i++)
	{
		bounds[i].start = low[i];
		bounds[i].end = Max(high[i], low[i]);
	}
	pfree(low);
	pfree(high);
	reader->waiting_since = 0;

	/*
	 * all leaders have answered: errors that the other client reported are
	 * over
	 */
	if (reader->fetch)
	{
		sagg_client_serve(reader->fetch);
		reader->fetch->trouble[0] = '\0';
	}
	return bounds;
}

static bool
same_topics(const SaggKafkaReader *reader, const SaggKnownTopic *found, int nfound)
{
	if (nfound != reader->nknown)
		return false;
	for (int i = 0; i < nfound; i++)
	{
		if (found[i].topic != reader->known[i].topic ||
			found[i].npartitions != reader->known[i].npartitions)
			return false;
	}
	return true;
}

/*
 * Move the starts of "bounds", which come from sagg_kafka_bounds, to the first
 * record whose timestamp is "time" (not before 1970) or later; to the end
 * where there is none.  Waits.
 */
void
sagg_kafka_offsets_at(SaggReader *base, TimestampTz time,
					  SaggRange *bounds, int nbounds)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	int64		ms = time / 1000 + (time % 1000 > 0) - SAGG_EPOCH_MS;	/* rounded up */
	int64	   *offsets = palloc(sizeof(int64) * Max(nbounds, 1));

	if (nbounds == 0)
		return;
	sagg_kafka_open_query_client(reader);
	wait_for_offsets(reader, ms, sagg_kafka_deadline(reader),
					 bounds, nbounds, offsets);

	/* the ends were queried before, so there is no record between the two */
	for (int i = 0; i < nbounds; i++)
		bounds[i].start = offsets[i] >= 0 ?
			Max(bounds[i].start, offsets[i]) : bounds[i].end;
	pfree(offsets);
}

/*
 * Returns whether the source has other topics, or other partitions, than at
 * the last sagg_kafka_bounds.  Asks once in PARTITIONS_CHECK_MS, for a second
 * at most; at other times, and without an answer, it returns false.
 */
bool
sagg_kafka_partitions_changed(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	TimestampTz now;
	SaggKnownTopic *found;
	int			nfound;
	int32		topic;

	if (!reader->asked_topics || reader->other_partitions)
		return reader->other_partitions;
	now = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(reader->partitions_checked, now,
									PARTITIONS_CHECK_MS))
		return false;
	reader->partitions_checked = now;
	sagg_kafka_open_query_client(reader);
	for (int i = 0; i < PARTITIONS_ATTEMPTS; i++)
	{
		found = NULL;
		if (ask_topics(reader, SAGG_KAFKA_SLICE_MS, &found, &nfound,
					   &topic) == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			reader->other_partitions = !same_topics(reader, found, nfound);
			pfree(found);
			break;
		}
		if (found)
			pfree(found);
		CHECK_FOR_INTERRUPTS();
	}
	return reader->other_partitions;
}
