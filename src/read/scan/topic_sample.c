/*-------------------------------------------------------------------------
 *
 * topic_sample.c
 *	  Describes a sample of a topic's records: a format, and the columns of a
 *	  source for it.
 *
 * Names and values come from a producer, and somebody may run the text made of
 * them: names become identifiers of letters, digits and underscores, and are
 * otherwise literals.  The number of fields, and their depth, are bounded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "read/read_internal.h"

/*
 * limits of nested objects, of fields in all, and of fields of an object that
 * is not a map
 */
#define MAX_DEPTH			5
#define MAX_FIELDS			300
#define MAX_MEMBERS			60

/* larger records are only counted */
#define MAX_SAMPLE_BYTES	(1024 * 1024)

/* milliseconds since 1970, from 2001 to 2100 */
#define LEAST_EPOCH			INT64CONST(978307200000)
#define GREATEST_EPOCH		INT64CONST(4102444800000)

/* What the values of a field are: one or more of these. */
enum
{
	IS_BOOLEAN = 1 << 0,
	IS_INTEGER = 1 << 1,
	IS_NUMBER = 1 << 2,			/* any other number */
	IS_EPOCH = 1 << 3,			/* an integer that may be milliseconds */
	IS_SECONDS = 1 << 11,		/* an integer that may be seconds */
	IS_TIMESTAMPTZ = 1 << 4,
	IS_TIMESTAMP = 1 << 5,
	IS_DATE = 1 << 6,
	IS_UUID = 1 << 7,
	IS_TEXT = 1 << 8,			/* any other string */
	IS_ARRAY = 1 << 9,
	IS_OBJECT = 1 << 10
};

typedef struct SampleField
{
	char	   *name;
	int			kinds;
	List	   *members;		/* members, if values are objects */
} SampleField;

struct SaggSample
{
	MemoryContext memory;
	MemoryContext record;		/* memory for one record, while it is added */
	int64		records;
	int64		tombstones;
	int64		objects;		/* records that are JSON objects */
	int64		events;			/* events of Debezium among them */
	int64		avro;
	int64		texts;			/* texts that are not objects */
	int64		keys;
	bool		binary_keys;
	int			commas;			/* number of commas in each text, -1 = it
								 * varies, -2 = no text yet */
	int			nfields;
	bool		left_out;		/* fields that were ignored because of their
								 * number or names */
	SampleField root;
};

/*
 * Returns an empty sample, in the current memory context.
 */
SaggSample *
sagg_sample_make(void)
{
	SaggSample *sample = palloc0(sizeof(SaggSample));

	sample->memory = CurrentMemoryContext;
	sample->record = AllocSetContextCreate(CurrentMemoryContext, "stream_agg sample of a record",
										   ALLOCSET_DEFAULT_SIZES);
	sample->commas = -2;
	return sample;
}

/* Returns whether a text begins like this, where 0 stands for any digit. */
static bool
is_like(const char *text, Size len, const char *pattern)
{
	if (len < strlen(pattern))
		return false;
	for (; *pattern; pattern++, text++)
	{
		if (*pattern == '0' ? !isdigit((unsigned char) *text) :
			*pattern == 'x' ? !isxdigit((unsigned char) *text) :
			*pattern == 'T' ? *text != 'T' && *text != ' ' : *text != *pattern)
			return false;
	}
	return true;
}

