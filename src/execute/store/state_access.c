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

static Size
live_bytes(void *arg, int partition)
{
	SaggExecution *ex = arg;

	return sagg_store_live_bytes(ex->store, partition);
}

/*
 * Write the entries that the batch has put: deltas, or whole entries.
 */
static void
changes(void *arg, int partition, SaggBytesFn fn, void *fnarg)
{
	SaggExecution *ex = arg;
	int64		place = 0;
	SaggChange	change;

	while (sagg_store_next_change(ex->store, partition, &place, &change))
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

static void
contents(void *arg, int partition, SaggBytesFn fn, void *fnarg)
{
	SaggExecution *ex = arg;
	SaggScan	scan;

	sagg_scan_partition(&scan, ex->store, partition);
	while (sagg_scan_next_unit(&scan))
	{
		if (sagg_store_closes(ex->store, scan.start))
			continue;
		while (sagg_scan_next(&scan))
		{
			SaggEntry	entry = sagg_store_entry(ex->store, scan.stored);

			if (!is_leaving(ex, entry))
				pass_entry(entry, fn, fnarg);
		}
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
sagg_session_entry_restore(SaggExecution *ex, int partition, SaggGroup *group,
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
	sagg_check_partition(group->hash, partition);
	stored = sagg_session_stored(ex, group, &apart);
	if (gone && sagg_is_stored(stored))
		sagg_session_forget(ex->store, group->hash, group->start, apart, stored);
	else if (!gone && !sagg_session_passed(ex, sagg_entry_end(entry)))
		sagg_session_restore(ex->store, group->hash, group->start, apart, stored, entry, len);
}

/*
 * Put one entry of the log, or a delta, into the store.
 */
void
sagg_group_restore(SaggExecution *ex, int partition, SaggGroup *group,
				   const char *entry, Size len, bool delta)
{
	sagg_entry_check_keys(ex, entry, len);
	sagg_entry_read(ex, group, entry, len, false);
	group->hash = sagg_keys_place(ex, sagg_keys_hash(ex, group->start, group->keys, group->keynulls),
								  group->start, group->keys, group->keynulls);
	sagg_check_partition(group->hash, partition);
	if (!sagg_window_passed(ex, group->start))
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
restore(void *arg, int partition, const char *data, Size len)
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
			sagg_seen_key_restore(ex, partition, entry, entry_len);
		else
			ex->methods->restore(ex, partition, group, entry, entry_len, size < 0);
		MemoryContextSwitchTo(old);
		ResetExprContext(ex->tmpcontext);
	}
	pfree(group);
}

/*
 * Verify all entries.
 */
static void
restored(void *arg)
{
	SaggExecution *ex = arg;
	SaggScan	scan;

	sagg_scan_store(&scan, ex->store);
	while (sagg_scan_next_unit(&scan))
	{
		while (sagg_scan_next(&scan))
		{
			SaggEntry	entry = sagg_store_entry(ex->store, scan.stored);
			MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

			sagg_entry_check(ex, entry.data, entry.len);
			MemoryContextSwitchTo(old);
			ResetExprContext(ex->tmpcontext);
		}
	}
}

/*
 * Fill in ex->access.
 */
void
sagg_state_access_init(SaggExecution *ex)
{
	ex->access.arg = ex;
	ex->access.fingerprint = ex->query->fingerprint;
	ex->access.live_bytes = live_bytes;
	ex->access.changes = changes;
	ex->access.contents = contents;
	ex->access.restore = restore;
	ex->access.restored = restored;
}
