/*-------------------------------------------------------------------------
 *
 * record_codec.c
 *	  Converts values of ROW(...) to bytes: their fields, one after the other.
 *
 * The server can send a value of type record, but not receive one, because its
 * columns are those of an expression.  Here that expression is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "execute/execute_internal.h"

#define NULL_FIELD	(-1)

/*
 * Returns whether sagg_codec_init_record can make a codec for values of
 * "expr", whose type is record.
 */
bool
sagg_record_has_codec(Node *expr)
{
	TupleDesc	desc = get_expr_result_tupdesc(expr, true);

	if (desc == NULL)
		return false;
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			type = TupleDescAttr(desc, i)->atttypid;

		if (type != UNKNOWNOID && get_typtype(type) == TYPTYPE_PSEUDO)
			return false;
	}
	return true;
}

/*
 * Set up "codec", in the current context, for values of "expr".
 */
void
sagg_codec_init_record(SaggCodec *codec, Node *expr)
{
	codec->record = CreateTupleDescCopy(get_expr_result_tupdesc(expr, false));
	codec->record->tdtypmod = get_expr_result_tupdesc(expr, false)->tdtypmod;
	codec->len = -1;
	codec->fields = palloc0(sizeof(SaggCodec) * Max(codec->record->natts, 1));
	for (int i = 0; i < codec->record->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(codec->record, i);

		sagg_codec_init(&codec->fields[i], att->atttypid, att->atttypmod);
	}
}

/*
 * Append a length word and the fields, each behind its own length word.
 */
void
sagg_record_write(SaggCodec *codec, StringInfo buf, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	int			natts = codec->record->natts;
	Datum	   *values = palloc(sizeof(Datum) * Max(natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(natts, 1));
	HeapTupleData tuple = {0};
	int			start = buf->len;
	int32		len = NULL_FIELD;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_data = header;
	heap_deform_tuple(&tuple, codec->record, values, nulls);
	appendBinaryStringInfo(buf, (char *) &len, sizeof(len));
	for (int i = 0; i < natts; i++)
	{
		if (nulls[i])
			appendBinaryStringInfo(buf, (char *) &len, sizeof(len));
		else
			sagg_codec_write(&codec->fields[i], buf, values[i]);
	}
	len = buf->len - start - sizeof(len);
	memcpy(buf->data + start, &len, sizeof(len));
	pfree(values);
	pfree(nulls);
}

/*
 * Returns the value in "len" bytes, allocated in the current context.
 */
Datum
sagg_record_read(SaggCodec *codec, const char *data, Size len)
{
	SaggBytes	bytes = {data, data + len};
	int			natts = codec->record->natts;
	Datum	   *values = palloc0(sizeof(Datum) * Max(natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(natts, 1));

	for (int i = 0; i < natts; i++)
	{
		int32		size = sagg_bytes_take_length(&bytes);

		nulls[i] = size < 0;
		if (!nulls[i])
			values[i] = sagg_codec_read(&codec->fields[i], sagg_bytes_take(&bytes, size), size);
	}
	if (bytes.data != bytes.end)
		sagg_codec_corrupt("A record is followed by bytes that do not belong to it.");
	return HeapTupleGetDatum(heap_form_tuple(codec->record, values, nulls));
}

/*
 * Verify that "len" bytes are a value.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT.
 */
void
sagg_record_check(SaggCodec *codec, const char *data, Size len)
{
	SaggBytes	bytes = {data, data + len};

	for (int i = 0; i < codec->record->natts; i++)
	{
		int32		size = sagg_bytes_take_length(&bytes);

		if (size < NULL_FIELD)
			sagg_codec_corrupt("A field has no valid length.");
		if (size != NULL_FIELD)
			sagg_codec_check(&codec->fields[i], sagg_bytes_take(&bytes, size), size);
	}
	if (bytes.data != bytes.end)
		sagg_codec_corrupt("A record is followed by bytes that do not belong to it.");
}
