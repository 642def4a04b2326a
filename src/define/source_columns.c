/*-------------------------------------------------------------------------
 *
 * source_columns.c
 *	  The columns of a source: one column list, as in CREATE FOREIGN TABLE.
 *
 * The text is parsed as the column list of a statement made of nothing else;
 * only the ColumnDefs of the result are used, after a check that there is
 * nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"

#include "define_internal.h"

#define PLACEHOLDER		"columns of a source"

static void
reject_columns(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("columns must be one list of columns"),
			 errdetail("%s", detail),
			 errhint("Write it as in CREATE TABLE: 'ts timestamptz, user_id bigint'.")));
}

/*
 * Returns the statement around the list, after a check that it is the expected
 * one.
 */
static CreateForeignTableStmt *
only_statement(List *statements)
{
	CreateForeignTableStmt *stmt;

	if (list_length(statements) != 1 ||
		!IsA(linitial_node(RawStmt, statements)->stmt, CreateForeignTableStmt))
		reject_columns("There is more than a list of columns.");
	stmt = (CreateForeignTableStmt *) linitial_node(RawStmt, statements)->stmt;
	if (strcmp(stmt->base.relation->relname, PLACEHOLDER) != 0 ||
		strcmp(stmt->servername, PLACEHOLDER) != 0 ||
		stmt->options != NIL || stmt->base.inhRelations != NIL ||
		stmt->base.partbound != NULL || stmt->base.partspec != NULL)
		reject_columns("There is more than a list of columns.");
	return stmt;
}

/*
 * Returns whether a type is one of those (serial) that give a column a default
 * and NOT NULL.
 */
static bool
is_serial(const TypeName *type)
{
	static const char *const names[] = {
		"serial", "serial2", "serial4", "serial8", "smallserial", "bigserial"
	};

	if (list_length(type->names) != 1 || type->pct_type)
		return false;
	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(strVal(linitial(type->names)), names[i]) == 0)
			return true;
	}
	return false;
}

/*
 * Fix the JSON field of a column, so that it stays when the column is renamed.
 * A name that was given for the column only is matched in any case.
 */
static void
add_field_option(ColumnDef *column, bool any_case)
{
	ListCell   *lc;

	foreach(lc, column->fdwoptions)
	{
		char	   *name = lfirst_node(DefElem, lc)->defname;

		if (strcmp(name, "field") == 0 || strcmp(name, "path") == 0 ||
			strcmp(name, "envelope") == 0 || strcmp(name, "metadata") == 0)
			return;
	}
	column->fdwoptions = lappend(column->fdwoptions,
								 makeDefElem("field", (Node *) makeString(pstrdup(column->colname)), -1));
	if (any_case)
		column->fdwoptions = lappend(column->fdwoptions,
									 makeDefElem("any_case", (Node *) makeString(pstrdup("true")), -1));
}

/*
 * Returns whether the name of a column, at "written", was folded to lower
 * case.
 */
static bool
is_folded(const ColumnDef *column, const char *written)
{
	size_t		len = strlen(column->colname);

	return pg_strncasecmp(written, column->colname, len) == 0 &&
		strncmp(written, column->colname, len) != 0;
}

/*
 * Warn about names written with capitals that were folded to lower case: most
 * likely fields with capitals are meant.
 */
static void
tell_of_folded_names(List *columns, const char *text, bool any_case)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, columns)
	{
		ColumnDef  *column = lfirst_node(ColumnDef, lc);

		if (column->location < 0 || column->fdwoptions != NIL ||
			!is_folded(column, text + column->location))
			continue;
		appendStringInfo(&names, "%s%.*s", names.len > 0 ? ", " : "",
						 (int) strlen(column->colname), text + column->location);
	}
	if (names.len > 0)
		ereport(NOTICE,
				(errmsg("names of columns are folded to lower case: %s", names.data),
				 any_case ?
				 errdetail("The columns take the fields of these names in any case.") :
				 errdetail("The columns take the fields of the names in lower case."),
				 errhint("Write the name in double quotes, or add OPTIONS (field 'nameOfTheField').")));
}

/*
 * Parse a list of columns into ColumnDefs, with the fields that columns match
 * by name if "by_name", and in any case if "any_case". "*text" is set to the
 * statement that positions in them count in.  Raises invalid_parameter_value,
 * syntax_error or feature_not_supported.
 */
List *
sagg_parse_columns(const char *columns, bool by_name, bool any_case, char **text)
{
	CreateForeignTableStmt *stmt;
	ListCell   *lc;

	if (columns[strspn(columns, " \t\n\r")] == '\0')
		reject_columns("It is empty.");
	*text = psprintf("CREATE FOREIGN TABLE \"%s\" (\n%s\n) SERVER \"%s\"",
					 PLACEHOLDER, columns, PLACEHOLDER);
	stmt = only_statement(sagg_parse_text(*text));
	if (stmt->base.tableElts == NIL)
		reject_columns("It is empty.");
	foreach(lc, stmt->base.tableElts)
	{
		ColumnDef  *column = lfirst(lc);

		if (!IsA(column, ColumnDef))
			reject_columns("A source has columns only, no constraints and no LIKE.");
		if (column->constraints != NIL || column->raw_default != NULL ||
			is_serial(column->typeName))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" of a source cannot have a constraint or a default",
							column->colname),
					 errdetail("A field that a record lacks is NULL."),
					 errhint("Leave records out in the query of a stream, by WHERE.")));
	}
	if (by_name)
		tell_of_folded_names(stmt->base.tableElts, *text, any_case);
	foreach(lc, stmt->base.tableElts)
	{
		if (by_name)
			add_field_option(lfirst_node(ColumnDef, lc), any_case);
	}
	return stmt->base.tableElts;
}
