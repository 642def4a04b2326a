/*-------------------------------------------------------------------------
 *
 * join_reader.c
 *	  How a stream joins those that share its reader.
 *
 * It takes part in their batches from the moment it stands where they stand: the
 * same offsets, the same plan or none.  A stream that has not begun yet, with
 * the starting offsets of a lead that has not read anything either, begins
 * where that does.  One that is a little off is brought level by batches of its
 * own, or of the others, over what lies between.  One that is far off is apart:
 * it reads on by itself, in a worker of its own, until it is close.  So a stream
 * never waits for another, and nothing is read twice or left out, whatever
 * order streams are made, stopped, reset and started in.
 *
 * A worker that finds most of the streams elsewhere than its own goes apart
 * itself, so that they stay together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/* a stream that cannot be taken on yet is looked at again */
#define LOOK_AGAIN_MS	200

/* where a stream stands, seen from the lead */
typedef enum Place
{
	PLACE_LEVEL,
	PLACE_CLOSE,
	PLACE_FAR,
	PLACE_LATER,				/* not to be told before the lead's plan is done */
	PLACE_GONE					/* it has been let go */
} Place;

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
 * How many offsets lie between two streams, both of which know all partitions
 * in "bounds".
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
 * Workers have ended in the pending batch.  Whose record that is can be told
 * only when the streams are read one by one.
 */
static bool
suspicious(const SaggProgress *progress)
{
	return progress->pending && progress->pending->attempts + 1 >= SAGG_CRASHES;
}

/*
 * Where does the follower, which is open and has an origin, stand?  Waits for
 * Kafka.
 */
static Place
place_of(SaggSession *lead, SaggSession *follower)
{
	SaggProgress *ours = lead->progress;
	SaggProgress *its = follower->progress;
	SaggRange  *bounds;
	int			nbounds;

	if (suspicious(ours) || suspicious(its))
		return PLACE_FAR;
	if (same_positions(ours, its) && same_plan(ours->pending, its->pending))
		return PLACE_LEVEL;
	if (its->pending || its->nsuspects > 0 || its->replace)
		return PLACE_FAR;
	if (ours->pending || ours->nsuspects > 0 || lead->recreated != NIL)
		return PLACE_LATER;

	bounds = sagg_reader_bounds(lead->reader, &nbounds);
	if (sagg_session_other_topics(follower, bounds, nbounds))
	{
		pfree(bounds);
		return PLACE_FAR;
	}
	sagg_session_add_partitions(lead, bounds, nbounds);
	for (int i = 0; i < nbounds; i++)
	{
		if (sagg_session_add_position(follower, &bounds[i]))
			follower->new_partitions = true;
	}
	pfree(bounds);
	return distance(ours, its) <= SAGG_CLOSE_OFFSETS ? PLACE_CLOSE : PLACE_FAR;
}

/*
 * Open the follower's part of a session, and find out where it stands.
 */
static Place
open_follower(SaggSession *lead, SaggSession *follower)
{
	const SaggProgress *ours = lead->progress;
	SaggExit	how;
	bool		loaded;
	bool		alike;

	lead->at_work = follower;
	follower->reader = lead->reader;
	follower->batch_memory = lead->batch_memory;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	loaded = sagg_session_take(follower, &how);
	if (loaded)
		sagg_session_open_parts(follower);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(lead->memory);
	if (!loaded)
	{
		sagg_follower_release(follower, how);
		return PLACE_GONE;
	}
	if (!equal(follower->stream->sources, lead->stream->sources))
		return PLACE_FAR;
	if (follower->stream->options.on_error == SAGG_DEAD_LETTER ||
		follower->stream->options.late_records)
		sagg_reader_keep_headers(lead->reader);

	/* both begin now, at offsets that are found out once */
	alike = ours->committed == DT_NOBEGIN && ours->pending == NULL &&
		strcmp(follower->stream->starting_offsets, lead->stream->starting_offsets) == 0;
	sagg_session_settle(follower, alike ? lead : NULL);
	MemoryContextSwitchTo(follower->memory);
	sagg_idle_begin(follower);
	MemoryContextSwitchTo(lead->memory);
	return place_of(lead, follower);
}

/*
 * Batches of "session" up to "target".
 */
static void
read_up_to(SaggSession *session, const SaggRange *target, int ntarget)
{
	SaggSession *lead = session->lead;
	SaggPlan   *plan;

	do
	{
		int			nbounds;
		SaggRange  *bounds = sagg_reader_bounds(lead->reader, &nbounds);

		sagg_session_check_stop(lead);
		for (int i = 0; i < nbounds; i++)
		{
			const SaggRange *end = sagg_partition_find(unconstify(SaggRange *, target),
													   ntarget, &bounds[i]);

			if (end && end->start < bounds[i].end)
				bounds[i].end = end->start;
		}
		session->plan = NULL;
		MemoryContextReset(lead->batch_memory);
		sagg_session_settings(session);
		plan = sagg_batch_plan(session, bounds, nbounds);
		if (plan)
			sagg_micro_batch(session, plan);
		MemoryContextSwitchTo(lead->memory);
		pfree(bounds);
	} while (plan);
}

