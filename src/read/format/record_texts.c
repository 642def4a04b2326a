/*-------------------------------------------------------------------------
 *
 * record_texts.c
 *	  Checks texts in a record, wherever they are in the values of a type, before
 *	  an input function of the server reads them.
 *
 * Dates and times go through record_times.c.  Of xml and tsquery the input
 * functions serve no interrupts, and take time, and xml memory too, in
 * proportion to the square of the length of what can be made up for them.  So
 * values with such texts are short, and there is no document type declaration
 * in an xml, by which a few bytes stand for many.
 *
 * Texts are taken apart by the server's own functions, arrays and composites
 * as such of texts, so that what is checked is what the server will read.
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "record_datum.h"

/* longest value that may have an xml, or a tsquery, in bytes */
#define MAX_XML_BYTES	65536
#define MAX_QUERY_BYTES 16384

typedef enum TextsKind
{
	TEXT_OF_DAY,				/* time, timetz */
	TEXT_DATED,					/* timestamptz, timestamp, date */
	TEXT_XML,
	TEXT_QUERY,					/* tsquery; those that follow have parts */
	TEXT_RANGE,					/* ranges and multiranges */
	TEXT_ARRAY,
	TEXT_COMPOSITE
} TextsKind;

/* The texts in the values of a type that are checked. */
struct SaggTexts
{
	TextsKind	kind;
	Size		max_bytes;		/* of a value; 0 = any number */
	SaggTexts  *element;		/* of arrays; a bound of ranges */

	/* of composites; attributes without such texts have NULL in "attributes" */
	Oid			type;
	uint64		version;		/* tupDesc_identifier of the type */
	int			nattributes;	/* those that are not dropped */
	SaggTexts **attributes;
	char	  **names;

	/* reads the text of an array or composite as one of texts */
	FmgrInfo	input;
	Oid			ioparam;
	int32		typmod;
	MemoryContext context;
};

/* A value that has a part is not longer than the part may be. */
static void
limit_size(SaggTexts *texts, const SaggTexts *part)
{
	if (part && part->max_bytes > 0 &&
		(texts->max_bytes == 0 || part->max_bytes < texts->max_bytes))
		texts->max_bytes = part->max_bytes;
}

/*
 * Looks the attributes of a composite type up, unless they are still the same.
 */
static void
find_attributes(SaggTexts *texts)
{
	TypeCacheEntry *entry = lookup_type_cache(texts->type, TYPECACHE_TUPDESC);
	MemoryContext save;
	uint64		version;
	TupleDesc	desc;
	TupleDesc	row;

	if (entry->tupDesc == NULL || entry->tupDesc_identifier == texts->version)
		return;
	save = MemoryContextSwitchTo(texts->context);
	version = entry->tupDesc_identifier;
	desc = CreateTupleDescCopy(entry->tupDesc);
	texts->attributes = palloc0(sizeof(SaggTexts *) * (desc->natts + 1));
	texts->names = palloc0(sizeof(char *) * (desc->natts + 1));
	texts->nattributes = 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		SaggTexts  *part;

		if (attr->attisdropped)
			continue;
		texts->names[texts->nattributes] = pstrdup(NameStr(attr->attname));
		part = sagg_texts_make(attr->atttypid);
		limit_size(texts, part);
		texts->attributes[texts->nattributes++] = part;
	}
	row = CreateTemplateTupleDesc(texts->nattributes);
	for (int i = 0; i < texts->nattributes; i++)
		TupleDescInitEntry(row, i + 1, texts->names[i], TEXTOID, -1, 0);
	texts->typmod = BlessTupleDesc(row)->tdtypmod;
	texts->ioparam = RECORDOID;
	fmgr_info_cxt(F_RECORD_IN, &texts->input, texts->context);
	texts->version = version;	/* the last: an error may be caught */
	MemoryContextSwitchTo(save);
}

/* Returns whether a composite type has such texts in any attribute. */
static bool
any_attribute(const SaggTexts *texts)
{
	for (int i = 0; i < texts->nattributes; i++)
	{
		if (texts->attributes[i])
			return true;
	}
	return false;
}

/* Returns whether the text of a type is checked as a whole, and as what. */
static bool
is_checked(Oid type, TextsKind *kind)
{
	switch (type)
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case DATEOID:
			*kind = TEXT_DATED;
			return true;
		case TIMEOID:
		case TIMETZOID:
			*kind = TEXT_OF_DAY;
			return true;
		case XMLOID:
			*kind = TEXT_XML;
			return true;
		case TSQUERYOID:
			*kind = TEXT_QUERY;
			return true;
		default:
			return false;
	}
}

/* Makes the part of arrays or ranges; NULL if their elements have no such texts. */
static SaggTexts *
make_container(SaggTexts *texts, TextsKind kind, Oid element)
{
	texts->kind = kind;
	texts->element = sagg_texts_make(element);
	if (texts->element == NULL)
		return NULL;
	limit_size(texts, texts->element);
	return texts;
}

/*
 * Returns where the values of a type, below domains, have texts that are checked;
 * NULL if nowhere.  The result lives in the current memory context.
 */
SaggTexts *
sagg_texts_make(Oid type)
{
	SaggTexts  *texts = palloc0(sizeof(SaggTexts));
	Oid			element;

	check_stack_depth();
	texts->context = CurrentMemoryContext;
	type = getBaseType(type);
	if (is_checked(type, &texts->kind))
	{
		texts->max_bytes = texts->kind == TEXT_XML ? MAX_XML_BYTES :
			texts->kind == TEXT_QUERY ? MAX_QUERY_BYTES : 0;
		return texts;
	}
	element = get_element_type(type);
	if (OidIsValid(element))
	{
		texts->ioparam = TEXTOID;
		texts->typmod = -1;
		fmgr_info(F_ARRAY_IN, &texts->input);
		return make_container(texts, TEXT_ARRAY, element);
	}
	if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		texts->kind = TEXT_COMPOSITE;
		texts->type = type;
		find_attributes(texts);
		return any_attribute(texts) ? texts : NULL;
	}
	if (type_is_multirange(type))
		type = get_multirange_range(type);
	return type_is_range(type) ? make_container(texts, TEXT_RANGE, get_range_subtype(type)) : NULL;
}

