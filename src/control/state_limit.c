/*-------------------------------------------------------------------------
 *
 * state_limit.c
 *	  The limits of state: stream_agg.max_stream_state for each stream, also
 *	  for what has left memory,
 *	  stream_agg.max_role_state for those of a role and
 *	  stream_agg.max_total_state for all of them (I7).
 *
 * Shared memory belongs to the whole server: when it is exhausted, parallel
 * queries fail as well.  So by default streams leave half of it to others, and
 * the streams of a role that is not a superuser leave a quarter of the rest to
 * other roles.
 *
 * A store asks here before it grows.  What each takes is in its slot, so that
 * the sum over all streams is known, and two stores that ask at the same time
 * cannot both get the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/dsm_impl.h"
#include "storage/lwlock.h"
#include "utils/guc.h"

#include "control.h"

#define HINT_SMALLER	"give the stream a shorter watermark or fewer groups, " \
	"then run stream_agg.start_stream."

/*
 * Returns a setting in kB, -1 = no limit, as bytes.
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
 * Returns the limit of a role that is not a superuser, in bytes.  The setting
 * is that of the stream's owner, as whom its worker runs.
 */
static uint64
role_limit_bytes(void)
{
	if (sagg_max_role_state_kb >= 0 || sagg_max_total_state_kb < 0)
		return limit_bytes(sagg_max_role_state_kb);
	return limit_bytes(sagg_max_total_state_kb) / 4 * 3;
}

/*
 * Returns half of the dynamic shared memory that the server can use, in kB, as
 * of its start; -1 if unknown.
 */
int
sagg_default_total_state(void)
{
	struct statvfs fs;
	uint64		bytes;

	if (dynamic_shared_memory_type == DSM_IMPL_MMAP && statvfs(PG_DYNSHMEM_DIR, &fs) == 0)
		bytes = (uint64) fs.f_bavail * fs.f_frsize; /* the file system also
													 * holds data */
	else if (dynamic_shared_memory_type == DSM_IMPL_POSIX && statvfs("/dev/shm", &fs) == 0)
		bytes = (uint64) fs.f_blocks * fs.f_frsize;
	else
	{
		long		pages = sysconf(_SC_PHYS_PAGES);
		long		size = sysconf(_SC_PAGESIZE);

		bytes = pages > 0 && size > 0 ? (uint64) pages * size : 0;
	}
	/* a file system without a limit says 0 */
	return bytes == 0 ? -1 : (int) Min(bytes / 2 / 1024, MAX_KILOBYTES);
}

/*
 * Returns what the stores of all other streams take, or of those of one role.
 * The caller holds the lock.
 */
static uint64
taken_by_others(const SaggSlot *slot, Oid owner)
{
	uint64		sum = 0;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *other = &sagg_shared->slots[i];

		if (other != slot && other->in_use &&
			(!OidIsValid(owner) || other->owner == owner))
			sum += other->state_memory;
	}
	return sum;
}

static void
reject_for_stream(const SaggSlot *slot, Size present, Size least)
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
reject_for_all(const SaggSlot *slot, Size present, Size least, uint64 others)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_STATE_LIMIT),
			 errmsg("state of stream \"%s\" has reached the limit of %d kB for all streams",
					slot->name, sagg_max_total_state_kb),
			 errdetail("It takes %zu kB of shared memory and needs %zu kB more; other streams take " UINT64_FORMAT " kB.",
					   present / 1024, least / 1024, others / 1024),
			 errhint("Increase stream_agg.max_total_state, or " HINT_SMALLER)));
}

static void
reject_for_role(const SaggSlot *slot, Size present, Size least, uint64 limit,
				uint64 others)
{
	char	   *role = GetUserNameFromId(slot->owner, true);

	ereport(ERROR,
			(errcode(ERRCODE_SAGG_STATE_LIMIT),
			 errmsg("state of stream \"%s\" has reached the limit of " UINT64_FORMAT " kB for all streams of role \"%s\"",
					slot->name, limit / 1024, role ? role : ""),
			 errdetail("It takes %zu kB of shared memory and needs %zu kB more; other streams of the role take " UINT64_FORMAT " kB.",
					   present / 1024, least / 1024, others / 1024),
			 errhint("Have a superuser increase stream_agg.max_role_state, for this role by ALTER ROLE, or " HINT_SMALLER)));
}

/*
 * See SaggStoreBudget.
 */
static Size
reserve(void *arg, Size present, Size least, Size wanted)
{
	SaggSlot   *slot = (SaggSlot *) arg;
	uint64		stream_left = left_of(limit_bytes(sagg_max_stream_state_kb), present);
	uint64		role_limit = superuser_arg(slot->owner) ? PG_UINT64_MAX : role_limit_bytes();
	uint64		role_left;
	uint64		total_left;
	uint64		of_role;
	uint64		others;
	Size		growth;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	others = taken_by_others(slot, InvalidOid);
	of_role = taken_by_others(slot, slot->owner);
	total_left = left_of(limit_bytes(sagg_max_total_state_kb), others + present);
	role_left = left_of(role_limit, of_role + present);
	growth = Min(wanted, Min(stream_left, Min(role_left, total_left)));
	slot->state_memory = present + (growth >= least ? growth : 0);
	LWLockRelease(sagg_shared->lock);

	if (stream_left < least)
		reject_for_stream(slot, present, least);
	if (role_left < least)
		reject_for_role(slot, present, least, role_limit, of_role);
	if (total_left < least)
		reject_for_all(slot, present, least, others);
	return growth;
}

/*
 * Raise ERRCODE_SAGG_STATE_LIMIT if the state of a stream, of which some is not
 * in memory, has more "bytes" than stream_agg.max_stream_state.
 */
void
sagg_state_check_size(const SaggSlot *slot, int64 bytes)
{
	if ((uint64) bytes <= limit_bytes(sagg_max_stream_state_kb))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_STATE_LIMIT),
			 errmsg("state of stream \"%s\" has reached the limit of %d kB",
					slot->name, sagg_max_stream_state_kb),
			 errdetail("It has " INT64_FORMAT " kB, in memory and in the state log.",
					   bytes / 1024),
			 errhint("Increase stream_agg.max_stream_state, or " HINT_SMALLER)));
}

/*
 * Fill in the budget of the store of a stream, which must live as long as the store
 * is open; returns it.
 */
const SaggStoreBudget *
sagg_state_budget(SaggStoreBudget *budget, SaggSlot *slot)
{
	budget->stream = slot->name;
	budget->reserve = reserve;
	budget->arg = slot;
	return budget;
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
