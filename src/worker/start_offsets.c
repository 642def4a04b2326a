/*-------------------------------------------------------------------------
 *
 * start_offsets.c
 *	  A stream's first contact with its topic: from which offsets it reads.
 *
 * What create_stream or reset_stream were told (define/starting_offsets.c) is
 * made into an offset for each partition once, and written to
 * stream_agg.sources before anything is planned: later sessions, and a retry
 * after a crash, begin at the very same offsets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "define/define.h"
#include "worker_internal.h"

/*
 * The range of a partition, or NULL.
 */
SaggRange *
sagg_range_of(SaggRange *ranges, int nranges, int32 partition)
{
	for (int i = 0; i < nranges; i++)
	{
		if (ranges[i].partition == partition)
			return &ranges[i];
	}
	return NULL;
}

/*
 * Add a partition to the stream's positions, in order.
 */
void
sagg_session_add_position(SaggSession *session, int32 partition, int64 start)
{
	SaggProgress *progress = session->progress;
	int			i;

	if (progress->npositions >= sagg_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("topic \"%s\" has more than %d partitions",
						sagg_reader_topic(session->reader), sagg_max_partitions),
				 errhint("Increase stream_agg.max_partitions.")));
	if (progress->npositions == 0)
		progress->positions = MemoryContextAlloc(session->memory, sizeof(SaggRange));
	else
		progress->positions = repalloc(progress->positions,
									   sizeof(SaggRange) * (progress->npositions + 1));
	for (i = progress->npositions; i > 0 &&
		 progress->positions[i - 1].partition > partition; i--)
		progress->positions[i] = progress->positions[i - 1];
	progress->positions[i].partition = partition;
	progress->positions[i].start = progress->positions[i].end = start;
	progress->npositions++;
}

/*
 * Offsets named by the user, into those that Kafka has; "bounds" is one
 * partition's, whose start they become.
 */
static void
apply_named_offsets(SaggSession *session, const SaggStart *start,
					SaggRange *bounds, int nbounds)
{
	for (int i = 0; i < start->noffsets; i++)
	{
		const SaggRange *named = &start->offsets[i];
		SaggRange  *bound = sagg_range_of(bounds, nbounds, named->partition);

		if (bound == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_OFFSETS_GONE),
					 errmsg("starting_offsets name partition %d, which topic \"%s\" does not have",
							named->partition, sagg_reader_topic(session->reader)),
					 errdetail("The topic has partitions 0 to %d.", nbounds - 1),
					 errhint("Use stream_agg.reset_stream to name others, then start the stream.")));
		if (named->start == SAGG_OFFSET_LATEST)
			bound->start = bound->end;
		else if (named->start != SAGG_OFFSET_EARLIEST)
			bound->start = named->start;
	}
}

/*
 * Where a stream that has not begun would begin; in the session's memory.
 * Waits for Kafka.
 */
static SaggOrigin *
first_offsets(SaggSession *session)
{
	SaggReader *reader = session->reader;
	SaggStart  *start = sagg_starting_offsets(session->stream->starting_offsets);
	SaggOrigin *first = palloc0(sizeof(SaggOrigin));
	int			nbounds;
	SaggRange  *bounds = sagg_reader_bounds(reader, &nbounds);

	switch (start->kind)
	{
		case SAGG_START_EARLIEST:
			break;
		case SAGG_START_LATEST:
			for (int i = 0; i < nbounds; i++)
				bounds[i].start = bounds[i].end;
			break;
		case SAGG_START_OFFSETS:
			apply_named_offsets(session, start, bounds, nbounds);
			break;
		case SAGG_START_TIME:
			sagg_reader_offsets_at(reader, start->time, bounds, nbounds);
			break;
	}
	for (int i = 0; i < nbounds; i++)
		bounds[i].end = bounds[i].start;
	first->topic = pstrdup(sagg_reader_topic(reader));
	first->cluster_id = pstrdup(sagg_reader_cluster_id(reader));
	first->noffsets = nbounds;
	first->offsets = bounds;
	return first;
}

/*
 * The stream's origin, if it has one: is that the topic and the cluster the
 * source reads now?
 */
static SaggOrigin *
known_origin(SaggSession *session, const char *cluster_id)
{
	const char *topic = sagg_reader_topic(session->reader);
	SaggOrigin *origin;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->memory);
	origin = sagg_checkpoint_origin(session->checkpoint);
	if (origin->topic && strcmp(origin->topic, topic) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("the source now reads topic \"%s\", the stream has read topic \"%s\"",
						topic, origin->topic),
				 errhint("Set the source's option topic back, or use stream_agg.reset_stream to read the other.")));
	if (origin->cluster_id && strcmp(origin->cluster_id, cluster_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
				 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
						cluster_id, origin->cluster_id),
				 errdetail("Offsets of one cluster mean nothing in another."),
				 errhint("Point the server's brokers at the former cluster, or use stream_agg.reset_stream to read the other.")));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);
	return origin;
}

static void
record_origin(SaggSession *session, const SaggOrigin *origin)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	sagg_checkpoint_set_origin(session->checkpoint, origin);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);
}

/*
 * First contact of a stream with its topic: which cluster, from which offsets.
 * In later sessions: is it still that cluster?  Waits for Kafka.
 */
void
sagg_session_origin(SaggSession *session)
{
	SaggProgress *progress = session->progress;
	const char *cluster_id = sagg_reader_cluster_id(session->reader);
	SaggOrigin *origin = known_origin(session, cluster_id);

	if (origin->topic == NULL)
	{
		origin = first_offsets(session);
		record_origin(session, origin);
	}
	for (int i = 0; i < origin->noffsets; i++)
	{
		const SaggRange *first = &origin->offsets[i];

		if (!sagg_range_of(progress->positions, progress->npositions, first->partition))
			sagg_session_add_position(session, first->partition, first->start);
	}
}
