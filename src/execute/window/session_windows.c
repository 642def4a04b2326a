/*-------------------------------------------------------------------------
 *
 * session_windows.c
 *	  Session windows: puts rows into the open sessions of their keys.
 *
 * A record is a session by itself, [ts, ts + gap).  Sessions of a key that
 * overlap or touch, start <= end, are one, and their states are combined; so
 * the sessions do not depend on the order of records.  As in Spark, a record
 * is late if its own session ends at or before the watermark that the commit
 * before left.  A record whose gap is NULL or not greater than zero is in no
 * session and counts as filtered, as if by WHERE.
 *
 * In the store a session is a group like any other, [start, end) and keys.  All
 * sessions of a key have the same hash, that of the keys alone, and are found
 * together.  A key that the batch meets gets all of them loaded, by start and
 * end; the states of those that no record touches are not read.  Nothing here
 * changes the store (I3).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "execute/event_times.h"
#include "session_windows.h"

typedef struct SessionEntry
{
	SaggSessionKey *key;
	uint32		hash;
	char		status;
} SessionEntry;

static bool same_key(SaggExecution *ex, const SaggSessionKey *a, const SaggSessionKey *b);

#define SH_PREFIX		sesstab
#define SH_ELEMENT_TYPE	SessionEntry
#define SH_KEY_TYPE		SaggSessionKey *
#define SH_KEY			key
#define SH_HASH_KEY(tb, k)		SAGG_SEEDED_HASH((k)->hash)
#define SH_EQUAL(tb, a, b)		same_key((tb)->private_data, a, b)
#define SH_SCOPE		static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		((a)->hash)
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct SaggSessions
{
	sesstab_hash *keys;
	SaggSessionKey *of_partition[SAGG_STATE_PARTITIONS];	/* lists of them, where
															 * units leave memory */
	sesstab_iterator iterator;
};

static bool
same_key(SaggExecution *ex, const SaggSessionKey *a, const SaggSessionKey *b)
{
	return sagg_keys_equal(ex, a->keys, a->keynulls, b->keys, b->keynulls);
}

/*
 * Make an empty table of keys, in the execution's memory.
 */
void
sagg_sessions_init(SaggExecution *ex)
{
	ex->sessions = palloc0(sizeof(struct SaggSessions));
	ex->sessions->keys = sesstab_create(ex->memory, 1024, ex);
}

/*
 * Forget all sessions, as if the batch had met none yet.  Their memory is that
 * of groups, and freed with them.
 */
void
sagg_sessions_forget(SaggExecution *ex)
{
	sesstab_reset(ex->sessions->keys);
	memset(ex->sessions->of_partition, 0, sizeof(ex->sessions->of_partition));
}

/*
 * Returns the list of the batch's keys in a partition, where units leave
 * memory.
 */
SaggSessionKey *
sagg_sessions_of(SaggExecution *ex, int partition)
{
	return ex->sessions->of_partition[partition];
}

/*
 * Go through all keys the batch has met, in any order; returns NULL at the
 * end.
 */
SaggSessionKey *
sagg_sessions_next(SaggExecution *ex, bool restart)
{
	SessionEntry *entry;

	if (restart)
		sesstab_start_iterate(ex->sessions->keys, &ex->sessions->iterator);
	entry = sesstab_iterate(ex->sessions->keys, &ex->sessions->iterator);
	return entry ? entry->key : NULL;
}

/*
 * Returns the least start of the batch's sessions, DT_NOEND = there are none.
 */
int64
sagg_sessions_first_start(SaggExecution *ex)
{
	int64		first = DT_NOEND;

	for (SaggSessionKey *key = sagg_sessions_next(ex, true); key;
		 key = sagg_sessions_next(ex, false))
	{
		SaggSessionWindow *session = sagg_session_at(&key->sessions,
													 sagg_session_first(&key->sessions));

		if (session)
			first = Min(first, session->group.start);
	}
	return first;
}

/*
 * Returns whether the batch has met the key of a group, given its hash and
 * keys.
 */
bool
sagg_sessions_met(SaggExecution *ex, const SaggGroup *group)
{
	SaggSessionKey probe = {
		.hash = group->hash,
		.keys = group->keys,
		.keynulls = group->keynulls
	};

	return sesstab_lookup_hash(ex->sessions->keys, &probe, SAGG_SEEDED_HASH(group->hash)) != NULL;
}

/*
 * Read the states of a session of which only the bounds are known so far.
 */
