/*-------------------------------------------------------------------------
 *
 * codec.c
 *	  Values as bytes, for the store and for the state log.
 *
 * The server's own scalar types, and arrays of them, are stored as their bytes
 * are, detoasted and without the varlena header.  All others go through their
 * send and receive functions, because what is in them (OIDs of enum values, of
 * composite and element types) changes when a database is dumped and restored;
 * types without these are stored as text.
 *
 * Bytes may come from a damaged log: reading checks bounds and raises
 * ERRCODE_SAGG_CHECKPOINT_CORRUPT, never reads past the end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "execute_internal.h"

/*
 * A scalar type of the server's own, or an array of one?
 */
static bool
is_raw(Oid type, int16 len)
{
	Oid			element = get_element_type(type);

	return type < FirstGenbkiObjectId &&
		len != -2 &&
		get_typtype(type) == TYPTYPE_BASE &&
		(!OidIsValid(element) || is_raw(element, get_typlen(element)));
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
 * Does the type have send and receive functions, and so do those within it?
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
 * Set up "codec", in the current context, for values of a type.
 */
void
sagg_codec_init(SaggCodec *codec, Oid type, int32 typmod)
{
	Oid			base = getBaseTypeAndTypmod(type, &typmod);

	codec->record = NULL;
	get_typlenbyval(base, &codec->len, &codec->byval);
	codec->typmod = typmod;
	codec->raw = is_raw(base, codec->len);
	if (!codec->raw)
	{
		Oid			function;
		bool		isvarlena;

		codec->text = !is_binary(base);
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
		char	   *text = OutputFunctionCall(&codec->send, value);

		write_sized(buf, text, strlen(text));
		pfree(text);
	}
	else if (!codec->raw)
	{
		bytea	   *sent = SendFunctionCall(&codec->send, value);

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
 * Refuse bytes that no state was written as.
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
 * The value in "len" bytes, allocated in the current context.
 */
Datum
sagg_codec_read(SaggCodec *codec, const char *data, Size len)
{
	Datum		value;

	if (codec->record)
		return sagg_record_read(codec, data, len);
	if (!codec->raw)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		appendBinaryStringInfo(&buf, data, len);
		if (codec->text)
			return InputFunctionCall(&codec->receive, buf.data, codec->ioparam, codec->typmod);
		value = ReceiveFunctionCall(&codec->receive, &buf, codec->ioparam, codec->typmod);
		if (buf.cursor != buf.len)
			sagg_codec_corrupt("A value is followed by bytes that do not belong to it.");
		pfree(buf.data);
		return value;
	}
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
 * The next "len" bytes.
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
 * A length word: the length of what follows, or a negative mark.
 */
int32
sagg_bytes_take_length(SaggBytes *bytes)
{
	int32		result;

	memcpy(&result, sagg_bytes_take(bytes, sizeof(result)), sizeof(result));
	return result;
}
