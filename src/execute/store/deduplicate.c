/*-------------------------------------------------------------------------
 *
 * deduplicate.c
 *	  DISTINCT ON within the watermark: remembers the keys that have been seen.
 *
 * The first row of a key passes, in the order of arrival, and the key is
 * remembered until the watermark reaches the row's event time plus the delay:
 * its expiry.  Repetitions neither pass nor extend that.
 *
 * A stored key is an entry like that of a group (entry.c), with its expiry in
 * place of the window's start.  Keys are stored in units by expiry, each for
 * one step of time: the unit of the step that ends at e has the keys that
 * expire after e - step and not after e.  It starts at e - 1, so that its end
 * stays the same when the delay changes.  So expired keys are freed unit by unit, like closed
 * windows, without a search.  A step is a quarter of the delay: as live keys
 * expire within two delays, a lookup goes through about nine units.  Keys of
 * records from the future expire later, and share a unit with a longer time:
 * whenever the distance is four times as great, the step is, too.  So there
 * are about nine more units each time the distance grows fourfold, however
 * many different times there are.  An expired key in a unit that is not freed
 * yet does not count.
 *
 * Like groups, new keys go to the store at the end only (I3).
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

#include "execute/pass_rows.h"

/* the delay has this many steps */
#define STEPS_OF_DELAY	4
#define UNIT_SIZE		INT64CONST(1)	/* microseconds; as the store has it */
#define LEAST_STEP		INT64CONST(1000)	/* microseconds */
#define GREATEST_STEP	(INT64CONST(365) * USECS_PER_DAY)

/* A key that the batch has met; in private memory. */
typedef struct SeenKey
{
	int64		expires;
	uint32		hash;			/* hash as the store has it */
	bool		fresh;			/* not in the store yet */
	Datum	   *keys;
	bool	   *nulls;
} SeenKey;

typedef struct SeenEntry
{
	SeenKey    *key;
	uint32		hash;
	char		status;
} SeenEntry;

static bool seen_equal(SaggExecution *ex, const SeenKey *a, const SeenKey *b);

#define SH_PREFIX		seentab
#define SH_ELEMENT_TYPE	SeenEntry
#define SH_KEY_TYPE		SeenKey *
#define SH_KEY			key
#define SH_HASH_KEY(tb, k)		0	/* it is always given */
#define SH_EQUAL(tb, a, b)		seen_equal((tb)->private_data, a, b)
#define SH_SCOPE		static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		((a)->hash)
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct SaggSeenKeys
{
	MemoryContext memory;		/* memory of the keys */
	seentab_hash *table;
	int64		step;			/* see expiry_step */
	SaggWindow	window;			/* the end of a unit, as the store has it */
};

static bool
seen_equal(SaggExecution *ex, const SeenKey *a, const SeenKey *b)
{
	return sagg_keys_equal(ex, a->keys, a->nulls, b->keys, b->nulls);
}

/*
 * Returns the time that one unit of the store covers, for a watermark's delay;
 * both in microseconds.
 */
static int64
expiry_step(int64 delay)
{
	return Min(Max(delay / STEPS_OF_DELAY, LEAST_STEP), GREATEST_STEP);
}

/*
 * Returns the functions that say when a unit of the store ends.  Lives as long
 * as the execution.
 */
const SaggWindow *
sagg_seen_keys_window(const SaggExecution *ex)
{
	return &ex->seen->window;
}

/*
 * Returns the begin of the step, or of the "size" of several, that an expiry
 * is in.
 */
static int64
step_start(int64 expires, int64 size)
{
	int64		into = (expires - 1) % size;

	return expires - 1 - (into < 0 ? into + size : into);
}

/*
 * Returns the start of the unit for an expiry, by the watermark; if there is
 * none yet, by the watermark of a batch that has only its latest record.
 */
