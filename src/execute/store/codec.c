/*-------------------------------------------------------------------------
 *
 * codec.c
 *	  Converts values to bytes, for the store and for the state log.
 *
 * Values of the server's own types listed here are stored as their bytes,
 * detoasted and without the varlena header: types of a fixed length, text,
 * bytea, numeric and a few more, and arrays of them. codec_check.c can verify
 * such bytes.  All other types go through their send and receive functions,
 * because their contents (OIDs of enum values, of composite and element types)
 * change when a database is dumped and restored; types without these functions
 * are stored as text.
 *
 * Bytes of the state log are verified before their values are used
 * (entry_check.c); those of a store that is restored or that this stream wrote
 * are trusted, and its header says of which types they are.
 *
 * What is stored does not depend on the session: reader and writer may have
 * different settings of client_encoding, DateStyle and so on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "execute/execute_internal.h"

/* settings on which the text form of values depends */
static const struct
{
	const char *name;
	const char *value;
}			text_settings[] =

{
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"},
	{"array_nulls", "on"},
	{"xmloption", "content"},
	{"search_path", "pg_catalog, pg_temp"}
};

/*
 * Returns how bytes of a type that is stored without conversion are verified;
 * SAGG_RAW_NONE for types that are not stored so.
 */
static SaggRawKind
raw_kind(Oid type)
{
	if (type >= FirstGenbkiObjectId || get_typtype(type) != TYPTYPE_BASE)
		return SAGG_RAW_NONE;
	switch (type)
	{
		case BOOLOID:
			return SAGG_RAW_BOOL;
		case NAMEOID:
			return SAGG_RAW_NAME;
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return SAGG_RAW_RECEIVED;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case XMLOID:
			return SAGG_RAW_TEXT;
		case JSONOID:
			return SAGG_RAW_JSON;
		case BYTEAOID:
			return SAGG_RAW_ANY;
		case NUMERICOID:
			return SAGG_RAW_NUMERIC;
		case INETOID:
		case CIDROID:
			return SAGG_RAW_INET;
		case JSONBOID:
			return SAGG_RAW_JSONB;
	}
	if (OidIsValid(get_element_type(type)))
		return raw_kind(get_element_type(type)) == SAGG_RAW_NONE ?
			SAGG_RAW_NONE : SAGG_RAW_ARRAY;
	return get_typlen(type) > 0 ? SAGG_RAW_ANY : SAGG_RAW_NONE;
}

static bool is_binary(Oid type);

static bool
has_binary_columns(Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	bool		result = true;

	for (int i = 0; result && i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		result = att->attisdropped || is_binary(att->atttypid);
	}
	ReleaseTupleDesc(desc);
	return result;
}

/*
 * Returns whether the type, and the types within it, have send and receive
 * functions.
 */
static bool
is_binary(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;
	Oid			element = get_element_type(type);
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	result = OidIsValid(form->typsend) && OidIsValid(form->typreceive);
	ReleaseSysCache(tuple);
	if (OidIsValid(element) && !is_binary(element))
		return false;
	if (get_typtype(type) == TYPTYPE_RANGE && !is_binary(get_range_subtype(type)))
		return false;
	if (get_typtype(type) == TYPTYPE_DOMAIN && !is_binary(getBaseType(type)))
		return false;
	return result && (get_typtype(type) != TYPTYPE_COMPOSITE || has_binary_columns(type));
}

/*
 * Returns how values of a type that is not a domain are stored, in a word.
 */
const char *
sagg_codec_way(Oid type)
{
	if (raw_kind(type) != SAGG_RAW_NONE)
		return "raw";
	return is_binary(type) ? "binary" : "text";
}

static void
init_functions(SaggCodec *codec, Oid base)
{
	Oid			function;
	bool		isvarlena;

	if (codec->text)
		getTypeOutputInfo(base, &function, &isvarlena);
	else
		getTypeBinaryOutputInfo(base, &function, &isvarlena);
	fmgr_info(function, &codec->send);
	if (codec->text)
		getTypeInputInfo(base, &function, &codec->ioparam);
	else
		getTypeBinaryInputInfo(base, &function, &codec->ioparam);
	fmgr_info(function, &codec->receive);
}

/*
 * Set up "codec", in the current context, for values of a type.
 */
void
sagg_codec_init(SaggCodec *codec, Oid type, int32 typmod)
{
	Oid			base = getBaseTypeAndTypmod(type, &typmod);

	codec->record = NULL;
	codec->element = NULL;
	get_typlenbyvalalign(base, &codec->len, &codec->byval, &codec->align);
	codec->type = base;
	codec->typmod = typmod;
	codec->kind = raw_kind(base);
	codec->raw = codec->kind != SAGG_RAW_NONE;
	codec->text = !codec->raw && !is_binary(base);
	if (codec->kind == SAGG_RAW_ARRAY)
	{
		codec->element = palloc0(sizeof(SaggCodec));
		sagg_codec_init(codec->element, get_element_type(base), -1);
	}
	if (!codec->raw || codec->kind == SAGG_RAW_RECEIVED || codec->kind == SAGG_RAW_JSON)
		init_functions(codec, base);
}

/*
 * Call a function that converts between values and bytes.  Such functions
 * convert to and from the client's encoding, which is set to that of the
 * database only during the call: messages to the client stay readable, and
 * users' code sees its own setting.
 */
