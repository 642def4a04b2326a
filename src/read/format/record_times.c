/*-------------------------------------------------------------------------
 *
 * record_times.c
 *	  Checks the texts of dates and times in a record, wherever they are in
 *	  the values of a type, before an input function of the server reads them.
 *
 * Two kinds of text are valid for the server and are not for a record:
 *
 * - Words for the time of the clock, such as "now": a record means the same
 *	 whenever it is read.
 * - Time zones that are made up, as POSIX describes them: "abc+1".  The server
 *	 keeps 24 kB for each name until the process ends.  Zones by their names in
 *	 the time zone database are not so many, and others are bounded by
 *	 known_zone.
 *
 * A check must never accept less of a text than the server would read of it:
 * texts are taken apart by the server's own functions, arrays and composites
 * as such of texts.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "record_datum.h"

typedef enum TimesKind
{
	TIMES_OF_DAY,				/* time, timetz */
	TIMES_DATED,				/* timestamptz, timestamp, date */
	TIMES_RANGE,				/* ranges and multiranges */
	TIMES_ARRAY,
	TIMES_COMPOSITE
} TimesKind;

/* The dates and times in the values of a type. */
struct SaggTimes
{
	TimesKind	kind;
	SaggTimes  *element;		/* of arrays; a bound of ranges */

	/* of composites; attributes without times have NULL in "attributes" */
	Oid			type;
	uint64		version;		/* tupDesc_identifier of the type */
	int			nattributes;	/* those that are not dropped */
	SaggTimes **attributes;
	char	  **names;

	/* reads the text of an array or composite as one of texts */
	FmgrInfo	input;
	Oid			ioparam;
	int32		typmod;
	MemoryContext context;
};

/*
 * Looks the attributes of a composite type up, unless they are still the same.
 */
static void
find_attributes(SaggTimes *times)
{
	TypeCacheEntry *entry = lookup_type_cache(times->type, TYPECACHE_TUPDESC);
	MemoryContext save;
	TupleDesc	desc;
	TupleDesc	texts;

	if (entry->tupDesc == NULL || entry->tupDesc_identifier == times->version)
		return;
	save = MemoryContextSwitchTo(times->context);
	times->version = entry->tupDesc_identifier;
	desc = CreateTupleDescCopy(entry->tupDesc);
	times->attributes = palloc0(sizeof(SaggTimes *) * (desc->natts + 1));
	times->names = palloc0(sizeof(char *) * (desc->natts + 1));
	times->nattributes = 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attisdropped)
			continue;
		times->names[times->nattributes] = pstrdup(NameStr(attr->attname));
		times->attributes[times->nattributes++] = sagg_times_make(attr->atttypid);
	}
	texts = CreateTemplateTupleDesc(times->nattributes);
	for (int i = 0; i < times->nattributes; i++)
		TupleDescInitEntry(texts, i + 1, times->names[i], TEXTOID, -1, 0);
	times->typmod = BlessTupleDesc(texts)->tdtypmod;
	times->ioparam = RECORDOID;
	fmgr_info_cxt(F_RECORD_IN, &times->input, times->context);
	MemoryContextSwitchTo(save);
}

/* Returns whether a composite type has times in any attribute. */
static bool
any_attribute(const SaggTimes *times)
{
	for (int i = 0; i < times->nattributes; i++)
	{
		if (times->attributes[i])
			return true;
	}
	return false;
}

static bool
is_time(Oid type, TimesKind *kind)
{
	switch (type)
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case DATEOID:
			*kind = TIMES_DATED;
			return true;
		case TIMEOID:
		case TIMETZOID:
			*kind = TIMES_OF_DAY;
			return true;
		default:
			return false;
	}
}

/*
 * Returns where the values of a type, below domains, have dates and times; NULL
 * if nowhere.  The result lives in the current memory context.
 */
SaggTimes *
sagg_times_make(Oid type)
{
	SaggTimes  *times = palloc0(sizeof(SaggTimes));
	Oid			element;

	check_stack_depth();
	times->context = CurrentMemoryContext;
	type = getBaseType(type);
	if (is_time(type, &times->kind))
		return times;
	element = get_element_type(type);
	if (OidIsValid(element))
	{
		times->kind = TIMES_ARRAY;
		times->element = sagg_times_make(element);
		times->ioparam = TEXTOID;
		times->typmod = -1;
		fmgr_info(F_ARRAY_IN, &times->input);
		return times->element ? times : NULL;
	}
	if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		times->kind = TIMES_COMPOSITE;
		times->type = type;
		find_attributes(times);
		return any_attribute(times) ? times : NULL;
	}
	if (type_is_multirange(type))
		type = get_multirange_range(type);
	if (!type_is_range(type))
		return NULL;
	times->kind = TIMES_RANGE;
	times->element = sagg_times_make(get_range_subtype(type));
	return times->element ? times : NULL;
}

