/*-------------------------------------------------------------------------
 *
 * sink_window.c
 *	  Whether the sink has windows as the query yields them.
 *
 * Retention, a reset with results and repair_late find rows by the sink's column of
 * the window, and read its values, those of partition bounds too, as times.  An
 * INSERT converts a value to whatever type the column has, by a cast of anybody's;
 * a comparison with it finds other rows then, and what is read is no time.  So this
 * must be asked before such a value is read, in the transaction that has locked the
 * sink.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "event_time/event_time.h"
#include "write_internal.h"

/*
 * Returns the type of the output's column that has the window, or one of its
 * bounds.
 */
static Oid
window_type(const SaggQuery *query)
{
	return query->window_identity == SAGG_WINDOW_WHOLE && query->window.type == TSTZRANGEOID ?
		TSTZRANGEOID : sagg_window_column_type(query);
}

/*
 * Returns whether column "column" of the sink, which takes that column of the
 * output, has the type of windows or a domain over it.  "exact": it does not round
 * them either.
 */
bool
sagg_sink_has_windows(Relation rel, const SaggQuery *query, AttrNumber column, bool exact)
{
	Form_pg_attribute out = TupleDescAttr(query->output_desc, query->window_output - 1);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), column - 1);
	int32		typmod = att->atttypmod;

	return getBaseTypeAndTypmod(att->atttypid, &typmod) == window_type(query) &&
		getBaseType(out->atttypid) == window_type(query) &&
		(!exact || typmod == -1 || typmod == out->atttypmod);
}

/*
 * Raise an error with this code unless sagg_sink_has_windows.
 */
void
sagg_sink_check_windows(Relation rel, const SaggQuery *query, AttrNumber column, bool exact, int code)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), column - 1);
	char	   *type = format_type_be(window_type(query));

	if (!sagg_sink_has_windows(rel, query, column, exact))
		ereport(ERROR,
				(errcode(code),
				 errmsg("column \"%s\" of sink \"%s\" has type %s, but windows of the stream have type %s",
						NameStr(att->attname), RelationGetRelationName(rel),
						format_type_with_typemod(att->atttypid, att->atttypmod), type),
				 errdetail("Retention, reset_stream with results and repair_late find rows by this column."),
				 errhint("Give the column type %s, or leave retention out.", type)));
}
