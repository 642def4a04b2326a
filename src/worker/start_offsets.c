/*-------------------------------------------------------------------------
 *
 * start_offsets.c
 *	  A stream's first contact with its topics: the offsets it begins at; and
 *	  later, whether they are still the same topics.
 *
 * What create_stream or reset_stream were given (define/starting_offsets.c) becomes
 * an offset for each partition once, and is written to stream_agg.sources before
 * anything is planned: later processes, and a retry after a crash, begin at the same
 * offsets.
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
 * Add a partition to the run's positions, in order, if it is not there.  Returns
 * whether it was added.
 */
bool
sagg_run_add_position(SaggStreamRun *run, const SaggRange *first)
{
	SaggProgress *progress = run->progress;
	int			i;

	if (sagg_partition_find(progress->positions, progress->npositions, first))
		return false;
	if (progress->npositions >= sagg_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("there are more than %d partitions of %s",
						sagg_max_partitions, sagg_reader_subject(run->reading->reader)),
				 errhint("Increase stream_agg.max_partitions.")));
	if (progress->npositions == 0)
		progress->positions = MemoryContextAlloc(run->memory, sizeof(SaggRange));
	else
		progress->positions = repalloc(progress->positions,
									   sizeof(SaggRange) * (progress->npositions + 1));
	for (i = progress->npositions; i > 0 &&
		 sagg_partition_compare(&progress->positions[i - 1], first) > 0; i--)
		progress->positions[i] = progress->positions[i - 1];
	progress->positions[i] = *first;
	progress->positions[i].end = first->start;
	progress->npositions++;
	return true;
}

/*
 * Raise an error if a topic that the stream has read is not among "bounds".  A
 * pattern has the topics that exist, so nothing else would notice a missing one.
 */
void
sagg_run_check_topics(SaggStreamRun *run, const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = run->progress;

	for (int i = 0; i < progress->npositions; i++)
	{
		int32		topic = progress->positions[i].topic;

		if ((i > 0 && topic == progress->positions[i - 1].topic) ||
			sagg_topic_among(bounds, nbounds, topic))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist in the Kafka cluster",
						sagg_topic_name(topic)),
				 errdetail("The stream has read it.")));
	}
}

/*
 * Raise an error if the source does not have a topic any more that the stream has
 * read.
 */
static void
check_source(const SaggStreamRun *run, const SaggOrigin *origin)
{
	SaggReader *reader = run->reading->reader;
	const char *topic = sagg_reader_one_topic(reader);

	for (int i = 0; i < origin->noffsets; i++)
	{
		int32		read = origin->offsets[i].topic;

		if (sagg_reader_has_topic(reader, read))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 topic ?
				 errmsg("the source now reads topic \"%s\", the stream has read topic \"%s\"",
						topic, sagg_topic_name(read)) :
				 errmsg("the source does not read topic \"%s\" any more, which the stream has read",
						sagg_topic_name(read)),
				 errhint("Set the source's option %s back, or use stream_agg.reset_stream to read others.",
						 sagg_reader_topic_option(reader))));
	}
}

/*
 * Returns where a stream that has not begun begins, in the current context.  Waits
 * for the source.
 */
static SaggOrigin *
first_offsets(const SaggStreamRun *run)
{
	SaggReader *reader = run->reading->reader;
	SaggOrigin *first = palloc0(sizeof(SaggOrigin));
	int			nbounds;
	SaggRange  *bounds = sagg_first_ranges(reader, run->stream->starting_offsets,
										   &nbounds);

	for (int i = 0; i < nbounds; i++)
		bounds[i].end = bounds[i].start;
	if (sagg_reader_one_topic(reader))
		first->topic = pstrdup(sagg_reader_one_topic(reader));
	first->cluster_id = pstrdup(sagg_reader_cluster_id(reader));
	first->noffsets = nbounds;
	first->offsets = bounds;
	return first;
}

/*
 * Returns the stream's origin, in the run's memory; without cluster and offsets if
 * the stream has none yet.  Raises an error if the source reads another topic or
 * cluster now.
 */
static SaggOrigin *
known_origin(SaggStreamRun *run, const char *cluster_id)
{
	SaggOrigin *origin;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(run->memory);
	origin = sagg_checkpoint_origin(run->checkpoint);
	check_source(run, origin);
	if (origin->cluster_id && strcmp(origin->cluster_id, cluster_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
				 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
						cluster_id, origin->cluster_id),
				 errdetail("Offsets of one cluster mean nothing in another."),
				 errhint("Point the server's brokers at the former cluster, or use stream_agg.reset_stream to read the other.")));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->memory);
	return origin;
}

