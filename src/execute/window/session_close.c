/*-------------------------------------------------------------------------
 *
 * session_close.c
 *	  Ends a batch for session windows: emits them, and writes state to the
 *	  store.
 *
 * Mode append emits the sessions that the new watermark has passed, complete
 * all.  Mode update emits the sessions that the batch has changed, and the
 * identities of the former sessions they consist of, whose rows leave the sink
 * in the same commit.
 *
 * In the store a session that is changed is a new version of the stored one
 * with its start; other stored sessions that it has absorbed are replaced by a
 * mark that they are gone (entry.c), for the log.  Those marks, and sessions
 * that are over, are buried: publish removes them, and undo ignores them (I3).
 * Sessions that are over leave no mark in the log, because a restore knows the
 * watermark.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"

#include "execute/batch_units.h"
#include "session_windows.h"

/*
 * Returns whether the batch closes sessions that end at this time.
 */
static bool
closes(const SaggExecution *ex, int64 end)
{
	return end <= sagg_store_close_before(ex->store);
}

/*
 * Returns whether a stored session is, in the sink, the same row as this one.
 */
static bool
same_identity(const SaggExecution *ex, const SaggSessionWindow *session,
			  const SaggSessionPart *part)
{
	SaggWindowPart window = ex->query->window_identity;

	return (window == SAGG_WINDOW_END || part->start == session->group.start) &&
		(window == SAGG_WINDOW_START || part->end == session->end);
}

/*
 * Mode update: emit the identities of sessions that this one has absorbed.  A
 * row with its identity stays in the sink, all others leave it.
 */
static void
emit_replaced(SaggExecution *ex, SaggSessionWindow *session)
{
	session->group.stored = SAGG_NOT_STORED;
	for (SaggSessionPart *part = session->parts; part; part = part->next)
	{
		if (same_identity(ex, session, part))
			session->group.stored = part->stored;
		else
			sagg_emit_replaced(ex, &session->group, part->start, part->end);
	}
}

static bool
is_emitted(const SaggExecution *ex, const SaggSessionWindow *session)
{
	switch (ex->stream->mode)
	{
		case SAGG_APPEND:
			return closes(ex, session->end);
		case SAGG_UPDATE:
			return session->group.changed;
		case SAGG_COMPLETE:
			break;
	}
	return true;
}

/*
 * Write a changed session to the store.
 */
static void
put_session(SaggExecution *ex, SaggSessionKey *key, SaggSessionWindow *session)
{
	SaggStore  *store = ex->store;
	uint32		hash = session->group.hash;
	SaggStored	old = SAGG_NOT_STORED;
	bool		apart = false;
	MemoryContext save;

	for (SaggSessionPart *part = session->parts; part; part = part->next)
	{
		if (part->start == session->group.start)
		{
			old = part->stored;
			apart = part->apart;
		}
		else
		{
			sagg_entry_write_gone(ex, &ex->entry, &session->group, part->start);
			sagg_session_bury(store, hash, part->start, part->apart,
							  sagg_session_put(store, hash, part->start, part->apart,
											   part->stored, &ex->entry));
		}
	}
	if (!sagg_is_stored(old))
		apart = key->nstored++ >= SAGG_FEW_SESSIONS;
	save = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	sagg_entry_write(ex, &ex->entry, &session->group);
	MemoryContextSwitchTo(save);
	sagg_session_put(store, hash, session->group.start, apart, old, &ex->entry);
	if (!sagg_is_stored(old))
		sagg_due_add(store, session->end, hash);
	SAGG_FAILPOINT("store.changed");
}

/*
 * Returns whether a session begins at or before the watermark of the previous
 * batch.  A session of its key that touches it and ends at or before the
 * watermark is closed, so the two are not merged.  Closed sessions are not
 * remembered, so this is true of the sessions for which there may be one: of
 * all that have lost a part, and of some others.  It does not depend on the
 * order of records.
 */
static bool
begins_beside_closed(const SaggExecution *ex, const SaggSessionWindow *session)
{
	if (!session->group.changed || !sagg_session_passed(ex, session->group.start))
		return false;
	for (const SaggSessionPart *part = session->parts; part; part = part->next)
	{
		if (part->start == session->group.start)
			return false;
	}
	return true;
}

static void
close_session(SaggExecution *ex, SaggSessionKey *key, SaggSessionWindow *session)
{
	if (is_emitted(ex, session))
	{
		sagg_session_load(ex, session);
		if (ex->stream->mode == SAGG_UPDATE)
			emit_replaced(ex, session);
		sagg_emit_group(ex, &session->group);
	}
	if (closes(ex, session->end))
	{
		for (SaggSessionPart *part = session->parts; part; part = part->next)
			sagg_session_bury(ex->store, session->group.hash, part->start,
							  part->apart, part->stored);
	}
	else if (session->group.changed)
		put_session(ex, key, session);
	ResetExprContext(ex->tmpcontext);
}

/*
 * Emit a stored session.  "group" has its bounds and keys.
 */
static void
emit_stored(SaggExecution *ex, SaggGroup *group, SaggEntry entry)
{
	sagg_entry_read(ex, group, entry.data, entry.len, true);
	sagg_emit_group(ex, group);
}

