/*-------------------------------------------------------------------------
 *
 * join_reader.c
 *	  How a stream joins those that share its reader.
 *
 * A stream takes part in their batches as soon as it stands where they stand: at
 * the same offsets, with the same plan or none.  A stream that has not begun yet,
 * with the starting offsets of a leader that has not read anything either, begins
 * where the leader does.  A stream that is close catches up, or the others do, in
 * batches over what lies between.  A stream that is far is detached: it reads in a
 * worker of its own until it is close.  So no stream waits for another, and
 * nothing is read twice or left out, in whatever order streams are made, stopped,
 * reset and started.
 *
 * A worker that finds most of the streams elsewhere than its own detaches itself,
 * so that they stay together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/* how soon to look again at a stream that cannot be adopted yet */
#define LOOK_AGAIN_MS	200

/* where a member stands, seen from the leader */
typedef enum MemberPosition
{
	POSITION_LEVEL,
	POSITION_CLOSE,
	POSITION_FAR,
	POSITION_LATER,				/* unknown until the leader's plan is done */
	POSITION_GONE				/* it has been released */
} MemberPosition;

static bool
same_ranges(const SaggRange *a, int na, const SaggRange *b, int nb)
{
	if (na != nb)
		return false;
	for (int i = 0; i < na; i++)
	{
		if (sagg_partition_compare(&a[i], &b[i]) != 0 || a[i].start != b[i].start ||
			a[i].end != b[i].end)
			return false;
	}
	return true;
}

static bool
same_positions(const SaggProgress *a, const SaggProgress *b)
{
	if (a->npositions != b->npositions)
		return false;
	for (int i = 0; i < a->npositions; i++)
	{
		if (sagg_partition_compare(&a->positions[i], &b->positions[i]) != 0 ||
			a->positions[i].start != b->positions[i].start)
			return false;
	}
	return true;
}

static bool
same_plan(const SaggPlan *a, const SaggPlan *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return a->batch_time == b->batch_time &&
		same_ranges(a->ranges, a->nranges, b->ranges, b->nranges) &&
		same_ranges(a->skipped, a->nskipped, b->skipped, b->nskipped);
}

/*
 * Returns how many offsets lie between two streams that know the same
 * partitions.
 */
static int64
distance(const SaggProgress *a, const SaggProgress *b)
{
	int64		sum = 0;

	for (int i = 0; i < a->npositions; i++)
	{
		const SaggRange *other = sagg_partition_find(b->positions, b->npositions,
													 &a->positions[i]);

		if (other == NULL)
			return PG_INT64_MAX;
		sum = sagg_add_saturated(sum, i64abs(a->positions[i].start - other->start));
	}
	return a->npositions == b->npositions ? sum : PG_INT64_MAX;
}

/*
 * Returns whether workers have ended in the pending batch.  Only when the streams
 * are read one by one it shows whose record that is.
 */
static bool
suspicious(const SaggProgress *progress)
{
	return progress->pending && progress->pending->attempts + 1 >= SAGG_CRASHES;
}

/*
 * Returns where a member stands that is open and has an origin.  Waits for the
 * source.
 */
static MemberPosition
position_of(SaggReading *reading, SaggStreamRun *member)
{
	SaggProgress *ours = reading->leader->progress;
	SaggProgress *its = member->progress;
	SaggRange  *bounds;
	int			nbounds;

	if (suspicious(ours) || suspicious(its))
		return POSITION_FAR;
	if (same_positions(ours, its) && same_plan(ours->pending, its->pending))
		return POSITION_LEVEL;
	if (its->pending || its->nsuspects > 0 || its->replace)
		return POSITION_FAR;
	if (ours->pending || ours->nsuspects > 0 || reading->recreated != NIL)
		return POSITION_LATER;

	bounds = sagg_reader_bounds(reading->reader, &nbounds);
	if (sagg_run_recreated_topics(member, bounds, nbounds) != NIL)
	{
		pfree(bounds);
		return POSITION_FAR;
	}
	sagg_reading_add_partitions(reading, bounds, nbounds);
	for (int i = 0; i < nbounds; i++)
	{
		if (sagg_run_add_position(member, &bounds[i]))
			member->new_partitions = true;
	}
	pfree(bounds);
	return distance(ours, its) <= SAGG_CLOSE_OFFSETS ? POSITION_CLOSE : POSITION_FAR;
}