void
sagg_session_load(SaggExecution *ex, SaggSessionWindow *session)
{
	MemoryContext old;
	SaggEntry	entry;

	if (session->loaded)
		return;
	old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	entry = sagg_store_entry(ex->store, session->parts->stored);
	sagg_group_memory_load(ex, entry.len);
	sagg_entry_read(ex, &session->group, entry.data, entry.len, true);
	session->loaded = true;
	MemoryContextSwitchTo(old);
}

static int
compare_starts(const void *a, const void *b, void *arg)
{
	int64		x = (*(SaggSessionWindow *const *) a)->group.start;
	int64		y = (*(SaggSessionWindow *const *) b)->group.start;

	return x < y ? -1 : x > y;
}

/*
 * Load the open sessions of a key from the store, without their states, in the
 * current context.
 */
static void
load_sessions(SaggExecution *ex, SaggSessionKey *key)
{
	SaggSessionWalk walk;
	SaggSessionWindow **sessions = NULL;
	int			n = 0;
	int			max = 0;
	SaggStored	stored;

	sagg_session_walk(ex->store, key->hash, &walk);
	while (sagg_session_walk_next(ex->store, &walk, &stored))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, stored);
		SaggSessionWindow *session;

		CHECK_FOR_INTERRUPTS();
		key->nstored += walk.apart ? 0 : 1;
		if (!sagg_entry_same_keys(ex, entry.data, entry.len, key->keys, key->keynulls))
			continue;
		session = (SaggSessionWindow *) sagg_groups_allocate(ex);
		sagg_entry_read(ex, &session->group, entry.data, entry.len, false);
		session->group.hash = key->hash;
		session->parts = session->last_part = palloc0(sizeof(SaggSessionPart));
		session->parts->stored = stored;
		session->parts->start = session->group.start;
		session->parts->end = session->end;
		session->parts->apart = walk.apart;
		if (n == max)
		{
			max = Max(4, max * 2);
			sessions = sessions ? repalloc_huge(sessions, sizeof(SaggSessionWindow *) * max) :
				palloc(sizeof(SaggSessionWindow *) * max);
		}
		sessions[n++] = session;
	}
	if (n > 1)
		sagg_sort(sessions, n, sizeof(SaggSessionWindow *), compare_starts, NULL);
	for (int i = 0; i < n; i++)
		sagg_session_append(&key->sessions, sessions[i]);
	if (sessions)
		pfree(sessions);
}

static void
copy_keys(SaggExecution *ex, Datum *keys, bool *keynulls,
		  const Datum *from, const bool *fromnulls)
{
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		keynulls[i] = fromnulls[i];
		if (!fromnulls[i])
			keys[i] = datumCopy(from[i], ex->keys[i].codec.byval,
								ex->keys[i].codec.len);
	}
}

/*
 * Returns whether the stored sessions of a hash are not in memory, and the key
 * can do without them until the end of the batch.
 */
static bool
is_out(SaggExecution *ex, uint32 hash)
{
	const SaggUnit *unit;

	if (!ex->defers)
		return false;
	unit = sagg_store_unit(ex->store, SAGG_PARTITION_OF(hash), SAGG_SESSIONS_UNIT);
	return unit && !sagg_unit_in_memory(unit);
}

/*
 * Returns a key for the execution to keep.  NULL if it has no session yet and
 * is too long for one.
 */
static SaggSessionKey *
make_key(SaggExecution *ex, const SaggSessionKey *probe)
{
	MemoryContext old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	int			nkeys = Max(ex->query->nkeys, 1);
	SaggSessionKey *key = palloc0(sizeof(SaggSessionKey));

	key->hash = sagg_keys_place(ex, probe->hash, SAGG_SESSIONS_UNIT, probe->keys, probe->keynulls);
	key->keys = palloc0(sizeof(Datum) * nkeys);
	key->keynulls = palloc0(sizeof(bool) * nkeys);
	copy_keys(ex, key->keys, key->keynulls, probe->keys, probe->keynulls);
	key->deferred = is_out(ex, key->hash) && sagg_keys_fit(ex, key->keys, key->keynulls);
	if (!key->deferred)
		load_sessions(ex, key);
	if (!key->deferred && key->sessions.nblocks == 0 &&
		!sagg_keys_fit(ex, key->keys, key->keynulls))
		key = NULL;
	else if (ex->units)
	{
		SaggSessionKey **list = &ex->sessions->of_partition[SAGG_PARTITION_OF(key->hash)];

		key->next = *list;
		*list = key;
	}
	MemoryContextSwitchTo(old);
	return key;
}