/*
 * Returns whether a zone in lower case, which has digits in its name, is one
 * that records may have: the names of the time zone database that look as if
 * they were made up, and UTC and GMT with a sign, an hour and quarters.  So
 * there are about a thousand.
 */
static bool
known_zone(const char *zone)
{
	static const char *const names[] = {"est5edt", "cst6cdt", "mst7mdt", "pst8pdt"};
	static const char *const minutes[] = {"", ":00", ":15", ":30", ":45"};
	int			hour;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(zone, names[i]) == 0)
			return true;
	}
	if (strncmp(zone, "etc/", 4) == 0)
		zone += 4;
	if (strncmp(zone, "gmt", 3) != 0 && strncmp(zone, "utc", 3) != 0)
		return false;
	zone += 3;
	if (strcmp(zone, "0") == 0)
		return true;
	if ((*zone != '+' && *zone != '-') || !isdigit((unsigned char) zone[1]))
		return false;
	hour = *++zone - '0';
	if (isdigit((unsigned char) *++zone))
		hour = hour * 10 + (*zone++ - '0');
	for (int i = 0; i < lengthof(minutes); i++)
	{
		if (strcmp(zone, minutes[i]) == 0)
			return hour <= MAX_TZDISP_HOUR;
	}
	return false;
}

/*
 * Returns whether a text is letters and two numbers, such as jan-08-1999, with
 * a minus before each, which is not how a time zone can be made up.
 */
static bool
is_date_by_name(const char *string)
{
	while (isalpha((unsigned char) *string))
		string++;
	for (int i = 0; i < 2; i++)
	{
		if (*string++ != '-' || !isdigit((unsigned char) *string))
			return false;
		while (isdigit((unsigned char) *string))
			string++;
	}
	return *string == '\0';
}

/*
 * Raises an error if a text, or a part of one, has a word or time zone that
 * records may not have.  With "dated" it is all of the text of a date, which
 * may begin with the name of a month.
 */
static void
check_time(const char *string, bool dated)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
	char		buffer[MAXDATELEN + MAXDATEFIELDS];
	char	   *fields[MAXDATEFIELDS];
	int			types[MAXDATEFIELDS];
	int			n;

	/* then the server does not read on either */
	if (ParseDateTime(string, buffer, sizeof(buffer), fields, types, MAXDATEFIELDS, &n) != 0)
		return;
	for (int i = 0; i < n; i++)
	{
		const char *word = fields[i] + (*fields[i] == '+' || *fields[i] == '-');

		for (int j = 0; j < lengthof(words); j++)
		{
			if (strcmp(word, words[j]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
						 errmsg("\"%s\" in a record is not a date or time", words[j])));
		}
		if (types[i] == DTK_DATE && isalpha((unsigned char) *word) &&
			strpbrk(word, "0123456789") && !(dated && i == 0) &&
			!is_date_by_name(word) && !known_zone(word))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
					 errmsg("\"%s\" in a record is not a time zone", word)));
	}
}

static void check_text(SaggTimes *times, char *string, bool whole);

/*
 * Puts a bound of a range, which begins at "p", into "bound" without its quotes
 * and backslashes.  Returns where it ends: at a comma, a closing bracket or the
 * end of the text.
 */
static const char *
copy_bound(const char *p, char *bound)
{
	bool		inside = false;

	for (; *p != '\0' && (inside || !strchr(",])", *p)); p++)
	{
		if (*p == '\\' && p[1] != '\0')
			*bound++ = *++p;
		else if (*p == '"' && inside && p[1] == '"')
			*bound++ = *++p;
		else if (*p == '"')
			inside = !inside;
		else
			*bound++ = *p;
	}
	*bound = '\0';
	return p;
}

/*
 * Checks the text of a range or multirange: the bounds, as the server takes
 * them out of it.  What else is between ranges is for the server to refuse.
 */
static void
check_range(SaggTimes *times, const char *string)
{
	char	   *bound = palloc(strlen(string) + 1);
	const char *p = string;

	while ((p = strpbrk(p, "[(")) != NULL)
	{
		do
		{
			CHECK_FOR_INTERRUPTS();
			p = copy_bound(p + 1, bound);
			if (*bound != '\0')
				check_text(times->element, bound, false);
		} while (*p == ',');
	}
	pfree(bound);
}

static void
check_array(SaggTimes *times, char *string)
{
	Datum		array = InputFunctionCall(&times->input, string, times->ioparam, times->typmod);
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!nulls[i])
			check_text(times->element, TextDatumGetCString(elements[i]), false);
	}
}

