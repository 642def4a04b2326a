/*-------------------------------------------------------------------------
 *
 * topic_query.c
 *	  Questions of a reader to Kafka: which cluster, which topics and
 *	  partitions, from and to which offset.
 *
 * They wait up to stream_agg.kafka_timeout, in slices short enough to serve
 * interrupts, and then raise connection_failure with what librdkafka reported
 * last.  Except at the start nothing is asked without need: an idle stream
 * asks once in PARTITIONS_CHECK_MS whether there are new partitions or topics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "reader_internal.h"

/* pause after an answer that is of no use yet */
#define PAUSE_MS				100

#define PARTITIONS_CHECK_MS		30000

/* of these at once librdkafka asks; its time is quadratic in their number */
#define ASK_PARTITIONS			1000

/* see sagg_reader_rest */
#define REST_AFTER_MS			5000

/* of sagg_reader_partitions_changed, each of SAGG_KAFKA_SLICE_MS */
#define PARTITIONS_ATTEMPTS		2

/*
 * Have "check" called with "arg" whenever a function that waits has waited
 * SAGG_KAFKA_SLICE_MS: it may raise an error or end the process.
 */
void
sagg_reader_on_wait(SaggReader *reader, void (*check) (void *arg), void *arg)
{
	reader->check = check;
	reader->check_arg = arg;
}

static void
serve_interrupts(SaggReader *reader)
{
	CHECK_FOR_INTERRUPTS();
	if (reader->check)
		reader->check(reader->check_arg);
}

/*
 * From now on an answer is waited for; returns until when.
 */
TimestampTz
sagg_reader_deadline(SaggReader *reader)
{
	reader->waiting_since = GetCurrentTimestamp();
	return TimestampTzPlusMilliseconds(reader->waiting_since, sagg_kafka_timeout_ms);
}

static void
release_asks(void *owner)
{
	SaggReader *reader = (SaggReader *) owner;

	reader->asks = NULL;
}

/*
 * Make sure that there is a client to ask.
 */
void
sagg_reader_open_asks(SaggReader *reader)
{
	reader->asked = GetCurrentTimestamp();
	if (reader->asks == NULL)
		reader->asks = sagg_client_open(RD_KAFKA_CONSUMER,
										rd_kafka_conf_dup(reader->conf),
										reader->topics->names, reader->topics->nnames,
										release_asks, reader);
}

/*
 * Nothing will be asked for a while, perhaps: let go of a client that nothing
 * has been asked of for some time, for every client of librdkafka costs a
 * millisecond of CPU a second.  "interval_ms" is how often questions come when
 * there is something to do.  Returns for how many of "timeout_ms" to sleep
 * before it is time to call this again.
 */
long
sagg_reader_rest(SaggReader *reader, long interval_ms, long timeout_ms)
{
	TimestampTz now;
	TimestampTz until;

	if (reader->asks == NULL)
		return timeout_ms;
	now = GetCurrentTimestamp();
	until = TimestampTzPlusMilliseconds(reader->asked,
										Max(REST_AFTER_MS, 2 * interval_ms));
	if (now < until)
		return Min(timeout_ms,
				   Max(1, TimestampDifferenceMilliseconds(now, until)));
	sagg_client_close(reader->asks);
	return timeout_ms;
}

/*
 * An attempt of "client" to get an answer failed with "err": raise an error if
 * it is time to give up, else return when the next attempt makes sense.
 */
void
sagg_reader_before_attempt(SaggReader *reader, SaggClient *client,
						   TimestampTz until, rd_kafka_resp_err_t err)
{
	serve_interrupts(reader);
	sagg_client_serve(client);
	if (client->refused || GetCurrentTimestamp() >= until ||
		sagg_reader_is_hopeless(reader, client))
		sagg_reader_raise_no_answer(reader, client, err);
	if (err != RD_KAFKA_RESP_ERR__TIMED_OUT)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PAUSE_MS, SAGG_WAIT_EVENT("StreamAggKafka"));
		ResetLatch(MyLatch);
		serve_interrupts(reader);
	}
}

