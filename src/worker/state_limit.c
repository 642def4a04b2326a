/*-------------------------------------------------------------------------
 *
 * state_limit.c
 *	  The limits of state: stream_agg.max_stream_state for each stream and
 *	  stream_agg.max_total_state for all of them (I7).
 *
 * A store asks here before it grows.  What each takes is in its slot, so that
 * the sum over streams is known to whoever asks, and two that ask at the same
 * time cannot both have the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "storage/lwlock.h"

#include "worker_internal.h"

#define HINT_SMALLER	"give the stream a shorter watermark or fewer groups, " \
	"then run stream_agg.start_stream."

/*
 * A setting in kB, -1 = no limit, as bytes.
 */
static uint64
limit_bytes(int kilobytes)
{
	return kilobytes < 0 ? PG_UINT64_MAX : (uint64) kilobytes * 1024;
}

static uint64
left_of(uint64 limit, uint64 taken)
{
	return limit > taken ? limit - taken : 0;
}

/*
 * What the stores of all other streams take.  The caller holds the lock.
 */
static uint64
taken_by_others(const SaggSlot *slot)
{
	uint64		sum = 0;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *other = &sagg_shared->slots[i];

		if (other != slot && other->in_use)
			sum += other->state_memory;
	}
	return sum;
}

static void
refuse_for_stream(const SaggSlot *slot, Size present, Size least)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_STATE_LIMIT),
			 errmsg("state of stream \"%s\" has reached the limit of %d kB",
					slot->name, sagg_max_stream_state_kb),
			 errdetail("It takes %zu kB of shared memory and needs %zu kB more.",
					   present / 1024, least / 1024),
			 errhint("Increase stream_agg.max_stream_state, or " HINT_SMALLER)));
}

static void
refuse_for_all(const SaggSlot *slot, Size present, Size least, uint64 others)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_STATE_LIMIT),
			 errmsg("state of stream \"%s\" has reached the limit of %d kB for all streams",
					slot->name, sagg_max_total_state_kb),
			 errdetail("It takes %zu kB of shared memory and needs %zu kB more; other streams take " UINT64_FORMAT " kB.",
					   present / 1024, least / 1024, others / 1024),
			 errhint("Increase stream_agg.max_total_state, or " HINT_SMALLER)));
}

/*
 * See SaggStoreBudget.
 */
static Size
reserve(void *arg, Size present, Size least, Size wanted)
{
	SaggSlot   *slot = (SaggSlot *) arg;
	uint64		stream_left = left_of(limit_bytes(sagg_max_stream_state_kb), present);
	uint64		total_left;
	uint64		others;
	Size		growth;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	others = taken_by_others(slot);
	total_left = left_of(limit_bytes(sagg_max_total_state_kb), others + present);
	growth = Min(wanted, Min(stream_left, total_left));
	slot->state_memory = present + (growth >= least ? growth : 0);
	LWLockRelease(sagg_shared->lock);

	if (stream_left < least)
		refuse_for_stream(slot, present, least);
	if (total_left < least)
		refuse_for_all(slot, present, least, others);
	return growth;
}

/*
 * The budget of a stream's store; lives as long as the session object.
 */
const SaggStoreBudget *
sagg_state_budget(SaggSession *session)
{
	session->budget.stream = session->slot->name;
	session->budget.reserve = reserve;
	session->budget.arg = session->slot;
	return &session->budget;
}

/*
 * Discard a slot's store.  The caller holds the stream's lock.
 */
void
sagg_state_discard(SaggSlot *slot)
{
	sagg_store_discard(&slot->store);
	slot->state_memory = 0;
}
