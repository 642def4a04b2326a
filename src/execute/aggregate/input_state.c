/*-------------------------------------------------------------------------
 *
 * input_state.c
 *	  Inputs of aggregates, kept as their state.
 *
 * The state of an aggregate with DISTINCT, with ORDER BY, of an ordered set,
 * or whose transition state cannot be stored, consists of its inputs: tuples
 * of its arguments and of the expressions they are sorted by.  At the end the
 * aggregate gets them in the order that PostgreSQL would use
 * (input_state_final.c).
 *
 * A tuple is its values one after the other, each as sagg_codec_write makes
 * it, or the length word -1 for NULL.  Tuples are in the order of their
 * arrival.  For DISTINCT they are a set: a tuple whose bytes are there already
 * is left out.  Values can be equal with different bytes (1.0 and 1.00), so
 * the operators of the query remove the remaining duplicates at the end.
 *
 * Format in the store and in the log: int64 number of tuples, a length word,
 * the bytes of the tuples.  A record costs only its own tuple; a batch reads
 * and writes the tuples of the groups it changes once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "execute/execute_internal.h"

#define NULL_VALUE		(-1)

/* most bytes of tuples in a group */
#define MAX_KEPT_MB		256
#define MAX_KEPT		((Size) MAX_KEPT_MB * 1024 * 1024)

/*
 * A set gets a hash table when lookups have passed this many times as many
 * tuples as it has.  Most sets that a batch reads are looked into a few times
 * only, and to step over a tuple is much quicker than to hash it.
 */
#define SCANS_BEFORE_TABLE	4

/* slots of the smallest hash table */
#define LEAST_SLOTS		32

/*
 * Returns whether equal values have equal bytes, by an operator family and a
 * type in it.
 */
static bool
is_image_equal(const SaggCodec *codec, Oid type, Oid collation,
			   Oid opfamily, Oid opcintype)
{
	Oid			function;

	if (!codec->raw && get_typtype(getBaseType(type)) != TYPTYPE_ENUM)
		return false;
	function = get_opfamily_proc(opfamily, opcintype, opcintype, BTEQUALIMAGE_PROC);
	return OidIsValid(function) &&
		DatumGetBool(OidFunctionCall1Coll(function, collation, ObjectIdGetDatum(opcintype)));
}

/*
 * Returns whether equal records have equal bytes.  They are compared field by
 * field, by the default operators of the types.
 */
static bool
is_record_image_equal(const SaggCodec *codec)
{
	for (int i = 0; i < codec->record->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(codec->record, i);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_BTREE_OPFAMILY);

		if (!is_image_equal(&codec->fields[i], att->atttypid, att->attcollation,
							type->btree_opf, type->btree_opintype))
			return false;
	}
	return true;
}

/*
 * Returns whether equal values of a column have equal bytes.
 */
static bool
is_column_image_equal(const SaggCodec *codec, Oid sortop, Oid type, Oid collation)
{
	Oid			opfamily;
	Oid			opcintype;
	SAGG_STRATEGY strategy;

	if (codec->record)
		return is_record_image_equal(codec);
	return get_ordering_op_properties(sortop, &opfamily, &opcintype, &strategy) &&
		is_image_equal(codec, type, collation, opfamily, opcintype);
}

/*
 * Set up what the inputs are sorted by, also those of an ordered-set
 * aggregate.  Returns whether equal tuples have equal bytes.
 */
static bool
init_sort(SaggInputStateCall *kept, const Aggref *aggref)
{
	List	   *clauses = aggref->aggdistinct ? aggref->aggdistinct : aggref->aggorder;
	bool		image_equal = true;
	ListCell   *lc;

	kept->sort = palloc0(sizeof(SaggInputSort) * Max(list_length(clauses), 1));
	foreach(lc, clauses)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, lc);
		TargetEntry *tle = get_sortgroupclause_tle(clause, aggref->args);
		SaggInputSort *sort = &kept->sort[kept->nsort++];

		sort->column = tle->resno - 1;
		sort->support.ssup_cxt = CurrentMemoryContext;
		sort->support.ssup_collation = exprCollation((Node *) tle->expr);
		sort->support.ssup_nulls_first = clause->nulls_first;
		PrepareSortSupportFromOrderingOp(clause->sortop, &sort->support);
		image_equal = image_equal &&
			is_column_image_equal(&kept->codecs[sort->column], clause->sortop,
								  exprType((Node *) tle->expr),
								  sort->support.ssup_collation);
	}
	return image_equal;
}

/*
 * Returns how the inputs of an aggregate, whose functions are looked up, are
 * kept; in the current context.
 */