/*
 * Returns the key that equals "probe", which has the hash of the batch; NULL if
 * it is too long.
 */
static SaggSessionKey *
require_key(SaggExecution *ex, const SaggSessionKey *probe)
{
	SessionEntry *entry = sesstab_lookup_hash(ex->sessions->keys, unconstify(SaggSessionKey *, probe),
											  probe->hash);
	SaggSessionKey *key;
	bool		found;

	if (entry)
		return entry->key;
	/* what can fail comes before the table is changed */
	key = make_key(ex, probe);
	if (key)
		sesstab_insert_hash(ex->sessions->keys, key, probe->hash, &found);
	return key;
}

/*
 * Returns the key of a row; NULL if it is too long, with the key in the
 * execution's scratch.
 */
static SaggSessionKey *
find_key(SaggExecution *ex, TupleTableSlot *slot)
{
	SaggSessionKey probe = {
		.hash = sagg_groups_hash_row(ex, SAGG_SESSIONS_UNIT, slot->tts_values, slot->tts_isnull),
		.keys = ex->row_keys,
		.keynulls = ex->row_keynulls
	};

	return require_key(ex, &probe);
}

/*
 * Returns a new session, without records.
 */
static SaggSessionWindow *
make_session(SaggExecution *ex, SaggSessionKey *key, SaggSessionPlace place,
			 int64 start, int64 end)
{
	MemoryContext old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	SaggSessionWindow *session = (SaggSessionWindow *) sagg_groups_allocate(ex);

	session->group.start = start;
	session->group.hash = key->hash;
	session->end = end;
	session->loaded = true;
	copy_keys(ex, session->group.keys, session->group.keynulls, key->keys, key->keynulls);
	sagg_states_init(ex, session->group.states);
	sagg_session_insert(&key->sessions, place, session);
	MemoryContextSwitchTo(old);
	return session;
}

/*
 * Merge the session at "place", which follows this one, into it.
 */
static void
absorb(SaggExecution *ex, SaggSessionKey *key, SaggSessionWindow *session,
	   SaggSessionPlace place)
{
	SaggSessionWindow *next = sagg_session_at(&key->sessions, place);

	sagg_session_load(ex, next);
	sagg_states_absorb(ex, session->group.states, next->group.states);
	session->end = Max(session->end, next->end);
	if (session->parts == NULL)
		session->parts = next->parts;
	else
		session->last_part->next = next->parts;
	if (next->parts)
		session->last_part = next->last_part;
	sagg_session_remove(&key->sessions, place);
}

/*
 * Merge the sessions that touch the one at "place" into it.
 */
static void
absorb_following(SaggExecution *ex, SaggSessionKey *key, SaggSessionWindow *session,
				 SaggSessionPlace place)
{
	for (;;)
	{
		SaggSessionPlace behind = sagg_session_next(&key->sessions, place);
		SaggSessionWindow *next = sagg_session_at(&key->sessions, behind);

		if (next == NULL || next->group.start > session->end)
			return;
		CHECK_FOR_INTERRUPTS();
		absorb(ex, key, session, behind);
	}
}

/*
 * Returns the session of a key that holds [start, end), merged with all that
 * touch it.
 */
static SaggSessionWindow *
require_session(SaggExecution *ex, SaggSessionKey *key, int64 start, int64 end)
{
	SaggSessionPlace place = sagg_session_find(&key->sessions, start);
	SaggSessionWindow *session = sagg_session_at(&key->sessions, place);

	if (session == NULL || session->group.start > end)
		return make_session(ex, key, place, start, end);
	sagg_session_load(ex, session);
	session->group.start = Min(session->group.start, start);
	session->end = Max(session->end, end);
	absorb_following(ex, key, session, place);
	return session;
}

/*
 * Merge a session of the batch with those of its key.
 */
static void
merge_session(SaggExecution *ex, SaggSessionKey *key, SaggSessionWindow *mine)
{
	SaggSessionPlace place = sagg_session_find(&key->sessions, mine->group.start);
	SaggSessionWindow *session = sagg_session_at(&key->sessions, place);

	if (session == NULL || session->group.start > mine->end)
	{
		(void) sagg_session_insert(&key->sessions, place, mine);
		return;
	}
	sagg_session_load(ex, session);
	sagg_states_absorb(ex, session->group.states, mine->group.states);
	session->group.changed = true;
	session->group.start = Min(session->group.start, mine->group.start);
	session->end = Max(session->end, mine->end);
	absorb_following(ex, key, session, place);
}

