/*-------------------------------------------------------------------------
 *
 * source_layout.c
 *	  Determines where the columns of a source come from, by the options of the
 *	  foreign table and its columns.
 *
 * Options were checked one by one when they were stored (source_options.c);
 * the combination of options, and the columns' types, are checked here,
 * whenever a source is used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "read/format/format.h"
#include "read/read_internal.h"
#include "read/format/schema_registry.h"

/*
 * Reject options of a column that need names in the payload.
 */
static void
reject_name_option(const SaggFormat *format, Form_pg_attribute att,
				   const char *option)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("column \"%s\" cannot have option \"%s\" in format %s",
					NameStr(att->attname), option, format->name),
			 errdetail("Records of this format have no names of fields.")));
}

static SaggUnit
column_unit(Form_pg_attribute att, const char *word)
{
	Oid			type = getBaseType(att->atttypid);
	SaggUnit	unit = SAGG_UNIT_DEFAULT;

	if (word == NULL)
		return unit;
	if (type != TIMESTAMPTZOID && type != TIMESTAMPOID)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
				 errmsg("column \"%s\" is of type %s and cannot have option \"unit\"",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errdetail("Only columns of type timestamptz and timestamp have a unit.")));
	(void) sagg_unit_by_name(word, &unit);
	return unit;
}

static void
set_path(SaggField *field, const SaggFormat *format, Form_pg_attribute att,
		 List *options)
{
	char	   *name = sagg_find_option(options, "field");
	char	   *path = sagg_find_option(options, "path");
	char	   *envelope = sagg_find_option(options, "envelope");

	field->name = name ? name : path ? path : envelope ? envelope : pstrdup(NameStr(att->attname));
	if (envelope && format != &sagg_format_debezium)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("column \"%s\" cannot have option \"envelope\" in format %s",
						NameStr(att->attname), format->name),
				 errdetail("Only records of format debezium have an envelope.")));
	if (path || envelope)
		field->path = sagg_path_parse(path ? "path" : "envelope", path ? path : envelope,
									  &field->npath);
	else
	{
		field->npath = 1;
		field->path = palloc(sizeof(char *));
		field->path[0] = unconstify(char *, field->name);
		field->any_case = name == NULL || sagg_find_option(options, "any_case") != NULL;
	}
	field->in_envelope = envelope != NULL;
}

/*
 * Set up a column that comes from the payload.
 */
static void
set_payload_field(SaggLayout *layout, Form_pg_attribute att, List *options)
{
	static const char *const names[] = {"field", "path", "envelope"};
	SaggField  *field = &layout->fields[att->attnum - 1];

	field->kind = SAGG_FIELD_PAYLOAD;
	field->position = layout->npositions++;
	field->unit = column_unit(att, sagg_find_option(options, "unit"));
	field->name = pstrdup(NameStr(att->attname));
	if (layout->format->rule == SAGG_BY_NAME)
	{
		set_path(field, layout->format, att, options);
		return;
	}
	for (int i = 0; i < lengthof(names); i++)
	{
		if (sagg_find_option(options, names[i]))
			reject_name_option(layout->format, att, names[i]);
	}
	if (layout->format->rule == SAGG_WHOLE_PAYLOAD && layout->npositions > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
				 errmsg("a source of format %s cannot have more than one column beside metadata",
						layout->format->name),
				 errdetail("Column \"%s\" would be the second one for the whole value of a record.",
						   NameStr(att->attname))));
	if (layout->format == &sagg_format_raw && getBaseType(att->atttypid) != BYTEAOID)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
				 errmsg("column \"%s\" is of type %s, but records of format raw are bytea",
						NameStr(att->attname), format_type_be(att->atttypid))));
}

static void
set_options(SaggLayout *layout, const SaggSourceKind *kind, List *options)
{
	const char *format = kind->format ? kind->format : sagg_find_option(options, "format");
	char	   *delimiter = sagg_find_option(options, "delimiter");
	char	   *quote = sagg_find_option(options, "quote");
	char	   *null_text = sagg_find_option(options, "null");
	char	   *others = sagg_find_option(options, "other_operations");
	char	   *tombstones = sagg_find_option(options, "tombstones");
	char	   *on_error = sagg_find_option(options, "on_error");

	layout->format = sagg_format_by_name(format ? format : "json");
	if (layout->format == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown format \"%s\"", format)));
	layout->proto = sagg_find_option(options, "proto");
	layout->descriptor_set = sagg_find_option(options, "descriptor_set");
	layout->message = sagg_find_option(options, "message");
	layout->delimiter = delimiter ? delimiter[0] : ',';
	layout->quote = quote ? quote[0] : '"';
	layout->null_text = null_text ? null_text : "";
	if (tombstones)
		(void) sagg_tombstones_by_name(tombstones, &layout->tombstones);
	if (on_error)
		(void) sagg_scan_errors_by_name(on_error, &layout->scan_errors);
	layout->ignore_others = others && strcmp(others, "ignore") == 0;
}

/*
 * See read_internal.h.  Raises fdw_invalid_data_type and
 * fdw_invalid_option_name for columns that do not fit the format or their
 * options.
 */
SaggLayout *
sagg_source_layout(Relation rel, const Bitmapset *used)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const SaggSourceKind *kind = sagg_kind_of_source(RelationGetRelid(rel));
	SaggLayout *layout = palloc0(sizeof(SaggLayout));

	set_options(layout, kind, GetForeignTable(RelationGetRelid(rel))->options);
	layout->natts = desc->natts;
	layout->fields = palloc0(sizeof(SaggField) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		SaggField  *field = &layout->fields[i];
		List	   *options;
		const char *word;

		field->kind = SAGG_FIELD_UNUSED;
		if (att->attisdropped)
			continue;
		options = GetForeignColumnOptions(RelationGetRelid(rel), att->attnum);
		word = sagg_find_option(options, "metadata");
		if (word == NULL && kind->column_metadata)
			word = kind->column_metadata(att);
		if (word && sagg_metadata_kind(word, &field->kind))
			sagg_check_metadata_type(field->kind, word, att);
		else
			set_payload_field(layout, att, options);
		if (used && !bms_is_member(att->attnum, used))
			field->kind = SAGG_FIELD_UNUSED;
	}
	return layout;
}

/*
 * Returns the registry of a source's schemas, as a user reaches it; NULL if
 * its format needs none.  Contacts nobody.
 */
struct SaggRegistry *
sagg_source_registry(Oid relid, Oid user)
{
	List	   *options = GetForeignTable(relid)->options;
	char	   *name = sagg_find_option(options, "format");
	const SaggFormat *format = name ? sagg_format_by_name(name) : NULL;

	if (format != &sagg_format_avro && format != &sagg_format_protobuf)
		return NULL;
	if (sagg_find_option(options, "proto") || sagg_find_option(options, "descriptor_set"))
		return NULL;
	return sagg_registry_open(GetForeignServerIdByRelId(relid), user);
}

/*
 * Raises an error if a source cannot be read because of its columns and
 * options.  Contacts nobody.
 */
void
sagg_source_check(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	SaggLayout *layout = sagg_source_layout(rel, NULL);

	if (layout->proto || layout->descriptor_set)
		sagg_decoder_free(sagg_decoder_make(RelationGetDescr(rel), layout, layout->natts));
	(void) sagg_source_registry(relid, GetUserId());
	table_close(rel, NoLock);
}
