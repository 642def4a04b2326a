/*-------------------------------------------------------------------------
 *
 * json_encode.c
 *	  Encodes a row of a source as a JSON object.
 *
 * The object has one member for each field, in the order of the columns;
 * columns with a path are members of objects inside it.  Of columns that share
 * a field, or are part of another column's field, only one can be inserted at
 * a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/json.h"

#include "payload_encode.h"

typedef struct JsonColumn
{
	int			index;			/* index into the row's values */
	const char *name;			/* name for messages */
	SaggValueEncoder value;
	struct JsonColumn *next;	/* next column of the same field */
} JsonColumn;

typedef struct Member
{
	const char *name;
	char	   *label;			/* "name": in server encoding */
	JsonColumn *columns;
	struct Member *members;		/* first member inside it */
	struct Member *next;		/* next member beside it */
} Member;

typedef struct JsonEncoder
{
	SaggPayloadEncoder base;
	Member	   *members;
} JsonEncoder;

/*
 * Returns the member of this name in a list, appended if it is missing.
 */
static Member *
find_member(Member **list, const char *name)
{
	StringInfoData label;
	Member	   *member;

	for (; *list; list = &(*list)->next)
	{
		if (strcmp((*list)->name, name) == 0)
			return *list;
	}
	initStringInfo(&label);
	escape_json(&label, name);
	appendStringInfoChar(&label, ':');
	member = palloc0(sizeof(Member));
	member->name = name;
	member->label = label.data;
	*list = member;
	return member;
}

/*
 * Reject a path with an element of an array: nothing says what the other
 * elements are.
 */
static void
reject_subscripts(const char *column, const SaggField *field)
{
	if (field->npath == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into a source whose column \"%s\" has the path \"%s\"",
						column, field->name),
				 errdetail("It is the whole value of a record.")));
	for (int i = 0; i < field->npath; i++)
	{
		if (i > 0 && field->path[i][0] != '\0' &&
			strspn(field->path[i], "0123456789") == strlen(field->path[i]))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot insert into a source whose column \"%s\" has the path \"%s\"",
							column, field->name),
					 errdetail("It leads to an element of an array.")));
	}
}

static void
add_column(JsonEncoder *encoder, Form_pg_attribute att, const SaggField *field)
{
	JsonColumn *column = palloc0(sizeof(JsonColumn));
	Member	  **list = &encoder->members;
	Member	   *member = NULL;
	JsonColumn **last;

	column->index = att->attnum - 1;
	column->name = pstrdup(NameStr(att->attname));
	reject_subscripts(column->name, field);
	sagg_value_encoder_init(&column->value, att->atttypid, field->unit);
	encoder->base.needs_settings |= sagg_value_encoder_needs_settings(&column->value);
	for (int i = 0; i < field->npath; i++)
	{
		member = find_member(list, field->path[i]);
		list = &member->members;
	}
	for (last = &member->columns; *last; last = &(*last)->next)
		;
	*last = column;
}

static SaggPayloadEncoder *
prepare_json(TupleDesc desc, const SaggLayout *layout)
{
	JsonEncoder *encoder = palloc0(sizeof(JsonEncoder));

	for (int i = 0; i < layout->natts; i++)
	{
		if (layout->fields[i].kind == SAGG_FIELD_PAYLOAD)
			add_column(encoder, TupleDescAttr(desc, i), &layout->fields[i]);
	}
	return &encoder->base;
}

static void
reject_both(const JsonColumn *one, const JsonColumn *other)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("columns \"%s\" and \"%s\" cannot both be inserted",
					one->name, other->name),
			 errdetail("They are the same part of a record.")));
}

/*
 * Returns the column of a member that is not NULL; NULL if all are.
 */
static JsonColumn *
column_with_value(const Member *member, const bool *isnull)
{
	JsonColumn *found = NULL;

	for (JsonColumn *column = member->columns; column; column = column->next)
	{
		if (isnull[column->index])
			continue;
		if (found)
			reject_both(found, column);
		found = column;
	}
	return found;
}

/*
 * Returns a column inside of members that is not NULL; NULL if all are.
 */
static JsonColumn *
inner_value(const Member *members, const bool *isnull)
{
	for (const Member *member = members; member; member = member->next)
	{
		JsonColumn *found = column_with_value(member, isnull);

		if (found == NULL)
			found = inner_value(member->members, isnull);
		if (found)
			return found;
	}
	return NULL;
}

static void
encode_members(const Member *members, const Datum *values, const bool *isnull,
			   StringInfo out)
{
	check_stack_depth();
	appendStringInfoChar(out, '{');
	for (const Member *member = members; member; member = member->next)
	{
		JsonColumn *column = column_with_value(member, isnull);
		JsonColumn *inner = inner_value(member->members, isnull);

		if (member != members)
			appendStringInfoChar(out, ',');
		appendStringInfoString(out, member->label);
		if (column && inner)
			reject_both(column, inner);
		if (column)
			sagg_value_encode(&column->value, values[column->index], out);
		else if (inner || (member->members && !member->columns))
			encode_members(member->members, values, isnull, out);
		else
			appendStringInfoString(out, "null");
	}
	appendStringInfoChar(out, '}');
}

static bool
encode_json(SaggPayloadEncoder *encoder, const Datum *values,
			const bool *isnull, StringInfo out)
{
	encode_members(((JsonEncoder *) encoder)->members, values, isnull, out);
	return true;
}

const SaggEncoding sagg_json_encoding = {
	.prepare = prepare_json,
	.encode = encode_json
};
