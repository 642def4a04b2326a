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

/*
 * Returns what the handler of a kind's wrapper returns, in the current context.
 * The kind has been registered.
 */
FdwRoutine *
sagg_source_routine(const SaggSourceKind *kind)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	sagg_source_handled(kind, routine);
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