static void
emit_unit(SaggExecution *ex, SaggScan *scan, SaggGroup *group)
{
	while (sagg_scan_next(scan))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, scan->stored);
		MemoryContext old;

		if (sagg_entry_is_gone(entry.data) ||
			sagg_session_passed(ex, sagg_entry_end(entry.data)))
			continue;
		old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
		group->hash = sagg_session_scan_hash(scan);
		sagg_entry_read(ex, group, entry.data, entry.len, false);
		if (!sagg_sessions_met(ex, group))
			emit_stored(ex, group, entry);
		MemoryContextSwitchTo(old);
		ResetExprContext(ex->tmpcontext);
	}
}

/*
 * Emit all stored sessions that the last commit's watermark has not passed, of
 * keys that the batch has not met.
 */
void
sagg_sessions_emit_stored(SaggExecution *ex)
{
	SaggGroup  *group = sagg_groups_allocate(ex);
	SaggScan	scan;

	sagg_scan_store(&scan, ex->store);
	while (sagg_scan_next_unit(&scan))
		emit_unit(ex, &scan, group);
}

/*
 * The same for one partition.
 */
static void
emit_partition(SaggExecution *ex, int partition, SaggGroup *group)
{
	SaggScan	scan;

	sagg_scan_partition(&scan, ex->store, partition);
	while (sagg_scan_next_unit(&scan))
		emit_unit(ex, &scan, group);
}

/*
 * Handle sessions with this hash that are over and whose key the batch has not
 * met: mode append emits them, and all modes bury them.
 */
static void
close_hash(SaggExecution *ex, uint32 hash, SaggGroup *group)
{
	SaggSessionWalk walk;
	int64		least = DT_NOEND;
	SaggStored	stored;

	sagg_session_walk(ex->store, hash, &walk);
	while (sagg_session_walk_next(ex->store, &walk, &stored))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, stored);
		int64		end = sagg_entry_end(entry.data);
		MemoryContext old;

		if (!closes(ex, end))
		{
			if (!sagg_entry_is_gone(entry.data))
				least = Min(least, end);
			continue;
		}
		old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
		group->hash = hash;
		sagg_entry_read(ex, group, entry.data, entry.len, false);
		if (!sagg_sessions_met(ex, group))
		{
			if (ex->stream->mode == SAGG_APPEND)
				emit_stored(ex, group, entry);
			sagg_session_bury(ex->store, hash, group->start, walk.apart, stored);
		}
		MemoryContextSwitchTo(old);
		ResetExprContext(ex->tmpcontext);
	}
	if (least != DT_NOEND)
		sagg_due_add(ex->store, least, hash);
}

/*
 * Close sessions of a partition whose key the batch has not met.
 */
static void
close_due(SaggExecution *ex, int partition, SaggGroup *group)
{
	int64		until = sagg_store_close_before(ex->store);
	uint32	   *hashes;
	int64		n;

	if (!sagg_due_prepare(ex->store, partition, until))
		return;
	hashes = sagg_due_take(ex->store, partition, until, &n);

	for (int64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		close_hash(ex, hashes[i], group);
	}
	pfree(hashes);
}

/*
 * Emit the sessions of a key that the batch has met, and write them to the
 * store.
 */
static void
close_key(SaggExecution *ex, SaggSessionKey *key)
{
	SaggSessionWindow *session;

	for (SaggSessionPlace place = sagg_session_first(&key->sessions);
		 (session = sagg_session_at(&key->sessions, place)) != NULL;
		 place = sagg_session_next(&key->sessions, place))
	{
		CHECK_FOR_INTERRUPTS();
		if (begins_beside_closed(ex, session))
			ex->beside_closed++;
		close_session(ex, key, session);
	}
}

/*
 * Do all that the end of a batch does to a partition, and let its sessions go.
 */
static void
close_partition(SaggExecution *ex, int partition, bool forgets, SaggGroup *group)
{
	SaggSessionKey *keys = sagg_sessions_of(ex, partition);

	for (SaggSessionKey *key = keys; key; key = key->next)
		sagg_session_key_settle(ex, key);
	if (forgets)
		(void) sagg_due_prepare(ex->store, partition, sagg_store_close_before(ex->store));
	for (SaggSessionKey *key = keys; key; key = key->next)
		close_key(ex, key);
	if (forgets)
		close_due(ex, partition, group);
	if (ex->stream->mode == SAGG_COMPLETE)
		emit_partition(ex, partition, group);
	sagg_unit_release(ex, sagg_store_unit(ex->store, partition, SAGG_SESSIONS_UNIT));
}

/*
 * End the batch's work on sessions; the store knows until when it closes
 * windows.
 */
void
sagg_sessions_close(SaggExecution *ex)
{
	bool		forgets = sagg_store_close_before(ex->store) > DT_NOBEGIN;
	SaggGroup  *group = sagg_groups_allocate(ex);

	ex->beside_closed = 0;
	for (int p = 0; ex->units && p < SAGG_STATE_PARTITIONS; p++)
		close_partition(ex, p, forgets, group);
	if (ex->units)
		return;
	for (int p = 0; forgets && p < SAGG_STATE_PARTITIONS; p++)
		(void) sagg_due_prepare(ex->store, p, sagg_store_close_before(ex->store));
	for (SaggSessionKey *key = sagg_sessions_next(ex, true); key;
		 key = sagg_sessions_next(ex, false))
	{
		CHECK_FOR_INTERRUPTS();
		close_key(ex, key);
	}
	for (int p = 0; forgets && p < SAGG_STATE_PARTITIONS; p++)
		close_due(ex, p, group);
	if (ex->stream->mode == SAGG_COMPLETE)
		sagg_sessions_emit_stored(ex);
}
