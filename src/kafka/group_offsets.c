/*-------------------------------------------------------------------------
 *
 * group_offsets.c
 *	  Commits a stream's offsets to a consumer group, for Kafka's own tools:
 *	  after each commit of a micro-batch, if the stream has such a group.
 *
 * They serve to monitor the group's lag.  Nothing ever reads them back: a
 * stream continues from its checkpoint (I1).  So they may lag behind, and a
 * failure to commit them is only a warning, from time to time.
 *
 * Only one commit is in progress at a time.  Later offsets go with the next
 * one, and so do those that could not be committed.  Results come by a queue
 * of their own, which does not wake the process; between batches the worker
 * polls it as long as a commit is in progress or has to be repeated.
 *
 * The request is an administrator's, not a consumer's commit: a client that is
 * closed waits for the latter, for a minute if a broker is silent.
 *
 * Nothing here waits or raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "kafka_internal.h"

/* a request counts as failed after this time */
#define REQUEST_MS			10000

/* how long to sleep before polling for the result */
#define RESULT_MS			1000

/* pause after a failure; doubles up to the second value */
#define FIRST_RETRY_MS		1000
#define LAST_RETRY_MS		60000

#define WARNING_INTERVAL_MS	60000

typedef struct SaggGroupOffsets
{
	char	   *name;
	char	   *stream;			/* name of the stream, for messages */
	rd_kafka_queue_t *results;	/* NULL while there is no client */
	bool		under_way;
	bool		due;			/* "positions" are not committed yet */
	int			failures;		/* failures since the last success */
	TimestampTz not_before;		/* time of the next attempt */
	TimestampTz warned;
	int			npositions;
	int			size;			/* allocated length */
	SaggRange  *positions;
} SaggGroupOffsets;

/*
 * Set the group that sagg_kafka_commit commits to; NULL for none.  Called
 * before the first assignment.  "stream" is for messages.  Allocates in the
 * reader's memory.
 */
void
sagg_kafka_set_group(SaggReader *base, const char *group, const char *stream)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	if (group == NULL)
		return;
	reader->group = MemoryContextAllocZero(reader->base.memory, sizeof(SaggGroupOffsets));
	reader->group->name = MemoryContextStrdup(reader->base.memory, group);
	reader->group->stream = MemoryContextStrdup(reader->base.memory, stream);
}

/*
 * The fetching client has been made.
 */
void
sagg_group_attach(SaggKafkaReader *reader)
{
	if (reader->group)
		reader->group->results = rd_kafka_queue_new(reader->fetch->rk);
}

/*
 * The fetching client is about to be closed.  Raises no error.
 */
void
sagg_group_detach(SaggKafkaReader *reader)
{
	SaggGroupOffsets *group = reader->group;
	rd_kafka_event_t *event;

	if (group == NULL || group->results == NULL)
		return;
	while ((event = rd_kafka_queue_poll(group->results, 0)) != NULL)
		rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(group->results);
	group->results = NULL;
	group->under_way = false;
}

/*
 * The offsets could not be committed: try them again with the next ones, or
 * later.
 */
static void
note_failure(SaggGroupOffsets *group, rd_kafka_resp_err_t err)
{
	TimestampTz now = GetCurrentTimestamp();

	group->due = true;
	group->not_before =
		TimestampTzPlusMilliseconds(now, Min((int64) FIRST_RETRY_MS << Min(group->failures, 20),
											 LAST_RETRY_MS));
	group->failures++;
	if (group->warned != 0 &&
		!TimestampDifferenceExceeds(group->warned, now, WARNING_INTERVAL_MS))
		return;
	group->warned = now;
	ereport(WARNING,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("stream \"%s\" could not commit its offsets to consumer group \"%s\"",
					group->stream, group->name),
			 errdetail_internal("%s.", rd_kafka_err2str(err)),
			 errhint("The stream does not need them; only the lag that Kafka's tools show for the group is wrong.")));
}