static void
check_composite(SaggTimes *times, char *string)
{
	HeapTupleData tuple = {0};
	TupleDesc	desc;

	find_attributes(times);
	tuple.t_data = DatumGetHeapTupleHeader(InputFunctionCall(&times->input, string, times->ioparam,
															 times->typmod));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	desc = lookup_rowtype_tupdesc_copy(RECORDOID, times->typmod);
	for (int i = 0; i < times->nattributes; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(&tuple, i + 1, desc, &isnull);

		if (times->attributes[i] && !isnull)
			check_text(times->attributes[i], TextDatumGetCString(value), false);
	}
}

/* "whole": the text is the value of a column, not part of one. */
static void
check_text(SaggTimes *times, char *string, bool whole)
{
	check_stack_depth();
	switch (times->kind)
	{
		case TIMES_OF_DAY:
			check_time(string, false);
			break;
		case TIMES_DATED:
			check_time(string, whole);
			break;
		case TIMES_RANGE:
			check_range(times, string);
			break;
		case TIMES_ARRAY:
			check_array(times, string);
			break;
		case TIMES_COMPOSITE:
			check_composite(times, string);
			break;
	}
}

/* What a check of many values makes lives until its end: switches to a context. */
static MemoryContext
begin_check(void)
{
	return MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext,
													   "stream_agg check of times",
													   ALLOCSET_SMALL_SIZES));
}

/* Switches back to "outer", which begin_check has returned. */
static void
end_check(MemoryContext outer)
{
	MemoryContextDelete(MemoryContextSwitchTo(outer));
}

/*
 * Checks the text, in server encoding, that an input function is about to read
 * as the value of a column.  Raises an error that is the record's fault, also
 * for a text that is no array or composite.
 */
void
sagg_times_check_text(SaggTimes *times, char *string)
{
	MemoryContext outer;

	if (times->kind == TIMES_OF_DAY || times->kind == TIMES_DATED)
	{
		check_text(times, string, true);
		return;
	}
	outer = begin_check();
	check_text(times, string, true);
	end_check(outer);
}

/* Returns a container as text. */
static char *
container_text(const JsonbValue *value)
{
	return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
}

static void check_json(SaggTimes *times, const JsonbValue *value);

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

/* Returns the first element of an array in *element; false if it is empty. */
static bool
first_element(const JsonbValue *array, JsonbValue *element)
{
	JsonbIterator *it = JsonbIteratorInit(array->val.binary.data);

	return JsonbIteratorNext(&it, element, true) == WJB_BEGIN_ARRAY &&
		JsonbIteratorNext(&it, element, true) == WJB_ELEM;
}

/*
 * Returns how many dimensions jsonb_to_record finds in an array: it looks at
 * the first elements only.  Raises the server's error if they are too many.
 */
static int
count_dimensions(const JsonbValue *array)
{
	JsonbValue	value = *array;
	int			n = 1;

	while (first_element(&value, &value) && is_array(&value))
	{
		if (++n > MAXDIM)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("number of array dimensions (%d) exceeds the maximum allowed (%d)",
							n, MAXDIM)));
	}
	return n;
}

/*
 * Checks an array of so many dimensions.  Below the last one an array is the
 * text of an element; an element above it is an error of the server's.
 */
static void
check_json_array(SaggTimes *times, const JsonbValue *array, int dimensions)
{
	JsonbIterator *it = JsonbIteratorInit(array->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue	element;

	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token != WJB_ELEM)
			continue;
		if (dimensions == 1)
			check_json(times->element, &element);
		else if (is_array(&element))
			check_json_array(times, &element, dimensions - 1);
	}
}

/* Checks the members of an object that are attributes of a composite. */
static void
check_json_object(SaggTimes *times, const JsonbValue *object)
{
	find_attributes(times);
	for (int i = 0; i < times->nattributes; i++)
	{
		JsonbValue	buffer;
		JsonbValue *member = times->attributes[i] == NULL ? NULL :
		getKeyJsonValueFromContainer(object->val.binary.data, times->names[i],
									 strlen(times->names[i]), &buffer);

		if (member)
			check_json(times->attributes[i], member);
	}
}

static void
check_json(SaggTimes *times, const JsonbValue *value)
{
	check_stack_depth();
	if (value->type == jbvString)
		check_text(times, pnstrdup(value->val.string.val, value->val.string.len), false);
	if (value->type != jbvBinary)
		return;
	if (times->kind == TIMES_ARRAY)
	{
		if (is_array(value))
			check_json_array(times, value, count_dimensions(value));
	}
	else if (times->kind != TIMES_COMPOSITE)
		check_text(times, container_text(value), false);
	else if (JsonContainerIsObject(value->val.binary.data))
		check_json_object(times, value);
}

/*
 * Checks a value that jsonb_to_record is about to convert.  Raises an error
 * that is the record's fault.
 */
void
sagg_times_check_json(SaggTimes *times, const JsonbValue *value)
{
	MemoryContext outer = begin_check();

	check_json(times, value);
	end_check(outer);
}
