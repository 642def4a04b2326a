/*-------------------------------------------------------------------------
 *
 * null_columns.c
 *	  Finds columns that are NULL in all of the first records: their fields are
 *	  most likely misspelled.
 *
 * A watch covers the columns that scans of micro-batches read of a source, and
 * lives as long as the process.  It costs nothing once each of its columns has
 * had a value, or after WATCHED_RECORDS.  It reports what it finds once, and
 * must never change what a scan returns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "read/format/format.h"
#include "scan_internal.h"

#define WATCHED_RECORDS		10000

/* most watches of a process */
#define MAX_WATCHES			100

/* most columns named in a message */
#define MAX_NAMES			20

struct SaggNullWatch
{
	Oid			source;
	Bitmapset  *used;			/* attributes that scans read */
	bool		done;
	int64		records;
	bool		debezium;
	bool		named;			/* records have names of fields */
	char	   *fields;			/* field names of a record, NULL = not known */
	int			npending;		/* columns that were NULL in all records */
	int		   *pending;		/* from 0 */
	char	  **names;			/* names of all columns, with their fields */
};

static List *watches = NIL;

static SaggNullWatch *
make_watch(Relation rel, const SaggLayout *layout, const Bitmapset *used)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	SaggNullWatch *watch = palloc0(sizeof(SaggNullWatch));

	watch->source = RelationGetRelid(rel);
	watch->used = bms_copy(used);
	watch->debezium = layout->format == &sagg_format_debezium;
	watch->named = watch->debezium || layout->format == &sagg_format_json;
	watch->pending = palloc(sizeof(int) * Max(layout->natts, 1));
	watch->names = palloc0(sizeof(char *) * Max(layout->natts, 1));
	for (int i = 0; i < layout->natts; i++)
	{
		const SaggField *field = &layout->fields[i];
		char	   *column = NameStr(TupleDescAttr(RelationGetDescr(rel), i)->attname);

		if (field->kind != SAGG_FIELD_PAYLOAD)
			continue;
		watch->pending[watch->npending++] = i;
		watch->names[i] = strcmp(column, field->name) == 0 ? psprintf("\"%s\"", column) :
			psprintf("\"%s\" (field \"%s\")", column, field->name);
	}
	watch->done = watch->npending == 0;
	watches = lappend(watches, watch);
	MemoryContextSwitchTo(old);
	return watch;
}

/*
 * Returns the watch of a scan of a batch that reads the attributes "used" of a
 * source; NULL if there is nothing to watch any more.  Lives as long as the
 * process.
 */
SaggNullWatch *
sagg_null_watch(Relation rel, const SaggLayout *layout, const Bitmapset *used)
{
	SaggNullWatch *found = NULL;
	ListCell   *lc;

	foreach(lc, watches)
	{
		SaggNullWatch *watch = lfirst(lc);

		if (watch->source == RelationGetRelid(rel) && bms_equal(watch->used, used))
			found = watch;
	}
	if (found == NULL && list_length(watches) < MAX_WATCHES)
		found = make_watch(rel, layout, used);
	return found && !found->done ? found : NULL;
}

typedef struct FieldNames
{
	const SaggNullWatch *watch;
	const SaggRecord *record;
	StringInfoData buf;
} FieldNames;

/*
 * Returns the object that contains the fields of a row, NULL if there is none.
 */
static JsonbContainer *
row_object(const FieldNames *names, Jsonb *record, JsonbValue *buffer)
{
	JsonbContainer *object = &record->root;

	for (int i = 0; names->watch->debezium && object && i < 2; i++)
	{
		const char *name = i == 0 ? "payload" : "after";
		JsonbValue *inner = getKeyJsonValueFromContainer(object, name, strlen(name), buffer);

		if (inner && inner->type == jbvBinary)
			object = inner->val.binary.data;
		else if (i > 0)
			object = NULL;
	}
	return object && JsonContainerIsObject(object) ? object : NULL;
}