/*
 * Load and open a member's run in a transaction.  Returns false, and in "how" why,
 * if this worker has no such stream.
 */
static bool
open_run(SaggStreamRun *member, SaggExit *how)
{
	bool		loaded;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	loaded = sagg_run_load(member, how);
	if (loaded)
	{
		sagg_run_open(member);
		sagg_poison_opened(member);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(member->reading->memory);
	return loaded;
}

/*
 * Open a member and find out where it stands.
 */
static MemberPosition
open_member(SaggReading *reading, SaggStreamRun *member)
{
	SaggStreamRun *leader = reading->leader;
	const SaggProgress *ours = leader->progress;
	SaggExit	how;
	bool		alike;

	reading->current = member;
	if (!open_run(member, &how))
	{
		sagg_member_release(member, how);
		return POSITION_GONE;
	}
	if (!equal(member->stream->sources, leader->stream->sources))
		return POSITION_FAR;
	if (member->stream->options.on_error == SAGG_DEAD_LETTER ||
		member->stream->options.late_records)
		sagg_reader_keep_headers(reading->reader);

	/* both begin now, at offsets that are determined once */
	alike = ours->committed == DT_NOBEGIN && ours->pending == NULL &&
		strcmp(member->stream->starting_offsets, leader->stream->starting_offsets) == 0;
	sagg_run_find_start(member, alike ? leader : NULL);
	MemoryContextSwitchTo(member->memory);
	sagg_idle_begin(member);
	MemoryContextSwitchTo(reading->memory);
	return position_of(reading, member);
}

/*
 * Run batches of "runs", which take the place of the reading's, up to "target".
 * After an error the reading is closed, and its runs with it.
 */
static void
read_up_to(SaggReading *reading, List *runs, const SaggRange *target, int ntarget)
{
	List	   *all = reading->runs;
	bool		more;

	reading->runs = runs;
	do
	{
		int			nbounds;
		SaggRange  *bounds = sagg_reader_bounds(reading->reader, &nbounds);

		sagg_reading_check_stop(reading);
		sagg_first_run(reading)->plan = NULL;
		MemoryContextReset(reading->batch_memory);
		sagg_run_settings(sagg_first_run(reading));
		more = sagg_batch_plan(reading, bounds, nbounds, target, ntarget);
		if (more)
			sagg_micro_batch(reading);
		MemoryContextSwitchTo(reading->memory);
		pfree(bounds);
	} while (more);
	reading->runs = all;
}

/*
 * Bring the member and the runs of the reading to the greater of their offsets.
 * Returns whether they are level then.
 */
static bool
make_level(SaggReading *reading, SaggStreamRun *member)
{
	SaggStreamRun *leader = reading->leader;
	const SaggProgress *its = member->progress;
	int			ntarget = its->npositions;
	SaggRange  *target = palloc(sizeof(SaggRange) * Max(ntarget, 1));
	List	   *alone = list_make1(member);
	SaggRange  *bounds;
	int			nbounds;

	memcpy(target, its->positions, sizeof(SaggRange) * ntarget);
	for (int i = 0; i < ntarget; i++)
	{
		const SaggRange *ours = sagg_partition_find(leader->progress->positions,
													leader->progress->npositions, &target[i]);

		target[i].start = Max(target[i].start, ours->start);
	}
	read_up_to(reading, alone, target, ntarget);
	reading->current = NULL;
	read_up_to(reading, reading->runs, target, ntarget);
	list_free(alone);
	pfree(target);

	bounds = sagg_reader_bounds(reading->reader, &nbounds);
	sagg_reading_assign(reading, bounds, nbounds);
	pfree(bounds);
	leader->plan = NULL;
	return same_positions(leader->progress, its);
}

static void
log_detached(const SaggSlot *slot)
{
	ereport(LOG,
			(errmsg("stream \"%s\" reads separately from the streams that share its reader, until it has caught up",
					slot->name)));
}

/*
 * Give a member back: detached, or to be looked at again.
 */
static void
give_back(SaggStreamRun *member, bool detached)
{
	SaggSlot   *slot = member->slot;

	if (detached)
		log_detached(slot);
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->apart = detached;
	if (!detached)
		slot->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN_MS);
	LWLockRelease(sagg_shared->lock);
	sagg_member_release(member, SAGG_EXIT_CHANGED);
}