/*
 * Give a deferred key its stored sessions, as if it had had them from the
 * beginning: the sessions do not depend on the order of records.
 */
void
sagg_session_key_settle(SaggExecution *ex, SaggSessionKey *key)
{
	SaggSessionList mine = key->sessions;
	SaggSessionWindow *session;
	MemoryContext old;

	if (!key->deferred)
		return;
	key->deferred = false;
	memset(&key->sessions, 0, sizeof(key->sessions));
	old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	load_sessions(ex, key);
	for (SaggSessionPlace place = sagg_session_first(&mine);
		 (session = sagg_session_at(&mine, place)) != NULL;
		 place = sagg_session_next(&mine, place))
	{
		CHECK_FOR_INTERRUPTS();
		merge_session(ex, key, session);
	}
	MemoryContextSwitchTo(old);
	ResetExprContext(ex->tmpcontext);
}

/*
 * Read the gap of a row in microseconds; 0 if it has none.  If the gap has no
 * certain length, rejects the row's record and returns false.
 */
static bool
row_gap(SaggExecution *ex, TupleTableSlot *slot, int64 *gap)
{
	const SaggWindow *window = &ex->query->window;
	Interval   *interval;
	int64		days;

	*gap = window->gap;
	if (window->gap_column == 0 || slot->tts_isnull[window->gap_column - 1])
		return true;
	interval = DatumGetIntervalP(slot->tts_values[window->gap_column - 1]);
	if (interval->month != 0 ||
		pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(days, interval->time, gap))
	{
		sagg_reject_gap(ex, slot, interval);
		return false;
	}
	return true;
}

/*
 * Compute the session that a row makes by itself.  Returns false for a row
 * that is left out, which has been counted.
 */
static bool
place_row(SaggExecution *ex, TupleTableSlot *slot, int64 *start, int64 *end)
{
	AttrNumber	attno = ex->query->event_time - 1;
	int64		gap;

	if (slot->tts_isnull[attno])
	{
		sagg_classify(ex, slot, SAGG_CLASS_NULL_TIME);
		return false;
	}
	*start = DatumGetTimestampTz(slot->tts_values[attno]);
	if (!sagg_check_event_time(ex, slot, *start) || !row_gap(ex, slot, &gap))
	{
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		return false;
	}
	if (gap <= 0)
	{
		sagg_classify(ex, slot, SAGG_CLASS_FILTERED);
		return false;
	}
	if (pg_add_s64_overflow(*start, gap, end) || !IS_VALID_TIMESTAMP(*end))
	{
		sagg_reject_window(ex, slot, *start);
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		return false;
	}

	sagg_note_time(ex, slot, *start);
	if (sagg_session_passed(ex, *end))
	{
		ex->late_windows++;
		if (ex->late)
			sagg_late_row(ex, slot, *start, *start, *end, 0, 1);
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	return true;
}

/*
 * Put a row of the inner query, whose record is not rejected, into its
 * session.
 */
void
sagg_session_row(SaggExecution *ex, TupleTableSlot *slot)
{
	SaggSessionKey *key;
	SaggSessionWindow *session;
	int64		start;
	int64		end;

	if (!place_row(ex, slot, &start, &end))
		return;
	key = find_key(ex, slot);
	if (key == NULL)
	{
		sagg_reject_keys(ex, slot, ex->row_keys, ex->row_keynulls);
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
	}
	else
	{
		session = require_session(ex, key, start, end);
		session->group.changed = true;
		sagg_states_advance(ex, session->group.states, slot->tts_values, slot->tts_isnull);
		sagg_classify(ex, slot, SAGG_CLASS_AGGREGATED);
		sagg_group_memory_check(ex, 1);
	}
	ResetExprContext(ex->tmpcontext);
	SAGG_FAILPOINT("execute.row");
}

/*
 * Returns the session of the batch that "part", whose keys and bounds are set,
 * becomes a part of, merged with all that touch it; NULL if its keys are too
 * long for a new one.
 */
SaggGroup *
sagg_sessions_require(SaggExecution *ex, const SaggSessionWindow *part)
{
	SaggSessionKey probe = {
		.hash = sagg_keys_hash(ex, SAGG_SESSIONS_UNIT, part->group.keys, part->group.keynulls),
		.keys = part->group.keys,
		.keynulls = part->group.keynulls
	};
	SaggSessionKey *key = require_key(ex, &probe);

	return key ? &require_session(ex, key, part->group.start, part->end)->group : NULL;
}
