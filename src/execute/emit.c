/*-------------------------------------------------------------------------
 *
 * emit.c
 *	  Turns groups into output rows.
 *
 * Emitted groups - window, keys, final values - make up the ephemeral relation
 * SAGG_ENR_GROUPS, over which PostgreSQL runs the query's select list and
 * HAVING.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "utils/queryenvironment.h"
#include "utils/rangetypes.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "execute/window/session_windows.h"

/*
 * Returns a tuplestore for rows of a micro-batch; what exceeds its memory goes
 * to a temporary file.
 */
static int
rows_memory_kb(void)
{
	return Max(work_mem, sagg_batch_memory_kb / 8);
}

/*
 * Set up the relation of emitted groups, in the current context.
 */
void
sagg_emit_init(SaggExecution *ex)
{
	ex->fresh = tuplestore_begin_heap(true, false, rows_memory_kb());
	ex->known = tuplestore_begin_heap(true, false, rows_memory_kb());
	if (ex->query->replaced)
		ex->replaced = tuplestore_begin_heap(true, false, rows_memory_kb());
	if (ex->query->window.kind != SAGG_WINDOW_NONE &&
		ex->query->window.type == TSTZRANGEOID)
		ex->rangetype = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);
}

/*
 * Returns the value of the window column: a range, which lives until another
 * window is asked for, or the window's start.
 */
static Datum
window_datum(SaggExecution *ex, int64 start, int64 end)
{
	RangeBound	lower = {0};
	RangeBound	upper = {0};
	MemoryContext old;

	if (ex->rangetype == NULL)
		return sagg_window_column_value(ex->query, start);
	if (ex->window != 0 && ex->window_start == start && ex->window_end == end)
		return ex->window;
	lower.val = TimestampTzGetDatum(start);
	lower.inclusive = true;
	lower.lower = true;
	upper.val = TimestampTzGetDatum(end);
	if (ex->window != 0)
		pfree(DatumGetPointer(ex->window));
	ex->window = 0;
	old = MemoryContextSwitchTo(ex->memory);
	ex->window = RangeTypePGetDatum(SAGG_MAKE_RANGE(ex->rangetype, &lower, &upper, false));
	MemoryContextSwitchTo(old);
	ex->window_start = start;
	ex->window_end = end;
	return ex->window;
}

static int64
window_end(const SaggExecution *ex, const SaggGroup *group)
{
	return SAGG_HAS_SESSIONS(ex) ? ((const SaggSessionWindow *) group)->end :
		sagg_window_end(&ex->query->window, group->start);
}

/*
 * Returns the tuplestore for a group.  Append emits a group once.  In mode
 * update it was emitted before if the store has it.
 */
static Tuplestorestate *
relation_of(const SaggExecution *ex, const SaggGroup *group)
{
	if (ex->stream->mode == SAGG_APPEND ||
		(ex->stream->mode == SAGG_UPDATE && !sagg_is_stored(group->stored)))
		return ex->fresh;
	return ex->known;
}

/*
 * Compute the final values of a group's aggregates, behind its window and keys in
 * "values" and "nulls".
 */
void
sagg_finish_group(SaggExecution *ex, const SaggGroup *group, Datum *values, bool *nulls)
{
	int			n = ex->query->groups_desc->natts - ex->query->naggs;

	if (ex->groupcontext)
		sagg_input_state_set_group(ex, values, nulls, n);
	for (int i = 0; i < ex->query->naggs; i++, n++)
		values[n] = sagg_state_final(ex, i, &group->states[i], &nulls[n]);
}

/*
 * Make the row of a group, in the current context, up to its keys.
 */
static inline void
make_row(SaggExecution *ex, const SaggGroup *group, Datum **values, bool **nulls)
{
	int			natts = ex->query->groups_desc->natts;
	int			n = 0;

	*values = palloc(sizeof(Datum) * natts);
	*nulls = palloc0(sizeof(bool) * natts);
	if (ex->query->window.kind != SAGG_WINDOW_NONE)
		(*values)[n++] = window_datum(ex, group->start, window_end(ex, group));
	for (int i = 0; i < ex->query->nkeys; i++, n++)
	{
		(*values)[n] = group->keys[i];
		(*nulls)[n] = group->keynulls[i];
	}
}

/*
 * Emit a group, with the final values of its aggregates.  Leaves garbage in
 * tmpcontext, which the caller resets.
 */
void
sagg_emit_group(SaggExecution *ex, const SaggGroup *group)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	TupleDesc	desc = ex->query->groups_desc;
	Datum	   *values;
	bool	   *nulls;

	CHECK_FOR_INTERRUPTS();
	make_row(ex, group, &values, &nulls);
	if (likely(!ex->careful))
		sagg_finish_group(ex, group, values, nulls);
	if (likely(!ex->careful) || sagg_try_finish_group(ex, group, values, nulls))
		tuplestore_putvalues(relation_of(ex, group), desc, values, nulls);
	MemoryContextSwitchTo(old);
}

