/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Hash and equality of grouping keys.
 *
 * Keys are equal as in GROUP BY: by the operator of the query, under the key's
 * collation; NULLs are equal.  If that operator compares bytes, they are
 * compared here, otherwise by calling it.
 *
 * There are two hashes.  One decides the partition of a stored group, so a
 * change of it is a change of the format of stored state; anybody can compute
 * it.  The other finds groups in hash tables, of the batch and of the store.
 * It has the store's secret seed, because producers choose keys (key_hash.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "execute_internal.h"

static SaggKeyKind
key_kind(Oid function, Oid collation)
{
	switch (function)
	{
		case F_BOOLEQ:
		case F_CHAREQ:
			return SAGG_KEY_INT1;
		case F_INT2EQ:
			return SAGG_KEY_INT2;
		case F_INT4EQ:
		case F_OIDEQ:
		case F_DATE_EQ:
			return SAGG_KEY_INT4;
		case F_INT8EQ:
		case F_TIMESTAMP_EQ:
		case F_TIMESTAMPTZ_EQ:
			return SIZEOF_DATUM == 8 ? SAGG_KEY_INT8 : SAGG_KEY_GENERAL;
		case F_ENUM_EQ:
			return SAGG_KEY_ENUM;
		case F_TEXTEQ:
			return OidIsValid(collation) && get_collation_isdeterministic(collation) ?
				SAGG_KEY_TEXT : SAGG_KEY_GENERAL;
		default:
			return SAGG_KEY_GENERAL;
	}
}

/*
 * Set up the keys of a query, in the current context.
 */
SaggKeyCall *
sagg_keys_init(const SaggQuery *query)
{
	SaggKeyCall *keys = palloc0(sizeof(SaggKeyCall) * Max(query->nkeys, 1));

	for (int i = 0; i < query->nkeys; i++)
	{
		const SaggKey *key = &query->keys[i];
		Oid			hash;
		Oid			ignore;

		if (!get_op_hash_functions(key->eqop, &hash, &ignore))
			elog(ERROR, "could not find hash function for operator %u", key->eqop);
		fmgr_info(hash, &keys[i].hash);
		fmgr_info(get_opcode(key->eqop), &keys[i].eq);
		keys[i].kind = key_kind(keys[i].eq.fn_oid, key->collation);
		if (keys[i].kind == SAGG_KEY_GENERAL)
			keys[i].general = sagg_key_hash_init(key->type, key->eqop, key->collation);
		sagg_codec_init(&keys[i].codec, key->type, key->typmod);
	}
	return keys;
}

/*
 * Returns a text in readable form, perhaps in the memory of the row.
 */
static inline struct varlena *
plain_text(SaggExecution *ex, Datum value)
{
	struct varlena *text = (struct varlena *) DatumGetPointer(value);
	MemoryContext old;

	if (likely(!VARATT_IS_EXTENDED(text)) || VARATT_IS_SHORT(text))
		return text;
	old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	text = PG_DETOAST_DATUM_PACKED(value);
	MemoryContextSwitchTo(old);
	return text;
}

static inline bool
values_equal(SaggExecution *ex, int i, Datum a, Datum b)
{
	switch (ex->keys[i].kind)
	{
		case SAGG_KEY_INT1:
			return DatumGetChar(a) == DatumGetChar(b);
		case SAGG_KEY_INT2:
			return DatumGetInt16(a) == DatumGetInt16(b);
		case SAGG_KEY_INT4:
			return DatumGetInt32(a) == DatumGetInt32(b);
		case SAGG_KEY_INT8:
			return DatumGetInt64(a) == DatumGetInt64(b);
		case SAGG_KEY_ENUM:
			return DatumGetObjectId(a) == DatumGetObjectId(b);
		case SAGG_KEY_TEXT:
			{
				struct varlena *x = plain_text(ex, a);
				struct varlena *y = plain_text(ex, b);

				return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
					memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
			}
		case SAGG_KEY_GENERAL:
			break;
	}
	return DatumGetBool(FunctionCall2Coll(&ex->keys[i].eq,
										  ex->query->keys[i].collation, a, b));
}

/*
 * Returns whether two arrays of key values are those of one group.  May leave
 * garbage in the current context.
 */
bool
sagg_keys_equal(SaggExecution *ex, const Datum *a, const bool *anulls,
				const Datum *b, const bool *bnulls)
{
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		if (anulls[i] != bnulls[i])
			return false;
		if (!anulls[i] && !values_equal(ex, i, a[i], b[i]))
			return false;
	}
	return true;
}

/*
 * Returns the hash of an enum's label.  The server hashes its OID, which
 * differs in a database that a dump is restored into; but the place of a
 * stored group depends on its hash.
 */