static void
record_origin(SaggStreamRun *run, const SaggOrigin *origin)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	sagg_checkpoint_set_origin(run->checkpoint, origin);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->memory);
}

/*
 * Topics were deleted and created again, and on_data_loss says to read them from
 * their beginning: forget the last records of the former ones, and a pending plan.
 * The next plan skips whatever was read of them.
 */
static void
forget_former_topics(SaggStreamRun *run, const List *recreated)
{
	SaggProgress *progress = run->progress;
	int			kept = 0;

	for (int i = 0; i < progress->nlast; i++)
	{
		if (!list_member_int(recreated, progress->last[i].topic))
			progress->last[kept++] = progress->last[i];
	}
	progress->nlast = kept;
	progress->nsuspects = 0;
	if (progress->pending == NULL)
		return;
	progress->pending = NULL;
	sagg_checkpoint_forget_plan(run->checkpoint, progress->batch);
}

/*
 * Forget former topics in all runs, in one transaction.
 */
static void
forget_former_topics_of_all(SaggReading *reading)
{
	ListCell   *lc;

	sagg_plan_transaction(sagg_first_run(reading), true);
	foreach(lc, reading->runs)
		forget_former_topics(lfirst(lc), reading->recreated);
	sagg_plan_commit();
	MemoryContextSwitchTo(reading->memory);
}

/*
 * Returns the numbers of topics, in the reading's memory, that are not those any
 * more that the run has read.  Records outside of "bounds" are gone and are not
 * asked for; NULL: all are asked for.  Waits for the source.
 */
List *
sagg_run_recreated_topics(SaggStreamRun *run, const SaggRange *bounds, int nbounds)
{
	SaggReading *reading = run->reading;
	const SaggProgress *progress = run->progress;
	SaggRange  *last = palloc(sizeof(SaggRange) * Max(progress->nlast, 1));
	List	   *recreated = NIL;
	MemoryContext old;
	int			n = 0;

	for (int i = 0; i < progress->nlast; i++)
	{
		const SaggRange *one = &progress->last[i];
		const SaggRange *bound = sagg_partition_find(unconstify(SaggRange *, bounds), nbounds, one);

		if (bounds == NULL ||
			(bound && one->start >= bound->start && one->start < bound->end))
			last[n++] = *one;
	}
	sagg_reader_verify(reading->reader, last, n);
	old = MemoryContextSwitchTo(reading->memory);
	for (int i = 0; i < n; i++)
	{
		if (last[i].end == SAGG_ANOTHER_RECORD)
			recreated = list_append_unique_int(recreated, last[i].topic);
	}
	MemoryContextSwitchTo(old);
	pfree(last);
	return recreated;
}

/*
 * Add topics that were recreated to reading->recreated, and forget what was read of
 * the former ones.
 */
static void
verify_last_records(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	List	   *recreated = sagg_run_recreated_topics(sagg_first_run(reading), bounds, nbounds);

	if (recreated == NIL)
		return;
	reading->recreated = reading->recreated == NIL ? recreated :
		list_concat_unique_int(reading->recreated, recreated);
	forget_former_topics_of_all(reading);
}

/*
 * Have all partitions fetched from where they go on: a pending plan says so, or the
 * position.  Lost positions are replaced here: librdkafka (2.0) may fall silent about
 * a partition that is assigned again just when it finds out that it does not have
 * the offset.
 */
void
sagg_reading_assign(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	SaggProgress *progress = sagg_first_run(reading)->progress;
	SaggPlan   *pending = progress->pending;
	SaggRange  *targets = palloc(sizeof(SaggRange) * Max(progress->npositions, 1));
	SaggRange  *own;
	int			n;

	for (int i = 0; i < progress->npositions; i++)
	{
		const SaggRange *planned = pending == NULL ? NULL :
		sagg_partition_find(pending->ranges, pending->nranges,
							&progress->positions[i]);
		const SaggRange *bound = sagg_partition_find(unconstify(SaggRange *, bounds), nbounds,
													 &progress->positions[i]);

		targets[i] = progress->positions[i];
		if (planned)
			targets[i].start = planned->start;
		else if (bound &&
				 (list_member_int(reading->recreated, targets[i].topic) ||
				  targets[i].start < bound->start ||
				  (targets[i].start > bound->end &&
				   !sagg_reader_loses_nothing(reading->reader))))
			targets[i].start = bound->start;
	}
	n = progress->npositions;
	own = sagg_executors_assign(reading, targets, &n);
	sagg_reader_assign(reading->reader, own, n);
	pfree(targets);
}