static int
string_kind(const char *text, Size len)
{
	if (len == 36 && is_like(text, len, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
		return IS_UUID;
	if (len == 10 && is_like(text, len, "0000-00-00"))
		return IS_DATE;
	if (!is_like(text, len, "0000-00-00T00:00:00") || len > 35)
		return IS_TEXT;
	for (Size i = strlen("0000-00-00T00:00:00"); i < len; i++)
	{
		if (text[i] == 'Z' || text[i] == '+' || text[i] == '-')
			return IS_TIMESTAMPTZ;
		if (text[i] != '.' && !isdigit((unsigned char) text[i]))
			return IS_TEXT;
	}
	return IS_TIMESTAMP;
}

static bool
is_between(Numeric number, int64 least, int64 greatest)
{
	return DatumGetBool(DirectFunctionCall2(numeric_ge, NumericGetDatum(number),
											NumericGetDatum(int64_to_numeric(least)))) &&
		DatumGetBool(DirectFunctionCall2(numeric_le, NumericGetDatum(number),
										 NumericGetDatum(int64_to_numeric(greatest))));
}

/*
 * Returns the kind of a number.  It is not converted to text, which may have
 * 131,072 digits.
 */
static int
number_kind(Numeric number)
{
	if (DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(number))) > 0 ||
		!is_between(number, PG_INT64_MIN, PG_INT64_MAX))
		return IS_NUMBER;
	if (is_between(number, LEAST_EPOCH / 1000, GREATEST_EPOCH / 1000))
		return IS_SECONDS;
	return is_between(number, LEAST_EPOCH, GREATEST_EPOCH) ? IS_EPOCH : IS_INTEGER;
}

/*
 * Returns the member of this name; NULL if it is left out.
 */
static SampleField *
find_member(SaggSample *sample, SampleField *parent, const char *name, int len)
{
	SampleField *field;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, parent->members)
	{
		field = lfirst(lc);
		if (strlen(field->name) == len && memcmp(field->name, name, len) == 0)
			return field;
	}
	if (sample->nfields >= MAX_FIELDS || len > SAGG_FOREIGN_TEXT || !sagg_name_is_plain(name, len))
	{
		sample->left_out = true;
		return NULL;
	}
	sample->nfields++;
	old = MemoryContextSwitchTo(sample->memory);
	field = palloc0(sizeof(SampleField));
	field->name = pnstrdup(name, len);
	parent->members = lappend(parent->members, field);
	MemoryContextSwitchTo(old);
	return field;
}

/*
 * Add the members of an object.
 */
static void
add_object(SaggSample *sample, SampleField *parent, JsonbContainer *object, int depth)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	SampleField *field = NULL;

	parent->kinds |= IS_OBJECT;
	while (depth < MAX_DEPTH && list_length(parent->members) <= MAX_MEMBERS &&
		   (token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			field = find_member(sample, parent, value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE || field == NULL)
			continue;
		switch (value.type)
		{
			case jbvBool:
				field->kinds |= IS_BOOLEAN;
				break;
			case jbvNumeric:
				field->kinds |= number_kind(value.val.numeric);
				break;
			case jbvString:
				field->kinds |= string_kind(value.val.string.val, value.val.string.len);
				break;
			case jbvBinary:
				if (JsonContainerIsObject(value.val.binary.data))
					add_object(sample, field, value.val.binary.data, depth + 1);
				else
					field->kinds |= IS_ARRAY;
				break;
			default:
				break;
		}
	}
}

static JsonbContainer *
member_object(JsonbContainer *object, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name, strlen(name), NULL);

	return value && value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data) ?
		value->val.binary.data : NULL;
}

/*
 * Returns the row of a change event; NULL if the object is not one, or has no
 * row.
 */
static JsonbContainer *
event_row(JsonbContainer *object, bool *is_event)
{
	JsonbContainer *event = member_object(object, "payload");

	if (event == NULL)
		event = object;
	*is_event = getKeyJsonValueFromContainer(event, "op", 2, NULL) != NULL &&
		getKeyJsonValueFromContainer(event, "before", 6, NULL) != NULL &&
		getKeyJsonValueFromContainer(event, "after", 5, NULL) != NULL;
	return *is_event ? member_object(event, "after") : NULL;
}

typedef struct SampleValue
{
	SaggSample *sample;
	const char *text;
	Size		len;
} SampleValue;

static void
add_json(void *arg)
{
	SampleValue *value = (SampleValue *) arg;
	SaggSample *sample = value->sample;
	char	   *text = pnstrdup(value->text, value->len);
	Jsonb	   *json;
	JsonbContainer *row;
	bool		is_event;

	sagg_check_digits(text, value->len);
	json = DatumGetJsonbP(sagg_jsonb_make(pg_any_to_server(text, value->len, PG_UTF8)));
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("not an object")));
	row = event_row(&json->root, &is_event);
	sample->objects++;
	sample->events += is_event;
	if (is_event && row == NULL)
		return;
	add_object(sample, &sample->root, row ? row : &json->root, 0);
}

