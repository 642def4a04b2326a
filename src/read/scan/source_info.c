/*-------------------------------------------------------------------------
 *
 * source_info.c
 *	  Reads what the catalogs say about a source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "read/read_internal.h"

/*
 * Returns the value of an option, NULL if it is not there.
 */
char *
sagg_find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/*
 * Returns the options of a user's mapping, or of the one for PUBLIC; NIL if
 * there is none.
 */
List *
sagg_mapping_options(Oid server, Oid user)
{
	HeapTuple	tuple;
	Datum		options;
	bool		isnull;
	List	   *result = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(user),
							ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							  Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		result = untransformRelOptions(options);
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Returns the metadata that a word of the column option "metadata" stands for;
 * false if there is no such metadata.
 */
bool
sagg_metadata_kind(const char *word, SaggFieldKind *kind)
{
	static const struct
	{
		const char *word;
		SaggFieldKind kind;
	}			words[] = {
		{"topic", SAGG_FIELD_TOPIC},
		{"partition", SAGG_FIELD_PARTITION},
		{"offset", SAGG_FIELD_OFFSET},
		{"key", SAGG_FIELD_KEY},
		{"timestamp", SAGG_FIELD_TIMESTAMP},
		{"headers", SAGG_FIELD_HEADERS},
		{"error", SAGG_FIELD_ERROR}
	};

	for (int i = 0; i < lengthof(words); i++)
	{
		if (strcmp(words[i].word, word) == 0)
		{
			*kind = words[i].kind;
			return true;
		}
	}
	return false;
}

/*
 * Raises fdw_invalid_data_type for metadata in a column of the wrong type.
 */
void
sagg_check_metadata_type(SaggFieldKind kind, const char *word, Form_pg_attribute att)
{
	Oid			type = getBaseType(att->atttypid);
	bool		fits;
	const char *types;

	switch (kind)
	{
		case SAGG_FIELD_TOPIC:
			fits = type == TEXTOID;
			types = "text";
			break;
		case SAGG_FIELD_ERROR:
			/* no domain, which an error might violate */
			fits = att->atttypid == TEXTOID;
			types = "text";
			break;
		case SAGG_FIELD_PARTITION:
			fits = type == INT4OID || type == INT8OID;
			types = "integer or bigint";
			break;
		case SAGG_FIELD_OFFSET:
			fits = type == INT8OID;
			types = "bigint";
			break;
		case SAGG_FIELD_KEY:
			fits = type == BYTEAOID || type == TEXTOID;
			types = "bytea or text";
			break;
		case SAGG_FIELD_TIMESTAMP:
			fits = type == TIMESTAMPTZOID;
			types = "timestamp with time zone";
			break;
		default:
			fits = type == JSONBOID;
			types = "jsonb";
	}
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
				 errmsg("column \"%s\" is of type %s, but the %s of a record is %s",
						NameStr(att->attname), format_type_be(att->atttypid), word, types)));
}

/*
 * Returns whether the source has a column for the headers of its records.
 */
bool
sagg_source_has_headers(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		found = false;

	for (int i = 0; i < RelationGetNumberOfAttributes(rel) && !found; i++)
	{
		SaggFieldKind kind;
		char	   *word;

		if (TupleDescAttr(RelationGetDescr(rel), i)->attisdropped)
			continue;
		word = sagg_find_option(GetForeignColumnOptions(relid, i + 1), "metadata");
		found = word && sagg_metadata_kind(word, &kind) &&
			kind == SAGG_FIELD_HEADERS;
	}
	table_close(rel, NoLock);
	return found;
}