/*
 * Returns where another run of the reader stands, as an origin, in the current
 * context.
 */
static SaggOrigin *
offsets_of(const SaggStreamRun *run)
{
	SaggReader *reader = run->reading->reader;
	const SaggProgress *progress = run->progress;
	SaggOrigin *origin = palloc0(sizeof(SaggOrigin));

	if (sagg_reader_one_topic(reader))
		origin->topic = pstrdup(sagg_reader_one_topic(reader));
	origin->cluster_id = pstrdup(sagg_reader_cluster_id(reader));
	origin->noffsets = progress->npositions;
	origin->offsets = palloc(sizeof(SaggRange) * Max(progress->npositions, 1));
	memcpy(origin->offsets, progress->positions, sizeof(SaggRange) * progress->npositions);
	return origin;
}

/*
 * First contact of a stream with its topics: determine cluster and offsets, those of
 * "like" if that is not NULL.  Later: check that cluster and topics are the same.
 * Sets the positions.  Waits for the source.
 */
void
sagg_run_find_start(SaggStreamRun *run, SaggStreamRun *like)
{
	const char *cluster_id = sagg_reader_cluster_id(run->reading->reader);
	SaggOrigin *origin = known_origin(run, cluster_id);

	if (origin->cluster_id == NULL)
	{
		origin = like ? offsets_of(like) : first_offsets(run);
		record_origin(run, origin);
	}
	for (int i = 0; i < origin->noffsets; i++)
		(void) sagg_run_add_position(run, &origin->offsets[i]);
}

/*
 * Find the start of the leader, and assign the reader to its positions.
 */
void
sagg_reading_find_start(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	SaggProgress *progress = leader->progress;
	SaggRange  *bounds;
	int			nbounds;

	sagg_run_find_start(leader, NULL);
	bounds = sagg_reader_bounds(reading->reader, &nbounds);
	sagg_run_check_topics(leader, bounds, nbounds);
	verify_last_records(reading, bounds, nbounds);
	sagg_reading_assign(reading, bounds, nbounds);
	pfree(bounds);
	sagg_reader_commit(reading->reader, progress->positions, progress->npositions);
}

/*
 * After a connection was broken, and where it looks so, check that the topics are
 * the same ones (kafka/last_record.c).  "bounds" are as for sagg_batch_plan if they
 * are known.  NULL: a batch is under way, and a recreated topic is an error.
 */
void
sagg_reading_verify(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = sagg_first_run(reading)->progress;

	bool		broken = sagg_executors_were_broken(reading);

	if (!sagg_reader_was_broken(reading->reader) && !broken &&
		!(bounds && sagg_reader_suspects(reading->reader, progress->last, progress->nlast)))
		return;
	verify_last_records(reading, bounds, nbounds);
	if (reading->recreated != NIL && bounds == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("topic \"%s\" was deleted and created again while it was read",
						sagg_topic_name(linitial_int(reading->recreated)))));
}

/*
 * Returns the last record of each partition after the batch that was just read,
 * "n" of them, in the current context.
 */
SaggRange *
sagg_last_records(SaggStreamRun *run, int *n)
{
	const SaggPlan *plan = run->plan;
	const SaggProgress *progress = run->progress;
	SaggRange  *last = palloc(sizeof(SaggRange) * (progress->nlast + plan->nranges + 1));

	*n = progress->nlast;
	if (progress->nlast > 0)
		memcpy(last, progress->last, sizeof(SaggRange) * progress->nlast);
	for (int i = 0; i < plan->nranges; i++)
	{
		SaggRange	one;
		SaggRange  *place;

		if (!sagg_executors_last_record(run->reading, &plan->ranges[i], &one) &&
			!sagg_reader_last_record(run->reading->reader, &plan->ranges[i], &one))
			continue;
		place = sagg_partition_find(last, *n, &one);
		if (place == NULL)
			place = &last[(*n)++];
		*place = one;
	}
	if (*n > 1)
		qsort(last, *n, sizeof(SaggRange), sagg_partition_order);
	return last;
}