SaggInputStateCall *
sagg_input_state_init(const SaggAggCall *call)
{
	const Aggref *aggref = call->agg->aggref;
	SaggInputStateCall *kept = palloc0(sizeof(SaggInputStateCall));
	bool		image_equal;
	ListCell   *lc;

	kept->distinct = aggref->aggdistinct != NIL;
	kept->codecs = palloc0(sizeof(SaggCodec) * Max(call->agg->nargs, 1));
	foreach(lc, aggref->args)
	{
		Node	   *arg = (Node *) lfirst_node(TargetEntry, lc)->expr;

		SaggCodec  *codec = &kept->codecs[kept->ncolumns++];

		if (exprType(arg) == RECORDOID)
			sagg_codec_init_record(codec, arg);
		else
			sagg_codec_init(codec, exprType(arg), exprTypmod(arg));
	}
	if (kept->distinct)
		sagg_hash_seed_make(&kept->seed);
	initStringInfo(&kept->tuple);
	image_equal = init_sort(kept, aggref);
	kept->counts = call->transfn.fn_oid == F_INT8INC_ANY &&
		!OidIsValid(call->finalfn.fn_oid) &&
		!call->initnull && DatumGetInt64(call->initvalue) == 0 &&
		(image_equal || !kept->distinct);
	get_typlenbyval(aggref->aggtype, &kept->resultlen, &kept->resultbyval);
	return kept;
}

/*
 * Step over a tuple.
 */
static void
skip_tuple(const SaggInputStateCall *call, SaggBytes *bytes)
{
	for (int i = 0; i < call->ncolumns; i++)
	{
		int32		len = sagg_bytes_take_length(bytes);

		if (len >= 0)
			sagg_bytes_take(bytes, len);
		else if (len != NULL_VALUE)
			sagg_codec_corrupt("A kept input has no valid length.");
	}
}

/*
 * Read the next tuple; its values are allocated in the current context.
 * Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT.
 */
void
sagg_input_state_take(SaggInputStateCall *call, SaggBytes *bytes, Datum *values, bool *nulls)
{
	for (int i = 0; i < call->ncolumns; i++)
	{
		int32		len = sagg_bytes_take_length(bytes);

		nulls[i] = len == NULL_VALUE;
		if (len < NULL_VALUE)
			sagg_codec_corrupt("A kept input has no valid length.");
		values[i] = nulls[i] ? (Datum) 0 :
			sagg_codec_read(&call->codecs[i], sagg_bytes_take(bytes, len), len);
	}
}

static uint32
tuple_hash(const SaggInputStateCall *call, const char *tuple, Size len)
{
	SaggSip		sip;

	sagg_sip_init(&sip, &call->seed);
	sagg_sip_add_bytes(&sip, tuple, len);
	return (uint32) sagg_sip_end(&sip);
}

static void
put_in_table(SaggInputState *kept, uint32 hash, Size place)
{
	uint32		mask = kept->nslots - 1;
	uint32		i = hash & mask;

	while (kept->slots[i].place != 0)
		i = (i + 1) & mask;
	kept->slots[i].hash = hash;
	kept->slots[i].place = place + 1;
}

/*
 * Make the hash table, or enlarge it, so that another tuple has room.
 */
static void
reserve_table(const SaggInputStateCall *call, SaggInputState *kept)
{
	SaggInputSlot *former = kept->slots;
	uint32		nformer = kept->nslots;
	SaggBytes	bytes = {kept->data, kept->data + kept->len};
	Size		size;

	if ((uint64) (kept->count + 1) * 2 <= kept->nslots)
		return;
	kept->nslots = Max(LEAST_SLOTS, pg_nextpower2_32((kept->count + 1) * 2));
	size = sizeof(SaggInputSlot) * (Size) kept->nslots;
	kept->slots = MemoryContextAllocHuge(GetMemoryChunkContext(kept), size);
	memset(kept->slots, 0, size);
	if (former)
	{
		for (uint32 i = 0; i < nformer; i++)
		{
			if (former[i].place != 0)
				put_in_table(kept, former[i].hash, former[i].place - 1);
		}
		pfree(former);
		return;
	}
	while (bytes.data < bytes.end)
	{
		const char *tuple = bytes.data;

		skip_tuple(call, &bytes);
		put_in_table(kept, tuple_hash(call, tuple, bytes.data - tuple),
					 tuple - kept->data);
	}
}

/*
 * Returns whether a tuple is at this place.  No tuple is a prefix of another
 * one.
 */
static bool
is_at(const SaggInputState *kept, Size place, const char *tuple, Size len)
{
	return place + len <= kept->len && memcmp(kept->data + place, tuple, len) == 0;
}

/*
 * Returns whether a tuple is in a set.  If not, and the set has a hash table,
 * enters the place where the tuple will be appended.
 */