Datum
sagg_codec_call(FunctionCallInfo fcinfo)
{
	int			client = pg_get_client_encoding();
	Datum		result;

	if (likely(client == GetDatabaseEncoding()))
		return FunctionCallInvoke(fcinfo);
	SetClientEncoding(GetDatabaseEncoding());
	PG_TRY();
	{
		result = FunctionCallInvoke(fcinfo);
	}
	PG_FINALLY();
	{
		SetClientEncoding(client);
	}
	PG_END_TRY();
	return result;
}

/*
 * Returns the bytes that a type's send function makes of a value.
 */
bytea *
sagg_codec_send(SaggCodec *codec, Datum value)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &codec->send, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = value;
	fcinfo->args[0].isnull = false;
	result = sagg_codec_call(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "function %u returned NULL", codec->send.fn_oid);
	return DatumGetByteaP(result);
}

/*
 * Returns the value in bytes that a type's send function made.
 */
Datum
sagg_codec_receive(SaggCodec *codec, const char *data, Size len)
{
	LOCAL_FCINFO(fcinfo, 3);
	StringInfoData buf;
	Datum		value;

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, data, len);
	InitFunctionCallInfoData(*fcinfo, &codec->receive, 3, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(&buf);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = ObjectIdGetDatum(codec->ioparam);
	fcinfo->args[1].isnull = false;
	fcinfo->args[2].value = Int32GetDatum(codec->typmod);
	fcinfo->args[2].isnull = false;
	value = sagg_codec_call(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "function %u returned NULL", codec->receive.fn_oid);
	if (buf.cursor != buf.len)
		sagg_codec_corrupt("A value is followed by bytes that do not belong to it.");
	pfree(buf.data);
	return value;
}

/*
 * Make the settings for converting values to text and back; they last until
 * the returned nest level ends.
 */
static int
begin_text(void)
{
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(text_settings); i++)
		(void) set_config_option(text_settings[i].name, text_settings[i].value,
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	return nestlevel;
}

static char *
value_text(SaggCodec *codec, Datum value)
{
	int			nestlevel = begin_text();
	char	   *text = OutputFunctionCall(&codec->send, value);

	AtEOXact_GUC(true, nestlevel);
	return text;
}

static Datum
text_value(SaggCodec *codec, const char *data, Size len)
{
	char	   *text = pnstrdup(data, len);
	int			nestlevel = begin_text();
	Datum		value = InputFunctionCall(&codec->receive, text, codec->ioparam, codec->typmod);

	AtEOXact_GUC(true, nestlevel);
	return value;
}

static void
write_sized(StringInfo buf, const void *data, Size len)
{
	int32		size = (int32) len;

	appendBinaryStringInfo(buf, (char *) &size, sizeof(size));
	appendBinaryStringInfo(buf, data, size);
}

/*
 * Append a length word and the value, which is not NULL.
 */
void
sagg_codec_write(SaggCodec *codec, StringInfo buf, Datum value)
{
	if (codec->record)
		sagg_record_write(codec, buf, value);
	else if (!codec->raw && codec->text)
	{
		char	   *text = value_text(codec, value);

		write_sized(buf, text, strlen(text));
		pfree(text);
	}
	else if (!codec->raw)
	{
		bytea	   *sent = sagg_codec_send(codec, value);

		write_sized(buf, VARDATA(sent), VARSIZE(sent) - VARHDRSZ);
		pfree(sent);
	}
	else if (codec->byval)
		write_sized(buf, &value, sizeof(Datum));
	else if (codec->len > 0)
		write_sized(buf, DatumGetPointer(value), codec->len);
	else
	{
		struct varlena *plain = PG_DETOAST_DATUM_PACKED(value);

		write_sized(buf, VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain));
		if ((Pointer) plain != DatumGetPointer(value))
			pfree(plain);
	}
}

/*
 * Raise the error for bytes that are not a state.
 */
void
sagg_codec_corrupt(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("the stored state of a group cannot be read"),
			 errdetail("%s", detail)));
}

/*
 * Returns the value in "len" bytes, which are trusted (sagg_codec_check
 * verified them), allocated in the current context.
 */
Datum
sagg_codec_read(SaggCodec *codec, const char *data, Size len)
{
	Datum		value;

	if (codec->record)
		return sagg_record_read(codec, data, len);
	if (!codec->raw)
		return codec->text ? text_value(codec, data, len) : sagg_codec_receive(codec, data, len);
	if (codec->byval)
	{
		if (len != sizeof(Datum))
			sagg_codec_corrupt("A value has the wrong length.");
		memcpy(&value, data, sizeof(Datum));
		return value;
	}
	if (codec->len > 0)
	{
		char	   *copy;

		if (len != codec->len)
			sagg_codec_corrupt("A value has the wrong length.");
		copy = palloc(len);
		memcpy(copy, data, len);
		return PointerGetDatum(copy);
	}
	else
	{
		struct varlena *copy = palloc(len + VARHDRSZ);

		SET_VARSIZE(copy, len + VARHDRSZ);
		memcpy(VARDATA(copy), data, len);
		return PointerGetDatum(copy);
	}
}

/*
 * Returns the next "len" bytes.
 */
const char *
sagg_bytes_take(SaggBytes *bytes, Size len)
{
	const char *data = bytes->data;

	if (len > (Size) (bytes->end - bytes->data))
		sagg_codec_corrupt("It ends too early.");
	bytes->data += len;
	return data;
}

/*
 * Returns a length word: the length of what follows, or a negative mark.
 */
int32
sagg_bytes_take_length(SaggBytes *bytes)
{
	int32		result;

	memcpy(&result, sagg_bytes_take(bytes, sizeof(result)), sizeof(result));
	return result;
}