static rd_kafka_resp_err_t
result_of(rd_kafka_event_t *event)
{
	const rd_kafka_AlterConsumerGroupOffsets_result_t *result =
	rd_kafka_event_AlterConsumerGroupOffsets_result(event);
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const rd_kafka_group_result_t **groups;
	const rd_kafka_topic_partition_list_t *list;
	size_t		ngroups;

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR || result == NULL)
		return err;
	groups = rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &ngroups);
	if (ngroups == 0)
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	if (rd_kafka_group_result_error(groups[0]))
		return rd_kafka_error_code(rd_kafka_group_result_error(groups[0]));
	list = rd_kafka_group_result_partitions(groups[0]);
	for (int i = 0; list && i < list->cnt && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		err = list->elems[i].err;
	return err;
}

static void
take_results(SaggGroupOffsets *group)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(group->results, 0)) != NULL)
	{
		rd_kafka_resp_err_t err = result_of(event);

		rd_kafka_event_destroy(event);
		group->under_way = false;
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			note_failure(group, err);
		else
			group->failures = 0;
	}
}

/*
 * Send a request to commit "list" for the group.
 */
static void
send_request(SaggKafkaReader *reader, const rd_kafka_topic_partition_list_t *list)
{
	rd_kafka_t *rk = reader->fetch->rk;
	rd_kafka_AlterConsumerGroupOffsets_t *request =
	rd_kafka_AlterConsumerGroupOffsets_new(reader->group->name, list);
	rd_kafka_AdminOptions_t *options =
	rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS);
	char		reason[256];

	(void) rd_kafka_AdminOptions_set_request_timeout(options, REQUEST_MS,
													 reason, sizeof(reason));
	rd_kafka_AlterConsumerGroupOffsets(rk, &request, 1, options, reader->group->results);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_AlterConsumerGroupOffsets_destroy(request);
}

/*
 * Commit the positions, unless a commit is in progress or has just failed.
 */
static void
commit_positions(SaggKafkaReader *reader)
{
	SaggGroupOffsets *group = reader->group;
	rd_kafka_topic_partition_list_t *list;

	if (!group->due || group->under_way || GetCurrentTimestamp() < group->not_before)
		return;
	list = rd_kafka_topic_partition_list_new(group->npositions);
	for (int i = 0; i < group->npositions; i++)
		rd_kafka_topic_partition_list_add(list, sagg_topic_name(group->positions[i].topic),
										  group->positions[i].partition)->offset =
			group->positions[i].start;
	send_request(reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	group->due = false;
	group->under_way = true;
}

/*
 * The stream has committed the starts of these positions.  Without a group
 * there is nothing to do.  Allocates, so it is called after publishing (I3); a
 * failure only makes the group lag.
 */
void
sagg_kafka_commit(SaggReader *base, const SaggRange *positions, int npositions)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	SaggGroupOffsets *group = reader->group;

	if (group == NULL || group->results == NULL)
		return;
	if (npositions > group->size)
	{
		SaggRange  *grown = MemoryContextAllocExtended(reader->base.memory,
													   sizeof(SaggRange) * npositions,
													   MCXT_ALLOC_NO_OOM);

		if (grown == NULL)
			return;
		if (group->positions)
			pfree(group->positions);
		group->positions = grown;
		group->size = npositions;
	}
	memcpy(group->positions, positions, sizeof(SaggRange) * npositions);
	group->npositions = npositions;
	group->due = npositions > 0;
	take_results(group);
	commit_positions(reader);
}

/*
 * Between batches: check the result of the last commit, and repeat it if it
 * has failed.  Returns how many of "timeout_ms" to sleep before calling this
 * again.
 */
long
sagg_kafka_tend_group(SaggReader *base, long timeout_ms)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	SaggGroupOffsets *group = reader->group;

	if (group == NULL || group->results == NULL)
		return timeout_ms;
	take_results(group);
	commit_positions(reader);
	if (group->under_way)
		return Min(timeout_ms, RESULT_MS);
	if (group->due)
		return Min(timeout_ms,
				   Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														  group->not_before)));
	return timeout_ms;
}
