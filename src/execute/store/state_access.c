/*-------------------------------------------------------------------------
 *
 * state_access.c
 *	  The state store as CHECKPOINT sees it: entries, each behind its length, and
 *	  deltas of entries (entry_delta.c).
 *
 * Windows that the batch closes are neither among the changes nor among the
 * contents: they do not exist after the commit.  For the same reason a restore
 * leaves out entries of windows that the last commit's watermark has passed.
 *
 * A restore verifies what it reads: keys when they come, and states when all
 * entries are there, because many entries replace others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"

#include "execute/pass_rows.h"
#include "execute/store/store.h"
#include "execute/window/session_windows.h"

/*
 * Pass an entry of the store behind its length, as it is stored; in one call,
 * because the writer may start a new blob between calls.
 */
static void
pass_entry(SaggEntry entry, SaggBytesFn fn, void *fnarg)
{
	fn(fnarg, entry.data - sizeof(entry.len), sizeof(entry.len) + entry.len);
}

static void
units(void *arg, SaggUnitFn fn, void *fnarg)
{
	SaggExecution *ex = arg;

	sagg_store_units(ex->store, fn, fnarg);
}

/*
 * Write the entries that the batch has put: deltas, or whole entries.
 */
static void
changes(void *arg, const SaggStateUnit *unit, SaggBytesFn fn, void *fnarg)
{
	SaggExecution *ex = arg;
	int64		place = 0;
	SaggChange	change;

	while (sagg_store_next_change(ex->store, unit, &place, &change))
	{
		if (change.before.data &&
			sagg_delta_write(ex, &ex->entry, change.before, change.entry, change.salt))
			fn(fnarg, ex->entry.data, ex->entry.len);
		else
			pass_entry(change.entry, fn, fnarg);
	}
}

/*
 * Returns whether an entry will be removed at the commit: a session that is
 * over or gone.
 */
static bool
is_leaving(const SaggExecution *ex, SaggEntry entry)
{
	return SAGG_HAS_SESSIONS(ex) &&
		(sagg_entry_is_gone(entry.data) ||
		 sagg_entry_end(entry.data) <= sagg_store_close_before(ex->store));
}

/*
 * Begin a walk over the entries of a unit, or of those that share.  Go on by
 * scan_next.
 */
static void
scan_unit(SaggExecution *ex, SaggScan *scan, const SaggStateUnit *unit)
{
	if (unit->start == SAGG_SHARED_UNIT)
		sagg_scan_shared(scan, ex->store, unit->partition);
	else if (SAGG_HAS_SESSIONS(ex))
		sagg_scan_partition(scan, ex->store, unit->partition);
	else
		sagg_scan_unit(scan, ex->store, sagg_store_unit(ex->store, unit->partition, unit->start));
}

static bool
scan_next(SaggExecution *ex, SaggScan *scan)
{
	while (!sagg_scan_next(scan))
	{
		/* sessions of a partition are in several units of the store */
		if ((!scan->shared && !SAGG_HAS_SESSIONS(ex)) || !sagg_scan_next_unit(scan))
			return false;
	}
	return true;
}

static void
contents(void *arg, const SaggStateUnit *unit, SaggBytesFn fn, void *fnarg)
{
	SaggExecution *ex = arg;
	SaggScan	scan;

	scan_unit(ex, &scan, unit);
	while (scan_next(ex, &scan))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, scan.stored);

		if (!is_leaving(ex, entry))
			pass_entry(entry, fn, fnarg);
	}
}

/*
 * Raise an error unless a group with this hash belongs to the partition that
 * the log has it in.
 */
void
sagg_check_partition(uint32 hash, int partition)
{
	if (SAGG_PARTITION_OF(hash) != partition)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
				 errmsg("a stored group of state partition %d hashes to partition %d",
						partition, SAGG_PARTITION_OF(hash)),
				 errdetail("The hash function of a grouping key has changed, perhaps with the version of its collation."),
				 errhint("Drop the stream and create it again to aggregate from starting_offsets.")));
}

/*
 * Put a session of the log into the store, or remove it.
 */
void
sagg_session_entry_restore(SaggExecution *ex, const SaggStateUnit *unit, SaggGroup *group,
						   const char *entry, Size len, bool delta)
{
	bool		gone = len >= 2 * sizeof(int64) && sagg_entry_is_gone(entry);
	bool		apart;
	SaggStored	stored;

	sagg_entry_check_keys(ex, entry, len);
	sagg_entry_read(ex, group, entry, len, false);
	group->hash = sagg_keys_place(ex, sagg_keys_hash(ex, SAGG_SESSIONS_UNIT, group->keys,
													 group->keynulls),
								  SAGG_SESSIONS_UNIT, group->keys, group->keynulls);
	sagg_check_partition(group->hash, unit->partition);
	stored = sagg_session_stored(ex, group, &apart);
	if (gone && sagg_is_stored(stored))
		sagg_session_forget(ex->store, group->hash, group->start, apart, stored);
	else if (!gone && !sagg_session_passed(ex, sagg_entry_end(entry)))
		sagg_session_restore(ex->store, group->hash, group->start, apart, stored, entry, len);
}

/*
 * Returns whether an entry among those of units that share is stale: its unit
 * has a chain of its own, which is restored before, or at least known.
 */
bool
sagg_entry_is_stale(const SaggExecution *ex, const SaggStateUnit *unit, int64 start)
{
	const SaggUnit *own;

	if (unit->start != SAGG_SHARED_UNIT)
		return false;
	own = sagg_store_unit(ex->store, unit->partition, start);
	return own && sagg_unit_has_chain(own);
}