/*
 * Returns how many commas a row of CSV has outside of quotes.
 */
static int
count_commas(const char *text, Size len)
{
	bool		inside = false;
	int			commas = 0;

	for (Size i = 0; i < len; i++)
	{
		if (text[i] == '"')
			inside = !inside;
		else if (text[i] == ',' && !inside)
			commas++;
	}
	return commas;
}

static void
add_value(SaggSample *sample, const char *value, Size len)
{
	SampleValue json = {sample, value, len};
	SaggRecordError why;
	int			commas;

	if (len > 0 && value[strspn(value, " \t\r\n")] == '{' && len <= MAX_SAMPLE_BYTES &&
		pg_verify_mbstr(PG_UTF8, value, len, true) &&
		sagg_record_protect(add_json, &json, &why))
		return;
	if (len > 5 && value[0] == '\0')
		sample->avro++;
	if (!pg_verify_mbstr(PG_UTF8, value, len, true))
		return;
	commas = count_commas(value, len);
	sample->commas = sample->texts == 0 || sample->commas == commas ? commas : -1;
	sample->texts++;
}

/*
 * Add a record, by its value and key; NULL if it has none.  Both end with a
 * NUL behind them.  Of the memory used, only that of new fields remains
 * allocated.
 */
void
sagg_sample_add(SaggSample *sample, const char *value, Size len,
				const char *key, Size key_len)
{
	MemoryContext old = MemoryContextSwitchTo(sample->record);

	sample->records++;
	if (value)
		add_value(sample, value, len);
	else
		sample->tombstones++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(sample->record);
	if (key == NULL)
		return;
	sample->keys++;
	sample->binary_keys = sample->binary_keys ||
		!pg_verify_mbstr(PG_UTF8, key, key_len, true);
}

/*
 * Returns the number of records in the sample.
 */
int64
sagg_sample_records(const SaggSample *sample)
{
	return sample->records;
}

/*
 * Returns the number of records without value; a source of the format needs an
 * option for them.
 */
int64
sagg_sample_tombstones(const SaggSample *sample)
{
	return sample->objects > 0 && sample->events == 0 ? sample->tombstones : 0;
}

/*
 * Returns the format that most of the records have.
 */
const char *
sagg_sample_format(const SaggSample *sample)
{
	int64		values = sample->records - sample->tombstones;

	if (sample->objects * 2 > values)
		return sample->events * 2 > sample->objects ? "debezium" : "json";
	if (sample->texts < values || values == 0)
		return "raw";
	return sample->commas > 0 ? "csv" : "text";
}

/*
 * Returns a sentence about the records, for a comment.
 */
char *
sagg_sample_summary(const SaggSample *sample)
{
	return psprintf(INT64_FORMAT " records: " INT64_FORMAT " JSON objects, " INT64_FORMAT " other texts, " INT64_FORMAT " other values, " INT64_FORMAT " without value%s%s",
					sample->records, sample->objects, sample->texts,
					sample->records - sample->objects - sample->texts - sample->tombstones,
					sample->tombstones,
					sample->avro > 0 && sample->avro >= sample->records - sample->tombstones ?
					"; they look like Avro with the id of a schema" : "",
					sample->left_out ? "; some fields are left out" : "");
}

/* Returns whether a name suggests that its values are times. */
static bool
is_time_name(const char *name)
{
	Size		len = strlen(name);

	return strstr(name, "time") || strstr(name, "date") || strcmp(name, "ts") == 0 ||
		(len > 3 && (strcmp(name + len - 3, "_ts") == 0 || strcmp(name + len - 3, "_at") == 0 ||
					 strcmp(name + len - 3, "_ms") == 0));
}

/*
 * Returns the type for values of these kinds.
 */
