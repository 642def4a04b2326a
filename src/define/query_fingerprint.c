/*-------------------------------------------------------------------------
 *
 * query_fingerprint.c
 *	  What stored state depends on, as a number.
 *
 * State written under one fingerprint is read under the same only.  It covers
 * what decides the bytes: window, types and collations of the keys, aggregate
 * functions.  Names are hashed, never OIDs, so that a dumped and restored
 * database, or an upgraded server, reads its state again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_agg.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "define_internal.h"

static void
append_collation(StringInfo text, Oid collation)
{
	HeapTuple	tuple;

	if (!OidIsValid(collation))
		return;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	appendStringInfo(text, " collate %s.%s",
					 get_namespace_name(((Form_pg_collation) GETSTRUCT(tuple))->collnamespace),
					 NameStr(((Form_pg_collation) GETSTRUCT(tuple))->collname));
	ReleaseSysCache(tuple);
}

/*
 * What an aggregate's state is: CREATE OR REPLACE AGGREGATE can make it
 * another, and bytes of one type must not be read as those of another.
 */
static void
append_state(StringInfo text, const Aggref *aggref)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	Oid			argtypes[FUNC_MAX_ARGS];
	int			nargs;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	nargs = get_aggregate_argtypes(unconstify(Aggref *, aggref), argtypes);
	appendStringInfo(text, " state %s",
					 format_type_be_qualified(resolve_aggregate_transtype(aggref->aggfnoid,
																		  form->aggtranstype,
																		  argtypes, nargs)));
	if (OidIsValid(form->aggserialfn))
		appendStringInfo(text, " by %s and %s",
						 format_procedure_qualified(form->aggserialfn),
						 format_procedure_qualified(form->aggdeserialfn));
	ReleaseSysCache(tuple);
}

/*
 * Kept inputs are told by their types and by who shares them.
 */
static void
append_inputs(StringInfo text, const SaggAgg *agg)
{
	ListCell   *lc;

	appendStringInfo(text, " inputs of %d%s", agg->inputs,
					 agg->aggref->aggdistinct ? " distinct" : "");
	foreach(lc, agg->aggref->args)
	{
		Node	   *arg = (Node *) lfirst_node(TargetEntry, lc)->expr;
		TupleDesc	record = exprType(arg) == RECORDOID ? get_expr_result_tupdesc(arg, true) : NULL;

		appendStringInfo(text, " %s", format_type_be_qualified(exprType(arg)));
		for (int i = 0; record && i < record->natts; i++)
			appendStringInfo(text, " field %s",
							 format_type_be_qualified(TupleDescAttr(record, i)->atttypid));
	}
}

/*
 * The fingerprint of a query whose window, keys and aggregates are filled in.
 */
uint64
sagg_query_fingerprint(const SaggQuery *query)
{
	StringInfoData text;

	initStringInfo(&text);
	if (query->kind != SAGG_AGGREGATION)
		appendStringInfoString(&text, query->kind == SAGG_DEDUPLICATION ?
							   "seen keys\n" : "no state\n");
	appendStringInfo(&text, "window %d size " INT64_FORMAT " origin " INT64_FORMAT " %s\n",
					 query->window.kind, query->window.size, query->window.origin,
					 query->window.kind == SAGG_WINDOW_NONE ? "" :
					 format_type_be_qualified(query->window.type));
	if (query->window.kind == SAGG_WINDOW_CALENDAR)
		appendStringInfo(&text, "by %s months %d days %d origin " INT64_FORMAT "\n",
						 pg_get_timezone_name(query->window.calendar.zone),
						 query->window.calendar.months, query->window.calendar.days,
						 query->window.calendar.origin);
	if (query->window.kind == SAGG_WINDOW_HOP)
		appendStringInfo(&text, "slide " INT64_FORMAT " %s\n", query->window.slide,
						 query->window.panes ? "by pane" : "by window");
	for (int i = 0; i < query->nkeys; i++)
	{
		const SaggKey *key = &query->keys[i];

		appendStringInfo(&text, "key %s",
						 format_type_extended(key->type, key->typmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		append_collation(&text, key->collation);
		appendStringInfoChar(&text, '\n');
	}
	for (int i = 0; i < query->naggs; i++)
	{
		const Aggref *aggref = query->aggs[i].aggref;

		appendStringInfo(&text, "aggregate %s returns %s",
						 format_procedure_qualified(aggref->aggfnoid),
						 format_type_be_qualified(aggref->aggtype));
		if (query->aggs[i].keeps_inputs)
			append_inputs(&text, &query->aggs[i]);
		else
			append_state(&text, aggref);
		append_collation(&text, aggref->inputcollid);
		appendStringInfoChar(&text, '\n');
	}
	return DatumGetUInt64(hash_any_extended((unsigned char *) text.data, text.len, 0));
}