/*
 * Let the member take part, or give it back.
 */
static void
settle_member(SaggReading *reading, SaggStreamRun *member, MemberPosition position)
{
	reading->current = member;
	if (position == POSITION_CLOSE)
		position = make_level(reading, member) ? POSITION_LEVEL : POSITION_FAR;
	reading->current = NULL;
	if (position == POSITION_LEVEL)
	{
		sagg_member_join(member);
		sagg_run_started(member);
		sagg_publish_statistics(member);
	}
	else
		give_back(member, position == POSITION_FAR);
}

/*
 * Most of the streams are elsewhere: detach, so that one of them leads.  Ends the
 * process.
 */
static void
detach_leader(SaggStreamRun *leader)
{
	log_detached(leader->slot);
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	leader->slot->apart = true;
	LWLockRelease(sagg_shared->lock);
	sagg_worker_leave(leader, SAGG_EXIT_CHANGED);
}

/*
 * The run of a leader has been opened: open the other members, those that the
 * process had before an error and those that want to run.
 */
void
sagg_members_open(SaggReading *reading)
{
	List	   *opened = NIL;
	List	   *positions = NIL;
	int			level = 1;
	int			far = 0;
	ListCell   *lc;
	ListCell   *lc2;

	reading->opening = true;
	while (sagg_member_adopt(reading) != NULL)
		;
	for (int i = 1; i < list_length(reading->members);)
	{
		SaggStreamRun *member = list_nth(reading->members, i);
		MemberPosition position = open_member(reading, member);

		if (position == POSITION_GONE)
			continue;
		opened = lappend(opened, member);
		positions = lappend_int(positions, position);
		level += position == POSITION_LEVEL || position == POSITION_CLOSE;
		far += position == POSITION_FAR;
		i++;
	}
	reading->current = NULL;
	if (far > level)
		detach_leader(reading->leader);

	/* first those for which nothing has to be read */
	forboth(lc, opened, lc2, positions)
	{
		if (lfirst_int(lc2) != POSITION_CLOSE)
			settle_member(reading, lfirst(lc), lfirst_int(lc2));
	}
	if (reading->leader->progress->pending == NULL)
	{
		forboth(lc, opened, lc2, positions)
		{
			if (lfirst_int(lc2) == POSITION_CLOSE)
				settle_member(reading, lfirst(lc), POSITION_CLOSE);
		}
	}
	list_free(opened);
	list_free(positions);
	reading->opening = false;
}

/*
 * sagg_reading_group_changed has returned true: adopt streams, or give a detached
 * one back, which ends the process.  Between batches.
 */
void
sagg_reading_change_group(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	SaggStreamRun *member;

	if (leader->slot->leads)
	{
		reading->opening = true;
		while ((member = sagg_member_adopt(reading)) != NULL)
		{
			MemberPosition position = open_member(reading, member);

			if (position != POSITION_GONE)
				settle_member(reading, member, position);
			reading->behind = true;
		}
		reading->current = NULL;
		reading->opening = false;
		return;
	}
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	leader->slot->apart = false;
	LWLockRelease(sagg_shared->lock);
	sagg_worker_leave(leader, SAGG_EXIT_CHANGED);
}