static const char *
column_type(int kinds, const char *column)
{
	switch (kinds)
	{
		case IS_BOOLEAN:
			return "boolean";
		case IS_EPOCH:
		case IS_SECONDS:
			return is_time_name(column) ? "timestamptz" : "bigint";
		case IS_TIMESTAMPTZ:
			return "timestamptz";
		case IS_TIMESTAMP:
			return "timestamp";
		case IS_DATE:
			return "date";
		case IS_UUID:
			return "uuid";
	}
	if (kinds & (IS_ARRAY | IS_OBJECT))
		return "jsonb";
	if (kinds != 0 && (kinds & ~(IS_INTEGER | IS_EPOCH | IS_SECONDS)) == 0)
		return "bigint";
	return kinds != 0 && (kinds & ~(IS_INTEGER | IS_EPOCH | IS_SECONDS | IS_NUMBER)) == 0 ? "numeric" : "text";
}

/*
 * Append the option that says where the column is.
 */
static char *
column_option(List *path, const char *column)
{
	StringInfoData dotted;
	bool		plain = true;
	Datum	   *names = palloc(sizeof(Datum) * list_length(path));
	int			n = 0;
	ListCell   *lc;

	if (list_length(path) == 1 && strcmp(linitial(path), column) == 0)
		return "";
	if (list_length(path) == 1 && ((char *) linitial(path))[0] != '\0')
		return psprintf(" OPTIONS (field %s)", quote_literal_cstr(linitial(path)));
	initStringInfo(&dotted);
	foreach(lc, path)
	{
		const char *name = lfirst(lc);

		plain = plain && name[0] != '\0' && strpbrk(name, ".{") == NULL;
		appendStringInfo(&dotted, "%s%s", n > 0 ? "." : "", name);
		names[n++] = CStringGetTextDatum(name);
	}
	return psprintf(" OPTIONS (path %s)",
					quote_literal_cstr(plain ? dotted.data :
									   OidOutputFunctionCall(F_ARRAY_OUT,
															 PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT)))));
}

static void
append_column(StringInfo buf, const char *column, const char *type, const char *option)
{
	appendStringInfo(buf, "%s\n        %s %s%s", buf->len > 0 ? "," : "",
					 quote_identifier(column), type, option);
}

/*
 * Append the columns of a field: those of its members, if all its values are
 * objects of the same shape.
 */
static void
append_field(StringInfo buf, SampleField *field, List *path, List **taken)
{
	char	   *column;
	char	   *option;
	const char *type;
	ListCell   *lc;

	check_stack_depth();
	if (field->kinds == IS_OBJECT && field->members != NIL &&
		list_length(field->members) <= MAX_MEMBERS)
	{
		foreach(lc, field->members)
		{
			SampleField *member = lfirst(lc);

			append_field(buf, member, lappend(list_copy(path), member->name), taken);
		}
		return;
	}
	if (path == NIL)
		return;
	column = sagg_column_name(path, taken);
	type = column_type(field->kinds, column);
	option = column_option(path, column);
	if (field->kinds == IS_SECONDS && strcmp(type, "timestamptz") == 0)
		option = option[0] == '\0' ? " OPTIONS (unit 's')" :
			psprintf("%.*s, unit 's')", (int) strlen(option) - 1, option);
	append_column(buf, column, type, option);
}

/*
 * Returns the columns of a source for the sample, as create_source takes them.
 */
char *
sagg_sample_columns(SaggSample *sample)
{
	const char *format = sagg_sample_format(sample);
	StringInfoData buf;
	List	   *taken = NIL;

	initStringInfo(&buf);
	if (strcmp(format, "json") == 0 || strcmp(format, "debezium") == 0)
		append_field(&buf, &sample->root, NIL, &taken);
	else if (strcmp(format, "csv") == 0)
	{
		for (int i = 0; i <= Min(sample->commas, MAX_FIELDS); i++)
			append_column(&buf, psprintf("c%d", i + 1), "text", "");
	}
	if (buf.len == 0)
		append_column(&buf, "value", strcmp(format, "raw") == 0 ? "bytea" :
					  strcmp(format, "text") == 0 ? "text" : "jsonb", "");
	if (sample->keys > 0)
		append_column(&buf, sagg_column_name(list_make1("record_key"), &taken),
					  sample->binary_keys ? "bytea" : "text", " OPTIONS (metadata 'key')");
	return buf.data;
}