static void
before_next_attempt(SaggReader *reader, TimestampTz until, rd_kafka_resp_err_t err)
{
	sagg_reader_before_attempt(reader, reader->asks, until, err);
}

/*
 * For how long to wait at once, in milliseconds.
 */
int
sagg_reader_slice(TimestampTz until)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

	return (int) Max(1, Min(left, SAGG_KAFKA_SLICE_MS));
}

/*
 * The error of a topic in an answer: raised if waiting does not help.
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
is_known(const SaggReader *reader, const char *name)
{
	for (int i = 0; i < reader->nknown; i++)
	{
		if (strcmp(sagg_topic_name(reader->known[i].topic), name) == 0)
			return true;
	}
	return false;
}

/*
 * Is a topic of an answer one that the reader is to read now?  A topic that
 * matches a pattern and has just been made, and is not complete yet, will be
 * there the next time.
 */
static bool
wanted(const SaggReader *reader, const rd_kafka_metadata_topic_t *topic)
{
	if (!sagg_topics_include(reader->topics, topic->topic))
		return false;
	if (reader->topics->pattern == NULL)
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
 * The topics of an answer that are the reader's.  An error is that of "*topic".
 */
static rd_kafka_resp_err_t
take_topics(SaggReader *reader, const struct rd_kafka_metadata *metadata,
			SaggKnownTopic *found, int *nfound, int32 *topic)
{
	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		const rd_kafka_metadata_topic_t *t = &metadata->topics[i];

		/* a pattern may be for names of any topics */
		if (reader->topics->pattern)
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
	if (*nfound < reader->topics->nnames)
		return RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	qsort(found, *nfound, sizeof(SaggKnownTopic), compare_known);
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/*
 * One attempt to learn the topics there are and their partitions: by one
 * request, whatever their number.  They are allocated in the current context.
 * An error is that of "*topic", unless that is -1.
 */
static rd_kafka_resp_err_t
ask_topics(SaggReader *reader, int timeout_ms, SaggKnownTopic **found,
		   int *nfound, int32 *topic)
{
	const SaggTopics *topics = reader->topics;
	MemoryContext memory = CurrentMemoryContext;
	MemoryContext matching;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;

	*nfound = 0;
	*topic = -1;
	err = rd_kafka_metadata(reader->asks->rk, topics->pattern != NULL,
							topics->one ? reader->asks->topics[0] : NULL,
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
 * Wait for the topics there are; returns the number of their partitions.  Raises
 * configuration_limit_exceeded if that is more than stream_agg.max_partitions.
 */
static int
wait_for_topics(SaggReader *reader, TimestampTz until)
{
	SaggKnownTopic *found;
	int			nfound;
	int64		npartitions = 0;
	int32		topic;

	for (;;)
	{
		MemoryContext old = MemoryContextSwitchTo(reader->memory);
		rd_kafka_resp_err_t err;

		found = NULL;
		err = ask_topics(reader, sagg_reader_slice(until), &found, &nfound, &topic);
		MemoryContextSwitchTo(old);
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (found)
			pfree(found);
		if (topic >= 0)
			check_topic_error(sagg_topic_name(topic), err);
		before_next_attempt(reader, until, err);
	}
	reader->asks->trouble[0] = '\0';
	reader->asks->down_since = 0;
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
						sagg_max_partitions, reader->topics->subject),
				 errhint("Increase stream_agg.max_partitions.")));
	return (int) npartitions;
}

/*
 * Until a broker has answered anything at all: the topics need not be there.
 */
static void
wait_for_broker(SaggReader *reader, TimestampTz until)
{
	for (;;)
	{
		SaggKnownTopic *found = NULL;
		int			nfound;
		int32		topic;
		rd_kafka_resp_err_t err = ask_topics(reader, sagg_reader_slice(until),
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
 * The id of the cluster the brokers belong to; the reader's memory.  Waits.
 */
const char *
sagg_reader_cluster_id(SaggReader *reader)
{
	TimestampTz until;
	char	   *volatile id;

	if (reader->cluster_id)
		return reader->cluster_id;
	sagg_reader_open_asks(reader);
	until = sagg_reader_deadline(reader);

	wait_for_broker(reader, until);
	while ((id = rd_kafka_clusterid(reader->asks->rk, sagg_reader_slice(until))) == NULL)
		before_next_attempt(reader, until, RD_KAFKA_RESP_ERR__TIMED_OUT);
	reader->waiting_since = 0;
	PG_TRY();
	{
		sagg_check_cluster_id(id);
		reader->cluster_id = MemoryContextStrdup(reader->memory, id);
	}
	PG_FINALLY();
	{
		rd_kafka_mem_free(reader->asks->rk, id);
	}
	PG_END_TRY();
	return reader->cluster_id;
}

/*
 * One attempt to learn the first or the last offset of partitions, or the first
 * of a time in ms: one request per broker, whatever their number.  Where no
 * record is of that time or later it is RD_KAFKA_OFFSET_END.  An error is that
 * of "*topic".
 */
static rd_kafka_resp_err_t
ask_offsets(SaggReader *reader, int64 which, int timeout_ms,
			const SaggRange *bounds, int n, int64 *offsets, int32 *topic)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
	rd_kafka_resp_err_t err;

	*topic = -1;
	for (int i = 0; i < n; i++)
		rd_kafka_topic_partition_list_add(list, sagg_topic_name(bounds[i].topic),
										  bounds[i].partition)->offset = which;
	err = rd_kafka_offsets_for_times(reader->asks->rk, list, timeout_ms);
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
wait_for_some_offsets(SaggReader *reader, int64 which, TimestampTz until,
					  const SaggRange *bounds, int n, int64 *offsets)
{
	int32		topic;

	for (;;)
	{
		rd_kafka_resp_err_t err = ask_offsets(reader, which, sagg_reader_slice(until),
											  bounds, n, offsets, &topic);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED && topic >= 0)
			check_topic_error(sagg_topic_name(topic), err);
		before_next_attempt(reader, until, err);
	}
}

static void
wait_for_offsets(SaggReader *reader, int64 which, TimestampTz until,
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
 * For every partition of the source's topics, sorted, the first offset that
 * exists and the end: where the next record goes, or with the default isolation
 * level, where the first open transaction begins.  Allocated in the current
 * context.  Waits.  Raises undefined_object if a topic that the source names
 * does not exist; a pattern has those that do, which may be none.
 */
SaggRange *
sagg_reader_bounds(SaggReader *reader, int *npartitions)
{
	TimestampTz until = sagg_reader_deadline(reader);
	SaggRange  *bounds;
	int64	   *low;
	int64	   *high;
	int			total;
	int			n = 0;

	sagg_reader_open_asks(reader);
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

	/* all leaders have answered: what the other client reported is over */
	if (reader->fetch)
	{
		sagg_client_serve(reader->fetch);
		reader->fetch->trouble[0] = '\0';
	}
	return bounds;
}

static bool
same_topics(const SaggReader *reader, const SaggKnownTopic *found, int nfound)
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
 * Move the starts of "bounds", which are of sagg_reader_bounds, to the first
 * record whose timestamp is "time" (not before 1970) or later; to the end where
 * there is none.  Waits.
 */
void
sagg_reader_offsets_at(SaggReader *reader, TimestampTz time,
					   SaggRange *bounds, int nbounds)
{
	const int64 epoch = (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
	int64	   *offsets = palloc(sizeof(int64) * Max(nbounds, 1));

	if (nbounds == 0)
		return;
	sagg_reader_open_asks(reader);
	wait_for_offsets(reader, (time - epoch + 999) / 1000, sagg_reader_deadline(reader),
					 bounds, nbounds, offsets);

	/* the ends were asked for before, so no record is between the two */
	for (int i = 0; i < nbounds; i++)
		bounds[i].start = offsets[i] >= 0 ?
			Max(bounds[i].start, offsets[i]) : bounds[i].end;
	pfree(offsets);
}

/*
 * Has the source other topics, or other partitions, than at the last
 * sagg_reader_bounds?  Asks once in PARTITIONS_CHECK_MS, for a second at most;
 * at other times, and without an answer, it returns false.
 */
bool
sagg_reader_partitions_changed(SaggReader *reader)
{
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
	sagg_reader_open_asks(reader);
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