static int64
unit_start(const SaggExecution *ex, int64 expires, TimestampTz watermark)
{
	int64		step = ex->seen->step;
	int64		size = step;
	int64		distance;
	int64		end;

	if (TIMESTAMP_NOT_FINITE(watermark) &&
		(!ex->any_time || pg_sub_s64_overflow(ex->max_time, ex->stream->watermark_delay, &watermark)))
		distance = 0;
	else if (pg_sub_s64_overflow(expires, watermark, &distance))
		distance = PG_INT64_MAX;
	while (distance / (4 * STEPS_OF_DELAY) > size && size < PG_INT64_MAX / 16)
		size *= 4;
	/* the very last step is for expiries that no other step covers */
	if (pg_add_s64_overflow(step_start(expires, size), size, &end) || end > END_TIMESTAMP)
		end = step_start(END_TIMESTAMP, step) + step;
	return end - UNIT_SIZE;
}

/*
 * Returns when the key of a row of this event time expires.
 */
static int64
expiry(const SaggExecution *ex, int64 time)
{
	int64		result;

	if (pg_add_s64_overflow(time, ex->stream->watermark_delay, &result))
		return END_TIMESTAMP;
	return Min(result, END_TIMESTAMP);
}

/*
 * Make an empty set of keys, in the current context.
 */
struct SaggSeenKeys *
sagg_seen_keys_init(SaggExecution *ex)
{
	struct SaggSeenKeys *seen = palloc0(sizeof(struct SaggSeenKeys));

	seen->memory = AllocSetContextCreate(ex->memory, "stream_agg seen keys",
										 ALLOCSET_DEFAULT_SIZES);
	seen->table = seentab_create(ex->memory, 1024, ex);
	sagg_group_memory_init(ex, seen->memory);
	seen->window.kind = SAGG_WINDOW_TUMBLE;
	seen->window.size = UNIT_SIZE;
	seen->step = expiry_step(ex->stream->watermark_delay);
	return seen;
}

/*
 * Forget the keys that the batch has met.
 */
void
sagg_seen_keys_forget(SaggExecution *ex)
{
	seentab_reset(ex->seen->table);
	MemoryContextReset(ex->seen->memory);
}

/*
 * Returns whether an entry of the store is that of the execution's scratch
 * keys.
 */
static bool
entry_matches(SaggExecution *ex, SaggEntry entry, int64 expires)
{
	SaggGroup	probe = {.start = expires, .keys = ex->row_keys,
	.keynulls = ex->row_keynulls};

	return sagg_entry_has_keys(ex, entry.data, entry.len, &probe);
}

/*
 * Returns whether a unit of the store has the execution's scratch keys, and
 * they have not expired; sets when they do.  Leaves garbage in the current
 * context.
 */
static bool
find_in_unit(SaggExecution *ex, const SaggUnit *unit, uint32 hash, int64 *expires)
{
	uint32		step = 0;
	SaggStored	stored;

	while (sagg_unit_probe(ex->store, unit, hash, &step, &stored))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, stored);

		memcpy(expires, entry.data, sizeof(*expires));
		if (*expires > ex->plan->watermark && entry_matches(ex, entry, *expires))
			return true;
	}
	return false;
}

/*
 * Returns whether the store has the execution's scratch keys, and they have
 * not expired; sets when they do.
 */