static uint64
label_hash(SaggKeyCall *key, Datum value)
{
	bytea	   *label = sagg_codec_send(&key->codec, value);
	uint64		hash = hash_bytes((unsigned char *) VARDATA_ANY(label),
								  VARSIZE_ANY_EXHDR(label));

	pfree(label);
	return hash;
}

static inline uint64
value_hash(SaggExecution *ex, int i, Datum value)
{
	switch (ex->keys[i].kind)
	{
		case SAGG_KEY_INT1:
			return (uint64) (int64) DatumGetChar(value);
		case SAGG_KEY_INT2:
			return (uint64) (int64) DatumGetInt16(value);
		case SAGG_KEY_INT4:
			return (uint64) (int64) DatumGetInt32(value);
		case SAGG_KEY_INT8:
			return (uint64) DatumGetInt64(value);
		case SAGG_KEY_ENUM:
			return label_hash(&ex->keys[i], value);
		case SAGG_KEY_TEXT:
			{
				struct varlena *text = plain_text(ex, value);

				return hash_bytes((unsigned char *) VARDATA_ANY(text),
								  VARSIZE_ANY_EXHDR(text));
			}
		case SAGG_KEY_GENERAL:
			break;
	}
	return DatumGetUInt32(FunctionCall1Coll(&ex->keys[i].hash,
											ex->query->keys[i].collation, value));
}

/*
 * Returns what the start of an entry adds to the hash of its keys, so that the
 * hash of the keys can be computed from that of an entry.  panes.c and
 * sessions rely on it.
 */
uint32
sagg_start_salt(const SaggHashSeed *seed, int64 start)
{
	return SAGG_SEEDED_HASH((uint32) sagg_seeded_hash(seed, (uint64) start));
}

/*
 * Add a value to a seeded hash.
 */
static pg_noinline void
add_value(SaggExecution *ex, SaggSip *sip, int i, Datum value)
{
	const SaggKeyCall *key = &ex->keys[i];
	struct varlena *text;

	switch (key->kind)
	{
		case SAGG_KEY_TEXT:
			text = plain_text(ex, value);
			sagg_sip_add_bytes(sip, VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text));
			break;
		case SAGG_KEY_ENUM:
			sagg_sip_add(sip, DatumGetObjectId(value));
			break;
		case SAGG_KEY_GENERAL:
			sagg_key_hash_add(ex, key->general, sip, value);
			break;
		default:
			sagg_sip_add(sip, value_hash(ex, i, value));
	}
}

/*
 * Returns the hash of a group for the tables of a batch, from the start of its
 * window and its keys: SAGG_SEEDED_BITS.  May leave garbage in the current
 * context.
 */
uint32
sagg_keys_hash(SaggExecution *ex, int64 start, const Datum *keys,
			   const bool *nulls)
{
	bool		panes = ex->query->window.panes;
	SaggSip		sip;
	uint32		hash;

	sagg_sip_init(&sip, ex->seed);
	sagg_sip_add(&sip, panes ? 0 : (uint64) start);
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		if (nulls[i])
			sagg_sip_add_null(&sip);
		else if (likely(ex->keys[i].kind == SAGG_KEY_INT8))
			sagg_sip_add(&sip, DatumGetInt64(keys[i]));
		else
			add_value(ex, &sip, i, keys[i]);
	}
	hash = SAGG_SEEDED_HASH((uint32) sagg_sip_end(&sip));
	return unlikely(panes) ? hash ^ sagg_start_salt(ex->seed, start) : hash;
}

/* multiply and shift, as in MurmurHash's finalizer */
static inline uint64
mix(uint64 hash, uint64 value)
{
	hash = (hash ^ value) * UINT64CONST(0xff51afd7ed558ccd);
	return hash ^ (hash >> 33);
}

/*
 * Returns the hash of a group in the store: with its partition, which is one
 * for all panes and all sessions of a key. "hash" is that of sagg_keys_hash.
 * May leave garbage in the current context.
 */
uint32
sagg_keys_place(SaggExecution *ex, uint32 hash, int64 start, const Datum *keys,
				const bool *nulls)
{
	uint64		open = mix(UINT64CONST(0x9e3779b97f4a7c15),
						   ex->query->window.panes ? 0 : (uint64) start);
	uint32		partition;

	for (int i = 0; i < ex->query->nkeys; i++)
		open = mix(open, nulls[i] ? UINT64CONST(0xc4ceb9fe1a85ec53) :
				   value_hash(ex, i, keys[i]));
	partition = (uint32) ((open * UINT64CONST(0xc4ceb9fe1a85ec53)) >> 32) % SAGG_STATE_PARTITIONS;
	return hash | partition << SAGG_SEEDED_BITS;
}