static void
collect_names(void *arg)
{
	FieldNames *names = (FieldNames *) arg;
	char	   *text = pnstrdup(names->record->payload, names->record->payload_len);
	Jsonb	   *record = DatumGetJsonbP(sagg_jsonb_make(pg_any_to_server(text, strlen(text), PG_UTF8)));
	JsonbValue	buffer;
	JsonbContainer *object = row_object(names, record, &buffer);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			n = 0;

	if (object == NULL)
		return;
	it = JsonbIteratorInit(object);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		if (n++ == MAX_NAMES)
		{
			appendStringInfoString(&names->buf, ", ...");
			break;
		}
		appendStringInfo(&names->buf, "%s\"%s\"", n > 1 ? ", " : "",
						 sagg_foreign_text(pnstrdup(value.val.string.val,
													Min(value.val.string.len, NAMEDATALEN))));
	}
}

/*
 * Note which fields a record has; done once.
 */
static void
note_fields(SaggNullWatch *watch, const SaggRecord *record)
{
	FieldNames	names = {watch, record};
	SaggRecordError why;

	initStringInfo(&names.buf);
	if (record->payload && record->payload_len <= SAGG_JSON_MAX_SIZE / 64 &&
		sagg_record_protect(collect_names, &names, &why) && names.buf.len > 0)
		watch->fields = MemoryContextStrdup(TopMemoryContext, names.buf.data);
	watch->named = false;
}

/*
 * Append the columns that were NULL in all records so far to "buf"; nothing if
 * there are none.
 */
static void
append_columns(StringInfo buf, const SaggNullWatch *watch)
{
	for (int i = 0; i < Min(watch->npending, MAX_NAMES); i++)
		appendStringInfo(buf, "%s%s", i > 0 ? ", " : "", watch->names[watch->pending[i]]);
	if (watch->npending > MAX_NAMES)
		appendStringInfoString(buf, ", ...");
}

static void
warn(const SaggNullWatch *watch)
{
	StringInfoData columns;

	initStringInfo(&columns);
	append_columns(&columns, watch);
	ereport(WARNING,
			(errmsg("columns of source \"%s\" were NULL in all of the first %d records: %s",
					get_rel_name(watch->source), WATCHED_RECORDS, columns.data),
			 watch->fields ? errdetail("A record has the fields %s.", watch->fields) : 0,
			 errhint("Name the field of a column with ALTER FOREIGN TABLE ... ALTER COLUMN ... OPTIONS (SET field '...').")));
	pfree(columns.data);
}

/*
 * Watch a row of the scan, made of the scan's record.  Returns false if the
 * watch is over.
 */
bool
sagg_null_watch_row(SaggNullWatch *watch, SaggSourceScan *scan, const bool *isnull)
{
	int			kept = 0;

	for (int i = 0; i < watch->npending; i++)
	{
		if (isnull[watch->pending[i]])
			watch->pending[kept++] = watch->pending[i];
	}
	watch->npending = kept;
	watch->records++;
	if (kept > 0 && watch->named)
	{
		if (scan->shared)
			(void) sagg_scan_load_record(scan);
		note_fields(watch, &scan->record);
	}
	watch->done = kept == 0 || watch->records >= WATCHED_RECORDS;
	if (watch->done && kept > 0)
		warn(watch);
	return !watch->done;
}

/*
 * Returns what is known about columns of sources (OIDs) that were NULL in all
 * records that this process has watched: sentences, or NULL if there are none.
 * In the current context.
 */
char *
sagg_null_columns(List *sources)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, watches)
	{
		const SaggNullWatch *watch = lfirst(lc);

		if (watch->npending == 0 || watch->records == 0 || !list_member_oid(sources, watch->source))
			continue;
		appendStringInfo(&buf, "%sNULL in all of the first " INT64_FORMAT " records: columns ",
						 buf.len > 0 ? " " : "", watch->records);
		append_columns(&buf, watch);
		appendStringInfoChar(&buf, '.');
		if (watch->fields)
			appendStringInfo(&buf, " A record has the fields %s.", watch->fields);
	}
	return buf.len > 0 ? buf.data : NULL;
}