/*
 * Bring the follower and the others to the greater of their offsets.  Returns
 * whether they are level then.
 */
static bool
make_level(SaggSession *lead, SaggSession *follower)
{
	const SaggProgress *its = follower->progress;
	int			ntarget = its->npositions;
	SaggRange  *target = palloc(sizeof(SaggRange) * Max(ntarget, 1));
	SaggRange  *bounds;
	int			nbounds;

	memcpy(target, its->positions, sizeof(SaggRange) * ntarget);
	for (int i = 0; i < ntarget; i++)
	{
		const SaggRange *ours = sagg_partition_find(lead->progress->positions,
													lead->progress->npositions, &target[i]);

		target[i].start = Max(target[i].start, ours->start);
	}
	read_up_to(follower, target, ntarget);
	lead->at_work = NULL;
	read_up_to(lead, target, ntarget);
	pfree(target);

	bounds = sagg_reader_bounds(lead->reader, &nbounds);
	sagg_session_assign(lead, bounds, nbounds);
	pfree(bounds);
	lead->plan = NULL;
	return same_positions(lead->progress, its);
}

/*
 * Give a follower back: apart, or to be looked at again.
 */
static void
give_back(SaggSession *follower, bool apart)
{
	SaggSlot   *slot = follower->slot;

	if (apart)
		ereport(LOG,
				(errmsg("stream \"%s\" reads separately from the streams that share its reader, until it has caught up",
						slot->name)));
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->apart = apart;
	if (!apart)
		slot->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN_MS);
	LWLockRelease(sagg_shared->lock);
	sagg_follower_release(follower, SAGG_EXIT_CHANGED);
}

/*
 * The follower takes part, or is given back.
 */
static void
settle_follower(SaggSession *lead, SaggSession *follower, Place place)
{
	lead->at_work = follower;
	if (place == PLACE_CLOSE)
		place = make_level(lead, follower) ? PLACE_LEVEL : PLACE_FAR;
	lead->at_work = NULL;
	if (place == PLACE_LEVEL)
	{
		sagg_follower_joined(follower);
		sagg_session_started(follower);
		sagg_publish_statistics(follower);
	}
	else
		give_back(follower, place == PLACE_FAR);
}

/*
 * Most of the streams are elsewhere: let one of them lead.  Ends the process.
 */
static void
go_apart(SaggSession *lead)
{
	ereport(LOG,
			(errmsg("stream \"%s\" reads separately from the streams that share its reader, until it has caught up",
					lead->slot->name)));
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	lead->slot->apart = true;
	LWLockRelease(sagg_shared->lock);
	sagg_session_leave(lead, SAGG_EXIT_CHANGED);
}

/*
 * A session that leads has been opened: open those of the streams that share its
 * reader, the ones its process had before an error and those that want to run.
 */
void
sagg_followers_open(SaggSession *lead)
{
	List	   *opened = NIL;
	List	   *places = NIL;
	int			level = 1;
	int			far = 0;
	ListCell   *lc;
	ListCell   *lc2;

	lead->opening = true;
	while (sagg_follower_claim(lead) != NULL)
		;
	for (int i = 1; i < list_length(lead->held);)
	{
		SaggSession *follower = list_nth(lead->held, i);
		Place		place = open_follower(lead, follower);

		if (place == PLACE_GONE)
			continue;
		opened = lappend(opened, follower);
		places = lappend_int(places, place);
		level += place == PLACE_LEVEL || place == PLACE_CLOSE;
		far += place == PLACE_FAR;
		i++;
	}
	lead->at_work = NULL;
	if (far > level)
		go_apart(lead);

	/* those first that need nothing to be read, then the others */
	forboth(lc, opened, lc2, places)
	{
		if (lfirst_int(lc2) != PLACE_CLOSE)
			settle_follower(lead, lfirst(lc), lfirst_int(lc2));
	}
	if (lead->progress->pending == NULL)
	{
		forboth(lc, opened, lc2, places)
		{
			if (lfirst_int(lc2) == PLACE_CLOSE)
				settle_follower(lead, lfirst(lc), PLACE_CLOSE);
		}
	}
	list_free(opened);
	list_free(places);
	lead->opening = false;
}

/*
 * What sagg_reader_company_changed has found: take streams on, or give this one
 * back.  Between batches.
 */
void
sagg_company_change(SaggSession *session)
{
	SaggSession *follower;

	if (session->slot->leads)
	{
		session->opening = true;
		while ((follower = sagg_follower_claim(session)) != NULL)
		{
			Place		place = open_follower(session, follower);

			if (place != PLACE_GONE)
				settle_follower(session, follower, place);
			session->behind = true;
		}
		session->at_work = NULL;
		session->opening = false;
		return;
	}
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	session->slot->apart = false;
	LWLockRelease(sagg_shared->lock);
	sagg_session_leave(session, SAGG_EXIT_CHANGED);
}