static bool
is_in_set(const SaggInputStateCall *call, SaggInputState *kept, const char *tuple, Size len)
{
	uint32		hash;
	uint32		mask;

	if (kept->nslots == 0 && kept->scanned <= SCANS_BEFORE_TABLE * kept->count)
	{
		SaggBytes	bytes = {kept->data, kept->data + kept->len};

		kept->scanned += kept->count;
		while (bytes.data < bytes.end)
		{
			if (is_at(kept, bytes.data - kept->data, tuple, len))
				return true;
			skip_tuple(call, &bytes);
		}
		return false;
	}

	reserve_table(call, kept);
	hash = tuple_hash(call, tuple, len);
	mask = kept->nslots - 1;
	for (uint32 i = hash & mask; kept->slots[i].place != 0; i = (i + 1) & mask)
	{
		if (kept->slots[i].hash == hash &&
			is_at(kept, kept->slots[i].place - 1, tuple, len))
			return true;
	}
	put_in_table(kept, hash, kept->len);
	return false;
}

/*
 * Raise ERRCODE_PROGRAM_LIMIT_EXCEEDED if "len" bytes more are too many.  That
 * is a data error, so on_error decides about the record.
 */
static void
check_limit(const SaggAggCall *call, const SaggInputState *kept, Size len)
{
	if (kept->len + len > MAX_KEPT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the inputs of aggregate %s in one group exceed %d MB",
						get_func_name(call->agg->aggref->aggfnoid), MAX_KEPT_MB),
				 errhint("Use smaller windows or more keys, or an aggregate that keeps a summary, such as those of the extensions tdigest and hll.")));
}

/*
 * Append "n" tuples.  Raises ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
static void
append_tuples(const SaggAggCall *call, SaggInputState *kept, const char *data, Size len,
			  int64 n)
{
	check_limit(call, kept, len);
	if (kept->len + len > kept->size)
	{
		Size		size = Max(64, Max(kept->len + len, kept->size * 2));
		char	   *former = kept->data ? kept->data - kept->room : NULL;

		former = former ? repalloc(former, kept->room + size) :
			MemoryContextAlloc(GetMemoryChunkContext(kept), size);
		kept->data = former + kept->room;
		kept->size = size;
	}
	memcpy(kept->data + kept->len, data, len);
	kept->len += len;
	kept->count += n;
}

/*
 * Put "n" tuples before the others, in inputs that have no hash table.  The
 * others are moved only when the size has doubled.  Raises
 * ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
static void
prepend_tuples(const SaggAggCall *call, SaggInputState *kept, const char *data, Size len,
			   int64 n)
{
	check_limit(call, kept, len);
	if (len > kept->room)
	{
		Size		room = kept->len + len;
		char	   *space = MemoryContextAlloc(GetMemoryChunkContext(kept),
											   room + kept->size);

		memcpy(space + room, kept->data, kept->len);
		pfree(kept->data - kept->room);
		kept->data = space + room;
		kept->room = room;
	}
	kept->data -= len;
	kept->room -= len;
	kept->size += len;
	memcpy(kept->data, data, len);
	kept->len += len;
	kept->count += n;
}

static void
free_kept(SaggInputState *kept)
{
	if (kept->data)
		pfree(kept->data - kept->room);
	if (kept->slots)
		pfree(kept->slots);
	pfree(kept);
}

/*
 * Returns the inputs of a state, made if there are none yet.
 */
static SaggInputState *
require_input_state(SaggExecution *ex, SaggAggState *state)
{
	if (DatumGetPointer(state->value) == NULL)
		state->value = PointerGetDatum(MemoryContextAllocZero(ex->aggcontext->ecxt_per_tuple_memory,
															  sizeof(SaggInputState)));
	return (SaggInputState *) DatumGetPointer(state->value);
}

/*
 * Add a row of the inner query to a state.  A strict transition function gets
 * no NULLs, so they are not kept for it.
 */
void
sagg_input_state_add(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
					 const Datum *values, const bool *nulls)
{
	SaggInputStateCall *kept = call->input_state;
	const SaggAgg *agg = call->agg;
	int32		null = NULL_VALUE;
	MemoryContext old;

	if (agg->shares_inputs)
		return;
	if (call->transfn.fn_strict)
	{
		for (int i = 0; i < call->ntransargs; i++)
		{
			if (nulls[agg->args[i] - 1])
				return;
		}
	}
	old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	resetStringInfo(&kept->tuple);
	for (int i = 0; i < agg->nargs; i++)
	{
		AttrNumber	attno = agg->args[i] - 1;

		if (nulls[attno])
			appendBinaryStringInfo(&kept->tuple, (char *) &null, sizeof(null));
		else
			sagg_codec_write(&kept->codecs[i], &kept->tuple, values[attno]);
	}
	MemoryContextSwitchTo(old);
	if (!kept->distinct ||
		!is_in_set(kept, require_input_state(ex, state), kept->tuple.data, kept->tuple.len))
		append_tuples(call, require_input_state(ex, state), kept->tuple.data, kept->tuple.len, 1);
}

