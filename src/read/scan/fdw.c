/*-------------------------------------------------------------------------
 *
 * fdw.c
 *	  The callbacks of the foreign-data wrapper of every kind of sources.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "insert_internal.h"
#include "read/read_internal.h"

/* What a handler returns, as it is known to have been returned by one. */
typedef struct SourceRoutine
{
	FdwRoutine	routine;
	const SaggSourceKind *kind;
} SourceRoutine;

/*
 * The kind whose wrapper has a handler that has just returned "routine"; NULL for a
 * handler of others.  The copy in a relation's cache does not do.
 */
const SaggSourceKind *
sagg_kind_of_routine(const FdwRoutine *routine)
{
	if (routine->BeginForeignScan != sagg_begin_scan)
		return NULL;
	return ((const SourceRoutine *) routine)->kind;
}

/*
 * What the handler of a kind's wrapper returns, in the current context.  The kind has
 * been registered.
 */
FdwRoutine *
sagg_source_routine(const SaggSourceKind *kind)
{
	SourceRoutine *result = palloc0(sizeof(SourceRoutine));
	FdwRoutine *routine = &result->routine;

	if (!sagg_source_registered(kind))
		elog(ERROR, "source kind \"%s\" is not registered", kind->name);
	routine->type = T_FdwRoutine;
	result->kind = kind;
	routine->GetForeignRelSize = sagg_get_rel_size;
	routine->GetForeignPaths = sagg_get_paths;
	routine->GetForeignPlan = sagg_get_plan;
	routine->BeginForeignScan = sagg_begin_scan;
	routine->IterateForeignScan = sagg_iterate_scan;
	routine->ReScanForeignScan = sagg_rescan;
	routine->EndForeignScan = sagg_end_scan;
	routine->ExplainForeignScan = sagg_explain_scan;
	routine->PlanForeignModify = sagg_plan_modify;
	if (kind->producer == NULL)
		return routine;
	routine->BeginForeignModify = sagg_begin_modify;
	routine->BeginForeignInsert = sagg_begin_insert;
	routine->ExecForeignInsert = sagg_exec_insert;
	routine->EndForeignModify = sagg_end_insert;
	routine->EndForeignInsert = sagg_end_insert;
	routine->IsForeignRelUpdatable = sagg_is_updatable;
	routine->ExplainForeignModify = sagg_explain_modify;
	return routine;
}
