/*-------------------------------------------------------------------------
 *
 * typed_value.c
 *	  Values within states of the extension's own aggregates: their type, their
 *	  order, and their bytes.
 *
 * The order is the default one of the type; values that are equal, or have no
 * order, are compared by their bytes.  So what an aggregate keeps depends
 * neither on the order of input nor on how states are combined.
 *
 * A state that was read may be of any type: it must never be used before its
 * type was compared with that of the aggregate's argument or result.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "libpq/pqformat.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "execute_internal.h"
#include "typed_value.h"

typedef struct ValueCodec
{
	Oid			type;
	SaggCodec	codec;
} ValueCodec;

/*
 * Returns the context of an aggregate's state.  Raises
 * ERRCODE_FEATURE_NOT_SUPPORTED outside of an aggregate; "aggregates" are the
 * ones whose function it is, for the message.
 */
MemoryContext
sagg_aggregate_context(FunctionCallInfo fcinfo, const char *aggregates)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this is a function of the aggregates %s", aggregates)));
	return context;
}

/*
 * Check the type of a state: one that was read may be of any type, and must be
 * the type "expected".
 */
void
sagg_value_check_type(const SaggValueType *type, Oid expected, const char *aggregates)
{
	if (type->oid != expected)
		sagg_codec_corrupt(psprintf("A state of %s is of another type than its value.", aggregates));
}

/*
 * Returns the type of an argument; "known" is that of the state, or NULL, and
 * must be the same.
 */
SaggValueType
sagg_value_type_of(FunctionCallInfo fcinfo, int argument, const SaggValueType *known,
				   const char *aggregates)
{
	SaggValueType type;

	type.oid = get_fn_expr_argtype(fcinfo->flinfo, argument);
	if (!OidIsValid(type.oid))
		elog(ERROR, "could not determine input data type");
	if (known)
	{
		sagg_value_check_type(known, type.oid, aggregates);
		return *known;
	}
	get_typlenbyval(type.oid, &type.len, &type.byval);
	return type;
}

static int
compare_bytes(const SaggValueType *type, Datum a, Datum b)
{
	struct varlena *va;
	struct varlena *vb;
	Size		la;
	Size		lb;
	int			result;

	if (type->byval)
		return a < b ? -1 : a > b;
	if (type->len > 0)
		return memcmp(DatumGetPointer(a), DatumGetPointer(b), type->len);
	if (type->len == -2)
		return strcmp(DatumGetCString(a), DatumGetCString(b));
	va = PG_DETOAST_DATUM_PACKED(a);
	vb = PG_DETOAST_DATUM_PACKED(b);
	la = VARSIZE_ANY_EXHDR(va);
	lb = VARSIZE_ANY_EXHDR(vb);
	result = memcmp(VARDATA_ANY(va), VARDATA_ANY(vb), Min(la, lb));
	return result != 0 ? result : la < lb ? -1 : la > lb;
}

/*
 * Returns how two values that are not NULL compare, under the collation of the
 * call: less than, equal to or greater than 0.
 */
int
sagg_value_compare(FunctionCallInfo fcinfo, const SaggValueType *type, Datum a, Datum b)
{
	TypeCacheEntry *typcache = lookup_type_cache(type->oid, TYPECACHE_CMP_PROC_FINFO);
	int			result = 0;

	if (OidIsValid(typcache->cmp_proc))
		result = DatumGetInt32(FunctionCall2Coll(&typcache->cmp_proc_finfo, PG_GET_COLLATION(), a, b));
	return result != 0 ? result : compare_bytes(type, a, b);
}

/*
 * Returns how values of a type become bytes, and bytes values; kept in
 * fn_extra.
 */
static SaggCodec *
codec_of(FunctionCallInfo fcinfo, Oid type)
{
	ValueCodec *known = fcinfo->flinfo->fn_extra;
	MemoryContext old;

	if (known && known->type == type)
		return &known->codec;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	if (known == NULL)
		known = fcinfo->flinfo->fn_extra = palloc(sizeof(ValueCodec));
	known->type = InvalidOid;
	sagg_codec_init(&known->codec, type, -1);
	known->type = type;
	MemoryContextSwitchTo(old);
	return &known->codec;
}

/*
 * Append a type: its OID if it is the server's own, otherwise 0 and its name,
 * because OIDs differ in a restored database.
 */
void
sagg_value_send_type(StringInfo buf, Oid type)
{
	char	   *name;

	if (type < FirstGenbkiObjectId)
	{
		pq_sendint32(buf, type);
		return;
	}
	pq_sendint32(buf, InvalidOid);
	name = format_type_be_qualified(type);
	pq_sendbytes(buf, name, strlen(name) + 1);
}

/*
 * Read what sagg_value_send_type appends.  Raises an error if there is no such
 * type.
 */
SaggValueType
sagg_value_receive_type(StringInfo buf, const char *aggregates)
{
	SaggValueType type;
	int32		typmod;

	type.oid = pq_getmsgint(buf, 4);
	if (!OidIsValid(type.oid))
		SAGG_PARSE_TYPE(pq_getmsgrawstring(buf), &type.oid, &typmod);
	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type.oid)))
		sagg_codec_corrupt(psprintf("A state of %s is of a type that does not exist.", aggregates));
	get_typlenbyval(type.oid, &type.len, &type.byval);
	return type;
}

/*
 * Append a value, which is not NULL.
 */
void
sagg_value_send(FunctionCallInfo fcinfo, Oid type, StringInfo buf, Datum value)
{
	sagg_codec_write(codec_of(fcinfo, type), buf, value);
}

/*
 * Read what sagg_value_send appends, in the current context.  Raises an error
 * if it is no value of the type.
 */
Datum
sagg_value_receive(FunctionCallInfo fcinfo, Oid type, StringInfo buf)
{
	SaggCodec  *codec = codec_of(fcinfo, type);
	SaggBytes	bytes = {buf->data + buf->cursor, buf->data + buf->len};
	int32		len = sagg_bytes_take_length(&bytes);
	const char *data = sagg_bytes_take(&bytes, len);

	buf->cursor = bytes.data - buf->data;
	sagg_codec_check(codec, data, len);
	return sagg_codec_read(codec, data, len);
}