/*
 * Add the inputs of another state, which is not changed: all of them behind
 * those of "state", or for a set those that it lacks.  Allocates in the
 * execution's aggregate context.  Raises ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
void
sagg_input_state_combine(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
						 const SaggAggState *other)
{
	SaggInputState *from = (SaggInputState *) DatumGetPointer(other->value);
	SaggInputState *to;
	SaggBytes	bytes;

	if (from == NULL || from->count == 0)
		return;
	to = require_input_state(ex, state);
	if (!call->input_state->distinct)
	{
		append_tuples(call, to, from->data, from->len, from->count);
		return;
	}
	bytes.data = from->data;
	bytes.end = from->data + from->len;
	while (bytes.data < bytes.end)
	{
		const char *tuple = bytes.data;

		skip_tuple(call->input_state, &bytes);
		if (!is_in_set(call->input_state, to, tuple, bytes.data - tuple))
			append_tuples(call, to, tuple, bytes.data - tuple, 1);
	}
}

/*
 * Move the inputs of "other", which has none afterwards, to "state"; both are
 * in the execution's aggregate context.  The smaller inputs are copied to the
 * larger ones, in either state, so that a state which absorbs many others one
 * by one, or is absorbed by them, is not copied each time.
 */
void
sagg_input_state_absorb(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
						SaggAggState *other)
{
	SaggInputState *to = (SaggInputState *) DatumGetPointer(state->value);
	SaggInputState *from = (SaggInputState *) DatumGetPointer(other->value);

	if (from == NULL)
		return;
	if (to == NULL || to->len < from->len)
	{
		state->value = PointerGetDatum(from);
		other->value = PointerGetDatum(to);
		if (to && to->count > 0)
		{
			if (call->input_state->distinct)
				sagg_input_state_combine(ex, call, state, other);
			else
				prepend_tuples(call, from, to->data, to->len, to->count);
		}
		from = to;
	}
	else
		sagg_input_state_combine(ex, call, state, other);
	if (from)
		free_kept(from);
	other->value = PointerGetDatum(NULL);
}

/*
 * Append a state to "buf": nothing if another aggregate's state has the inputs.
 */
void
sagg_input_state_write(const SaggAggCall *call, StringInfo buf, const SaggAggState *state)
{
	SaggInputState *kept = (SaggInputState *) DatumGetPointer(state->value);
	int64		count = kept ? kept->count : 0;
	int32		len = kept ? kept->len : 0;

	if (call->agg->shares_inputs)
		return;
	appendBinaryStringInfo(buf, (char *) &count, sizeof(count));
	appendBinaryStringInfo(buf, (char *) &len, sizeof(len));
	if (len > 0)
		appendBinaryStringInfo(buf, kept->data, len);
}

/*
 * Read what sagg_input_state_write wrote, into the current context.
 */
void
sagg_input_state_read(const SaggAggCall *call, SaggBytes *bytes, SaggAggState *state)
{
	SaggInputState *kept;
	int64		count;
	int32		len;

	if (call->agg->shares_inputs)
		return;
	memcpy(&count, sagg_bytes_take(bytes, sizeof(count)), sizeof(count));
	len = sagg_bytes_take_length(bytes);
	if (len < 0 || (Size) len > MAX_KEPT || count < 0 || count > len)
		sagg_codec_corrupt("Kept inputs have no valid length.");
	if (count == 0)
		return;
	kept = palloc0(sizeof(SaggInputState));
	kept->count = count;
	kept->len = kept->size = len;
	kept->data = palloc(len);
	memcpy(kept->data, sagg_bytes_take(bytes, len), len);
	state->value = PointerGetDatum(kept);
}

/*
 * Step over what sagg_input_state_write wrote; returns where the tuples are.
 */
SaggBytes
sagg_input_state_skip(const SaggAggCall *call, SaggBytes *bytes)
{
	SaggBytes	tuples = {bytes->data, bytes->data};
	int32		len;

	if (call->agg->shares_inputs)
		return tuples;
	sagg_bytes_take(bytes, sizeof(int64));
	len = sagg_bytes_take_length(bytes);
	if (len < 0)
		sagg_codec_corrupt("Kept inputs have no valid length.");
	tuples.data = sagg_bytes_take(bytes, len);
	tuples.end = bytes->data;
	return tuples;
}