/*
 * Raises an error if a value of so many bytes is too long for the texts that may
 * be in it.
 */
void
sagg_texts_check_size(const SaggTexts *texts, Size len)
{
	if (texts->max_bytes > 0 && len > texts->max_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an xml or tsquery in a record may have up to %zu bytes, and not %zu",
						texts->max_bytes, len)));
}

/*
 * Raises an error if an xml has a document type declaration: it stands before the
 * first element, where there are only comments and instructions besides.
 */
static void
check_xml(const char *string)
{
	const char *p = string;

	while ((p = strchr(p, '<')) != NULL)
	{
		if (strncmp(p, "<!DOCTYPE", strlen("<!DOCTYPE")) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_XML_DOCUMENT),
					 errmsg("an xml in a record may not have a document type declaration")));
		if (strncmp(p, "<!--", strlen("<!--")) == 0)
			p = strstr(p + strlen("<!--"), "-->");
		else if (p[1] == '?')
			p = strstr(p, "?>");
		else
			return;
		if (p == NULL)
			return;
		p++;
	}
}

static void check_text(SaggTexts *texts, char *string, bool whole);

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
check_range(SaggTexts *texts, const char *string)
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
				check_text(texts->element, bound, false);
		} while (*p == ',');
	}
	pfree(bound);
}

static void
check_array(SaggTexts *texts, char *string)
{
	Datum		array = InputFunctionCall(&texts->input, string, texts->ioparam, texts->typmod);
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!nulls[i])
			check_text(texts->element, TextDatumGetCString(elements[i]), false);
	}
}

static void
check_composite(SaggTexts *texts, char *string)
{
	HeapTupleData tuple = {0};
	TupleDesc	desc;

	find_attributes(texts);
	tuple.t_data = DatumGetHeapTupleHeader(InputFunctionCall(&texts->input, string, texts->ioparam,
															 texts->typmod));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	desc = lookup_rowtype_tupdesc_copy(RECORDOID, texts->typmod);
	for (int i = 0; i < texts->nattributes; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(&tuple, i + 1, desc, &isnull);

		if (texts->attributes[i] && !isnull)
			check_text(texts->attributes[i], TextDatumGetCString(value), false);
	}
}

/* "whole": the text is the value of a column, not part of one. */
static void
check_text(SaggTexts *texts, char *string, bool whole)
{
	check_stack_depth();
	switch (texts->kind)
	{
		case TEXT_OF_DAY:
			sagg_time_check(string, false);
			break;
		case TEXT_DATED:
			sagg_time_check(string, whole);
			break;
		case TEXT_XML:
			sagg_texts_check_size(texts, strlen(string));
			check_xml(string);
			break;
		case TEXT_QUERY:
			sagg_texts_check_size(texts, strlen(string));
			break;
		case TEXT_RANGE:
			check_range(texts, string);
			break;
		case TEXT_ARRAY:
			check_array(texts, string);
			break;
		case TEXT_COMPOSITE:
			check_composite(texts, string);
			break;
	}
}

/* What a check of many values makes lives until its end: switches to a context. */
static MemoryContext
begin_check(void)
{
	return MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext,
													   "stream_agg check of texts",
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
sagg_texts_check(SaggTexts *texts, char *string)
{
	MemoryContext outer;

	if (texts->kind < TEXT_RANGE)
	{
		check_text(texts, string, true);
		return;
	}
	outer = begin_check();
	check_text(texts, string, true);
	end_check(outer);
}

/* Returns a container as text. */
static char *
container_text(const JsonbValue *value)
{
	return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
}

static void check_json(SaggTexts *texts, const JsonbValue *value);

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
check_json_array(SaggTexts *texts, const JsonbValue *array, int dimensions)
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
			check_json(texts->element, &element);
		else if (is_array(&element))
			check_json_array(texts, &element, dimensions - 1);
	}
}

/* Checks the members of an object that are attributes of a composite. */
static void
check_json_object(SaggTexts *texts, const JsonbValue *object)
{
	find_attributes(texts);
	for (int i = 0; i < texts->nattributes; i++)
	{
		JsonbValue	buffer;
		JsonbValue *member = texts->attributes[i] == NULL ? NULL :
		getKeyJsonValueFromContainer(object->val.binary.data, texts->names[i],
									 strlen(texts->names[i]), &buffer);

		if (member)
			check_json(texts->attributes[i], member);
	}
}

static void
check_json(SaggTexts *texts, const JsonbValue *value)
{
	check_stack_depth();
	if (value->type == jbvString)
		check_text(texts, pnstrdup(value->val.string.val, value->val.string.len), false);
	if (value->type != jbvBinary)
		return;
	if (texts->kind == TEXT_ARRAY)
	{
		if (is_array(value))
			check_json_array(texts, value, count_dimensions(value));
	}
	else if (texts->kind != TEXT_COMPOSITE)
		check_text(texts, container_text(value), false);
	else if (JsonContainerIsObject(value->val.binary.data))
		check_json_object(texts, value);
}

/*
 * Checks a value that jsonb_to_record is about to convert.  Raises an error
 * that is the record's fault.
 */
void
sagg_texts_check_json(SaggTexts *texts, const JsonbValue *value)
{
	MemoryContext outer = begin_check();

	check_json(texts, value);
	end_check(outer);
}