/*
 * Note that a group of a careful execution has failed before it could be emitted.
 * "error" is not in tmpcontext, in which this leaves garbage.
 */
void
sagg_emit_failed(SaggExecution *ex, const SaggGroup *group, ErrorData *error)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	Datum	   *values;
	bool	   *nulls;

	make_row(ex, group, &values, &nulls);
	sagg_final_failed(ex, values, nulls, error);
	MemoryContextSwitchTo(old);
}

/*
 * Add the former row of a group, by its former window and the keys of "group",
 * to those that have to leave the sink.  Leaves garbage in tmpcontext, which
 * the caller resets.
 */
void
sagg_emit_replaced(SaggExecution *ex, const SaggGroup *group, int64 start, int64 end)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	TupleDesc	desc = ex->query->groups_desc;
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	memset(nulls, true, sizeof(bool) * desc->natts);
	values[0] = window_datum(ex, start, end);
	nulls[0] = false;
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		values[i + 1] = group->keys[i];
		nulls[i + 1] = group->keynulls[i];
	}
	tuplestore_putvalues(ex->replaced, desc, values, nulls);
	MemoryContextSwitchTo(old);
}

static QueryEnvironment *
groups_environment(SaggExecution *ex, Tuplestorestate *groups)
{
	QueryEnvironment *env = create_queryEnv();
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));

	enr->md.name = SAGG_ENR_GROUPS;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = ex->query->groups_desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = tuplestore_tuple_count(groups);
	enr->reldata = groups;
	register_ENR(env, enr);
	return env;
}

/*
 * Run a query over emitted groups, planned for about as many as there are, and add
 * its rows to "result".  Leaves garbage in the current context.
 */
static void
run_over_groups(SaggExecution *ex, SaggPlanKind kind, const Query *query,
				Tuplestorestate *groups, Tuplestorestate *result)
{
	int64		rows = tuplestore_tuple_count(groups);
	DestReceiver *dest;
	QueryDesc  *desc;

	if (rows == 0)
		return;
	dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(dest, result, GetMemoryChunkContext(result),
									true, NULL, NULL);
	desc = CreateQueryDesc(sagg_planned(ex, kind, query, rows), ex->stream->name,
						   GetActiveSnapshot(), InvalidSnapshot, dest, NULL,
						   groups_environment(ex, groups), 0);
	ExecutorStart(desc, 0);
	SAGG_EXECUTOR_RUN(desc, ForwardScanDirection, 0);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	dest->rDestroy(dest);
}

/*
 * Compute the rows of groups in mode append, in the current context.
 */
void
sagg_output_of_groups(SaggExecution *ex, Tuplestorestate *groups, SaggOutput *output)
{
	output->fresh = tuplestore_begin_heap(true, false, rows_memory_kb());
	output->known = tuplestore_begin_heap(true, false, rows_memory_kb());
	output->removed = NULL;
	output->replaces = DT_NOEND;
	run_over_groups(ex, SAGG_PLAN_OUTER, ex->query->outer, groups, output->fresh);
}

/*
 * Compute the output of the batch, in the current context: rows for the sink,
 * and the identities of emitted groups that do not pass HAVING, or that were
 * replaced.  Called once.
 */
void
sagg_execution_output(SaggExecution *ex, SaggOutput *output)
{
	const SaggQuery *query = ex->query;

	output->known = tuplestore_begin_heap(true, false, rows_memory_kb());
	output->removed = NULL;
	output->replaces = DT_NOEND;
	if (query->kind != SAGG_AGGREGATION)
	{
		output->fresh = ex->fresh;
		ex->fresh = NULL;
		return;
	}
	output->fresh = tuplestore_begin_heap(true, false, rows_memory_kb());
	run_over_groups(ex, SAGG_PLAN_OUTER, query->outer, ex->fresh, output->fresh);
	run_over_groups(ex, SAGG_PLAN_OUTER, query->outer, ex->known, output->known);
	if (ex->stream->mode == SAGG_UPDATE && (query->removed || query->replaced))
		output->removed = tuplestore_begin_heap(true, false, rows_memory_kb());
	if (ex->stream->mode == SAGG_UPDATE && query->removed)
	{
		run_over_groups(ex, SAGG_PLAN_REMOVED, query->removed, ex->fresh, output->removed);
		run_over_groups(ex, SAGG_PLAN_REMOVED, query->removed, ex->known, output->removed);
	}
	if (ex->stream->mode == SAGG_UPDATE && query->replaced)
		run_over_groups(ex, SAGG_PLAN_REPLACED, query->replaced, ex->replaced, output->removed);
}

/*
 * Free the output.
 */
void
sagg_execution_output_end(SaggOutput *output)
{
	tuplestore_end(output->fresh);
	tuplestore_end(output->known);
	if (output->removed)
		tuplestore_end(output->removed);
}
