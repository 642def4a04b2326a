/*-------------------------------------------------------------------------
 *
 * topic_query.c
 *	  Questions of a reader to Kafka: which cluster, which partitions, from
 *	  and to which offset.
 *
 * They wait up to stream_agg.kafka_timeout, in slices short enough to serve
 * interrupts, and then raise connection_failure with what librdkafka reported
 * last.  Except at the start nothing is asked without need: an idle stream
 * asks once in PARTITIONS_CHECK_MS whether there are new partitions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "reader_internal.h"

/* pause after an answer that is of no use yet */
#define PAUSE_MS				100

#define PARTITIONS_CHECK_MS		30000

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
										reader->topic, release_asks, reader);
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
	if (client->refused || GetCurrentTimestamp() >= until)
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
check_topic_error(SaggReader *reader, rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("topic \"%s\" does not exist in the Kafka cluster",
							reader->topic)));
			break;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("Kafka does not permit reading topic \"%s\"",
							reader->topic)));
			break;
		default:
			break;
	}
}

/*
 * One attempt to learn the number of partitions.
 */
static rd_kafka_resp_err_t
ask_partitions(SaggReader *reader, int timeout_ms, int *npartitions)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;

	*npartitions = 0;
	err = rd_kafka_metadata(reader->asks->rk, 0, reader->asks->topic, &metadata,
							timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return err;
	err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	if (metadata->topic_cnt == 1)
	{
		err = metadata->topics[0].err;
		*npartitions = metadata->topics[0].partition_cnt;
	}
	rd_kafka_metadata_destroy(metadata);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && *npartitions == 0)
		err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	return err;
}

static int
wait_for_partitions(SaggReader *reader, TimestampTz until)
{
	int			npartitions;

	for (;;)
	{
		rd_kafka_resp_err_t err = ask_partitions(reader, sagg_reader_slice(until), &npartitions);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		check_topic_error(reader, err);
		before_next_attempt(reader, until, err);
	}
	reader->asks->trouble[0] = '\0';
	reader->known_partitions = npartitions;
	reader->other_partitions = false;
	reader->partitions_checked = GetCurrentTimestamp();
	return npartitions;
}

/*
 * Until a broker has answered anything at all: the topic need not be there.
 */
static void
wait_for_broker(SaggReader *reader, TimestampTz until)
{
	for (;;)
	{
		int			npartitions;
		rd_kafka_resp_err_t err = ask_partitions(reader, sagg_reader_slice(until), &npartitions);

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
	char	   *id;

	if (reader->cluster_id)
		return reader->cluster_id;
	sagg_reader_open_asks(reader);
	until = sagg_reader_deadline(reader);

	wait_for_broker(reader, until);
	while ((id = rd_kafka_clusterid(reader->asks->rk, sagg_reader_slice(until))) == NULL)
		before_next_attempt(reader, until, RD_KAFKA_RESP_ERR__TIMED_OUT);
	reader->waiting_since = 0;
	reader->cluster_id = MemoryContextStrdup(reader->memory, id);
	rd_kafka_mem_free(reader->asks->rk, id);
	return reader->cluster_id;
}

/*
 * One attempt to learn the first or the last offset of all partitions, or the
 * first of a time in ms: one request per broker, whatever the number of
 * partitions.  Where no record is of that time or later it is
 * RD_KAFKA_OFFSET_END.
 */
static rd_kafka_resp_err_t
ask_offsets(SaggReader *reader, int64 which, int timeout_ms,
			int npartitions, int64 *offsets)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(npartitions);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < npartitions; i++)
		rd_kafka_topic_partition_list_add(list, reader->topic, i)->offset = which;
	err = rd_kafka_offsets_for_times(reader->asks->rk, list, timeout_ms);
	for (int i = 0; i < npartitions && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		err = list->elems[i].err;
		offsets[list->elems[i].partition] = list->elems[i].offset;
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR && list->elems[i].offset < 0 &&
			!(which >= 0 && list->elems[i].offset == RD_KAFKA_OFFSET_END))
			err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	}
	rd_kafka_topic_partition_list_destroy(list);
	return err;
}

static void
wait_for_offsets(SaggReader *reader, int64 which, TimestampTz until,
				 int npartitions, int64 *offsets)
{
	for (;;)
	{
		rd_kafka_resp_err_t err = ask_offsets(reader, which, sagg_reader_slice(until),
											  npartitions, offsets);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
			check_topic_error(reader, err);
		before_next_attempt(reader, until, err);
	}
}

/*
 * For every partition of the topic, ascending, the first offset that exists
 * and the end: where the next record goes, or with the default isolation
 * level, where the first open transaction begins.  Allocated in the current
 * context.  Waits.  Raises undefined_object if there is no such topic.
 */
SaggRange *
sagg_reader_bounds(SaggReader *reader, int *npartitions)
{
	TimestampTz until = sagg_reader_deadline(reader);
	SaggRange  *bounds;
	int64	   *low;
	int64	   *high;
	int			n;

	sagg_reader_open_asks(reader);
	n = wait_for_partitions(reader, until);
	bounds = palloc(sizeof(SaggRange) * n);
	low = palloc(sizeof(int64) * n);
	high = palloc(sizeof(int64) * n);

	/* in this order the end is never before the start */
	wait_for_offsets(reader, RD_KAFKA_OFFSET_BEGINNING, until, n, low);
	wait_for_offsets(reader, RD_KAFKA_OFFSET_END, until, n, high);
	for (int i = 0; i < n; i++)
	{
		bounds[i].partition = i;
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
	*npartitions = n;
	return bounds;
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

	sagg_reader_open_asks(reader);
	wait_for_offsets(reader, (time - epoch + 999) / 1000, sagg_reader_deadline(reader), nbounds, offsets);

	/* the ends were asked for before, so no record is between the two */
	for (int i = 0; i < nbounds; i++)
		bounds[i].start = offsets[bounds[i].partition] >= 0 ?
			Max(bounds[i].start, offsets[bounds[i].partition]) : bounds[i].end;
	pfree(offsets);
}

/*
 * Has the topic other partitions than at the last sagg_reader_bounds?  Asks
 * once in PARTITIONS_CHECK_MS, for a second at most; at other times, and
 * without an answer, it returns false.
 */
bool
sagg_reader_partitions_changed(SaggReader *reader)
{
	TimestampTz now;
	int			npartitions;

	if (reader->known_partitions == 0 || reader->other_partitions)
		return reader->other_partitions;
	now = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(reader->partitions_checked, now,
									PARTITIONS_CHECK_MS))
		return false;
	reader->partitions_checked = now;
	sagg_reader_open_asks(reader);
	for (int i = 0; i < PARTITIONS_ATTEMPTS; i++)
	{
		if (ask_partitions(reader, SAGG_KAFKA_SLICE_MS,
						   &npartitions) == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			reader->other_partitions = npartitions != reader->known_partitions;
			break;
		}
		CHECK_FOR_INTERRUPTS();
	}
	return reader->other_partitions;
}