/*
 * Put one entry of the log, or a delta, into the store.
 */
void
sagg_group_restore(SaggExecution *ex, const SaggStateUnit *unit, SaggGroup *group,
				   const char *entry, Size len, bool delta)
{
	sagg_entry_check_keys(ex, entry, len);
	sagg_entry_read(ex, group, entry, len, false);
	group->hash = sagg_keys_place(ex, sagg_keys_hash(ex, group->start, group->keys, group->keynulls),
								  group->start, group->keys, group->keynulls);
	sagg_check_partition(group->hash, unit->partition);
	if (unit->start != SAGG_SHARED_UNIT && group->start != unit->start)
		sagg_codec_corrupt("It is among the entries of another window.");
	if (!sagg_window_passed(ex, group->start) && !sagg_entry_is_stale(ex, unit, group->start))
	{
		SaggStored	stored = sagg_groups_stored(ex, group);

		if (delta)
		{
			if (!sagg_is_stored(stored))
				sagg_codec_corrupt("A change has no entry before it.");
			sagg_delta_apply(ex, &ex->entry, sagg_store_entry(ex->store, stored), entry, len);
			entry = ex->entry.data;
			len = ex->entry.len;
		}
		sagg_store_load(ex->store, group->start, group->hash, stored, entry, len);
	}
}

static void
restore(void *arg, const SaggStateUnit *unit, const char *data, Size len)
{
	SaggExecution *ex = arg;
	SaggGroup  *group = sagg_groups_allocate(ex);
	SaggBytes	bytes = {data, data + len};

	while (bytes.data < bytes.end)
	{
		int64		size = sagg_bytes_take_length(&bytes);
		Size		entry_len = size < 0 ? -size : size;
		const char *entry = sagg_bytes_take(&bytes, entry_len);
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
		if (ex->seen)
			sagg_seen_key_restore(ex, unit, entry, entry_len);
		else
			ex->methods->restore(ex, unit, group, entry, entry_len, size < 0);
		MemoryContextSwitchTo(old);
		ResetExprContext(ex->tmpcontext);
	}
	pfree(group);
}

/*
 * Verify all entries of a unit.
 */
static void
restored(void *arg, const SaggStateUnit *unit)
{
	SaggExecution *ex = arg;
	SaggUnit   *own = sagg_store_unit(ex->store, unit->partition, unit->start);
	SaggScan	scan;

	if (own)
		sagg_unit_set_chain(own);
	scan_unit(ex, &scan, unit);
	while (scan_next(ex, &scan))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, scan.stored);
		MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

		sagg_entry_check(ex, entry.data, entry.len);
		MemoryContextSwitchTo(old);
		ResetExprContext(ex->tmpcontext);
	}
}

static void
known(void *arg, const SaggStateUnit *unit)
{
	sagg_store_add_known(((SaggExecution *) arg)->store, unit);
}

/*
 * Fill in ex->access.
 */
void
sagg_state_access_init(SaggExecution *ex)
{
	ex->access.arg = ex;
	ex->access.fingerprint = ex->query->fingerprint;
	ex->access.units = units;
	ex->access.changes = changes;
	ex->access.contents = contents;
	ex->access.known = known;
	ex->access.restore = restore;
	ex->access.restored = restored;
}

/*
 * Read a unit that is out, in the middle of anything: what the execution
 * remembers of the current row stays.  A SaggUnitFn.
 */
static void
read_unit(void *arg, const SaggStateUnit *unit)
{
	SaggExecution *ex = arg;
	ExprContext *tmpcontext = ex->tmpcontext;
	StringInfoData entry = ex->entry;
	Datum	   *row_keys = ex->row_keys;
	bool	   *row_keynulls = ex->row_keynulls;
	TimestampTz row_watermark = ex->row_watermark;
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	if (ex->unitcontext == NULL)
		ex->unitcontext = CreateStandaloneExprContext();
	MemoryContextSwitchTo(ex->unitcontext->ecxt_per_query_memory);
	ex->tmpcontext = ex->aggstate->tmpcontext = ex->unitcontext;
	initStringInfo(&ex->entry);
	ex->row_keys = palloc(sizeof(Datum) * Max(ex->query->nkeys, 1));
	ex->row_keynulls = palloc(sizeof(bool) * Max(ex->query->nkeys, 1));
	ex->row_watermark = ex->plan->watermark;
	ex->read_unit(ex->read_arg, &ex->access, unit);
	pfree(ex->entry.data);
	pfree(ex->row_keys);
	pfree(ex->row_keynulls);
	ex->tmpcontext = ex->aggstate->tmpcontext = tmpcontext;
	ex->entry = entry;
	ex->row_keys = row_keys;
	ex->row_keynulls = row_keynulls;
	ex->row_watermark = row_watermark;
	MemoryContextSwitchTo(old);
}

/*
 * Have units of the state that are not in memory read by "read" when they are
 * needed, and units that leave it before the commit handed to CHECKPOINT by
 * "spill".  Else an execution needs a store that has all in memory.
 */
void
sagg_execution_read_units(SaggExecution *ex, SaggReadUnitFn read, SaggReadUnitFn spill,
						  void *arg)
{
	ex->read_unit = read;
	ex->spill_unit = spill;
	ex->read_arg = arg;
	sagg_store_fetch_by(ex->store, read_unit, ex);
}
