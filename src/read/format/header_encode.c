/*-------------------------------------------------------------------------
 *
 * header_encode.c
 *	  Makes the headers of a record from jsonb, in the form that
 *	  record_metadata.c returns: [{"key": text, "value": text or null}, {"key":
 *	  text, "hex": text}].
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "read/scan/insert_internal.h"

static void
reject_headers(const char *column, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid headers in column \"%s\"", column),
			 errdetail_internal("%s", detail),
			 errhint("Headers are written as [{\"key\": \"a\", \"value\": \"text or null\"}, {\"key\": \"b\", \"hex\": \"00ff\"}].")));
}

/*
 * Returns a JSON string as UTF-8 with a terminating zero; sets *len to its
 * length.
 */
static char *
utf8_string(const JsonbValue *value, Size *len)
{
	char	   *server = pnstrdup(value->val.string.val, value->val.string.len);
	char	   *utf8 = pg_server_to_any(server, value->val.string.len, PG_UTF8);

	*len = strlen(utf8);
	return utf8;
}

static void
encode_hex(SaggHeader *header, const JsonbValue *value)
{
	char	   *bytes = palloc(value->val.string.len / 2 + 1);

	header->len = hex_decode(value->val.string.val, value->val.string.len, bytes);
	header->value = bytes;
}

static void
encode_header(SaggHeader *header, JsonbContainer *object, const char *column)
{
	JsonbValue	buffer;
	JsonbValue *value;
	bool		hex = false;
	Size		len;

	if (!JsonContainerIsObject(object) || JsonContainerSize(object) != 2)
		reject_headers(column, "A header is an object with two members.");
	value = getKeyJsonValueFromContainer(object, "key", 3, &buffer);
	if (value == NULL || value->type != jbvString)
		reject_headers(column, "A header has no \"key\" that is a string.");
	header->name = utf8_string(value, &len);

	value = getKeyJsonValueFromContainer(object, "value", 5, &buffer);
	if (value == NULL)
	{
		value = getKeyJsonValueFromContainer(object, "hex", 3, &buffer);
		hex = true;
	}
	if (value == NULL)
		reject_headers(column, "A header has neither \"value\" nor \"hex\".");
	if (value->type == jbvString && hex)
		encode_hex(header, value);
	else if (value->type == jbvString)
		header->value = utf8_string(value, &header->len);
	else if (value->type == jbvNull && !hex)
		header->value = NULL;
	else
		reject_headers(column, "The value of a header is neither a string nor null.");
}

/*
 * Returns the headers that a jsonb datum describes, in the current context;
 * "column" is for messages.  Raises invalid_parameter_value.
 */
SaggHeader *
sagg_headers_encode(Datum headers, const char *column, int *nheaders)
{
	Jsonb	   *jsonb = DatumGetJsonbP(headers);
	SaggHeader *result;

	if (!JB_ROOT_IS_ARRAY(jsonb) || JB_ROOT_IS_SCALAR(jsonb))
		reject_headers(column, "They are not a JSON array.");
	*nheaders = JB_ROOT_COUNT(jsonb);
	result = palloc0(sizeof(SaggHeader) * Max(*nheaders, 1));
	for (int i = 0; i < *nheaders; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(&jsonb->root, i);

		if (element == NULL || element->type != jbvBinary)
			reject_headers(column, "A header is an object with two members.");
		encode_header(&result[i], element->val.binary.data, column);
	}
	return result;
}