static bool
find_stored(SaggExecution *ex, uint32 hash, int64 *expires)
{
	bool		found = false;
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	SaggScan	scan;

	sagg_scan_partition(&scan, ex->store, SAGG_PARTITION_OF(hash));
	while (!found && sagg_scan_next_unit(&scan))
		found = find_in_unit(ex, scan.unit, hash, expires);
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Copy the execution's scratch keys, to be kept with the batch.
 */
static SeenKey *
keep_key(SaggExecution *ex)
{
	int			nkeys = ex->query->nkeys;
	MemoryContext old = MemoryContextSwitchTo(ex->seen->memory);
	char	   *memory = palloc(MAXALIGN(sizeof(SeenKey)) + (sizeof(Datum) + sizeof(bool)) * nkeys);
	SeenKey    *key = (SeenKey *) memory;

	key->keys = (Datum *) (memory + MAXALIGN(sizeof(SeenKey)));
	key->nulls = (bool *) (key->keys + nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		key->nulls[i] = ex->row_keynulls[i];
		key->keys[i] = key->nulls[i] ? (Datum) 0 :
			datumCopy(ex->row_keys[i], ex->keys[i].codec.byval, ex->keys[i].codec.len);
	}
	MemoryContextSwitchTo(old);
	return key;
}

/*
 * Returns whether the keys of a row have been seen before, and notes them.
 * "time" is the row's event time, which is not late.
 */
bool
sagg_seen_key(SaggExecution *ex, int64 time, const Datum *values, const bool *nulls)
{
	uint32		hash = sagg_groups_hash_row(ex, 0, values, nulls);
	SeenKey		probe = {.keys = ex->row_keys, .nulls = ex->row_keynulls};
	SeenKey    *key;
	bool		found = seentab_lookup_hash(ex->seen->table, &probe, hash) != NULL;
	bool		stored;

	if (!found)
	{
		int64		expires;

		hash = sagg_keys_place(ex, hash, 0, ex->row_keys, ex->row_keynulls);
		stored = find_stored(ex, hash, &expires);
		key = keep_key(ex);
		key->fresh = !stored;
		key->expires = stored ? expires : expiry(ex, time);
		key->hash = hash;
		(void) seentab_insert_hash(ex->seen->table, key, SAGG_SEEDED_HASH(hash), &found);
		Assert(!found);
		sagg_group_memory_check(ex, 1);
		found = stored;
	}
	ResetExprContext(ex->tmpcontext);
	return found;
}

/*
 * Write the batch's new keys to the store, unless they have expired by its
 * end.  The store knows the watermark after the batch.
 */
void
sagg_seen_keys_store(SaggExecution *ex)
{
	TimestampTz watermark = sagg_store_close_before(ex->store);
	seentab_iterator iterator;
	SeenEntry  *entry;

	seentab_start_iterate(ex->seen->table, &iterator);
	while ((entry = seentab_iterate(ex->seen->table, &iterator)) != NULL)
	{
		SeenKey    *key = entry->key;
		SaggGroup	group = {.start = key->expires, .keys = key->keys,
		.keynulls = key->nulls};

		CHECK_FOR_INTERRUPTS();
		if (!key->fresh || key->expires <= watermark)
			continue;
		sagg_entry_write(ex, &ex->entry, &group);
		sagg_store_put(ex->store, unit_start(ex, key->expires, watermark),
					   key->hash, SAGG_NOT_STORED, ex->entry.data, ex->entry.len);
		SAGG_FAILPOINT("store.changed");
	}
}

/*
 * Put an entry of the log into its unit, at once and not undoable.  Leaves
 * garbage in the current context.
 */
void
sagg_seen_key_restore(SaggExecution *ex, const SaggStateUnit *unit, const char *data, Size len)
{
	SaggGroup	group = {.keys = ex->row_keys, .keynulls = ex->row_keynulls};
	const SaggUnit *present;
	int64		start;
	int64		expires;
	uint32		hash;

	sagg_entry_check_keys(ex, data, len);
	sagg_entry_read(ex, &group, data, len, false);
	hash = sagg_keys_place(ex, sagg_keys_hash(ex, 0, group.keys, group.keynulls), 0,
						   group.keys, group.keynulls);
	sagg_check_partition(hash, unit->partition);
	start = unit->start == SAGG_SHARED_UNIT ? unit_start(ex, group.start, ex->plan->watermark) :
		unit->start;
	present = sagg_store_unit(ex->store, unit->partition, start);
	if (group.start > sagg_window_end(&ex->seen->window, start))
		sagg_codec_corrupt("It expires at another time than the entries of its unit.");
	if (group.start > ex->plan->watermark && !sagg_entry_is_stale(ex, unit, start) &&
		(present == NULL || !find_in_unit(ex, present, hash, &expires)))
		sagg_store_load(ex->store, start, hash, SAGG_NOT_STORED, data, len);
}
