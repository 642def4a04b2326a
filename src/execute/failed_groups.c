/*-------------------------------------------------------------------------
 *
 * failed_groups.c
 *	  Sets apart the groups of closing windows that fail, so that the other
 *	  groups are emitted.
 *
 * Output mode append emits a group when its window closes.  If an aggregate's
 * final function, the combination of a sliding window's panes, an expression of
 * the select list or the sink fails for a
 * group - a division by zero, a number that is too large - no record of the
 * batch is to blame, and the batch would fail for ever.  A careful execution
 * calls final functions in subtransactions, and emits groups in parts, as its
 * caller asks.  A group that fails is described by window and keys, for
 * stream_agg.failed_windows; its state is removed with its window, as that of
 * any other.
 *
 * An error leaves the execution as the failed call had it: its fields are set
 * back, and what the call has used is given up, because what it referred to went
 * with the subtransaction.
 *
 * Only data errors are handled.  A batch that has not failed yet must never
 * run this way: it is slow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "execute_internal.h"

/* bytes that are kept of a key's text */
#define MAX_KEY_BYTES	500

/*
 * Returns whether a group may be to blame for an error.  A unique violation is
 * not its fault: the stream was restarted while its rows stayed in the sink.
 */
bool
sagg_error_of_group(const ErrorData *error)
{
	return sagg_error_of_data(error) &&
		error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION;
}

/*
 * From now on a group that fails is set apart, and does not raise an error.
 * "in_row" groups have failed in a row before.  Called before
 * sagg_execution_close.
 */
void
sagg_execution_carefully(SaggExecution *ex, int in_row)
{
	ex->careful = true;
	ex->part_pointer = -1;
	ex->finals_in_row = in_row;
	ex->failed_in_row = in_row;
}

/*
 * Returns the number of groups that have failed since one was emitted.
 */
int
sagg_execution_failed_in_row(const SaggExecution *ex)
{
	return ex->failed_in_row;
}

/*
 * Returns the groups that have failed, SaggFailedGroups, in memory of the
 * execution.
 */
const List *
sagg_execution_failed(const SaggExecution *ex)
{
	return ex->failed;
}

/* The row of a group, as far as it was computed. */
typedef struct GroupRow
{
	SaggExecution *ex;
	const Datum *values;
	const bool *nulls;
	Datum		keys;			/* result */
} GroupRow;

/*
 * Describe the keys as an array of texts.  Output functions may be users' code,
 * and fail.
 */
static void
describe_keys(void *arg)
{
	GroupRow   *row = arg;
	TupleDesc	desc = row->ex->query->groups_desc;
	int			first = row->ex->query->window.kind != SAGG_WINDOW_NONE;
	int			n = row->ex->query->nkeys;
	Datum	   *texts = palloc(sizeof(Datum) * Max(n, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(n, 1));
	int			lbs = 1;

	for (int i = 0; i < n; i++)
	{
		Oid			output;
		bool		varlena;
		char	   *text;

		nulls[i] = row->nulls[first + i];
		if (nulls[i])
			continue;
		getTypeOutputInfo(TupleDescAttr(desc, first + i)->atttypid, &output, &varlena);
		text = OidOutputFunctionCall(output, row->values[first + i]);
		texts[i] = PointerGetDatum(cstring_to_text_with_len(text, pg_mbcliplen(text, strlen(text), MAX_KEY_BYTES)));
		pfree(text);
	}
	row->keys = PointerGetDatum(construct_md_array(texts, nulls, 1, &n, &lbs, TEXTOID, -1,
												   false, TYPALIGN_INT));
}

/*
 * Describe the window of a group's row; DT_NOBEGIN if it has none.
 */
static void
describe_window(const SaggExecution *ex, Datum window, SaggFailedGroup *failed)
{
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;

	failed->start = failed->end = DT_NOBEGIN;
	if (ex->query->window.kind == SAGG_WINDOW_NONE)
		return;
	if (ex->rangetype == NULL)
	{
		failed->start = sagg_window_column_time(ex->query, window);
		failed->end = sagg_window_end(&ex->query->window, failed->start);
		return;
	}
	range_deserialize(ex->rangetype, DatumGetRangeTypeP(window), &lower, &upper, &empty);
	failed->start = DatumGetTimestampTz(lower.val);
	failed->end = DatumGetTimestampTz(upper.val);
}

/*
 * Describe the keys of a group's row; the result is in memory of the execution.
 * A text may be of megabytes until it is cut: it lives no longer than this.
 */
static void
keep_keys(GroupRow *row, SaggFailedGroup *failed)
{
	MemoryContext texts = AllocSetContextCreate(CurrentMemoryContext, "stream_agg texts of keys",
												ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(texts);

	failed->no_keys = sagg_try(describe_keys, row) != NULL;
	MemoryContextSwitchTo(old);
	if (!failed->no_keys)
		failed->keys = datumCopy(row->keys, false, -1);
	MemoryContextDelete(texts);
}

/*
 * Raises an error if failed_windows would not take one more group: CHECKPOINT
 * counts those of earlier micro-batches as well.
 */
static void
check_number(const SaggExecution *ex)
{
	if (list_length(ex->failed) >= sagg_max_dead_letters)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEAD_LETTERS),
				 errmsg("the stream would have more than %d failed windows",
						sagg_max_dead_letters),
				 errhint("Perhaps the query or the sink is wrong, and not the groups. Fix it, or raise stream_agg.max_dead_letters, and start the stream again.")));
}

/*
 * Note that a group has failed, whose row is in "values" and "nulls" up to its
 * keys.  Too many in a row, or in all, are an error.
 */
static void
note_failed(SaggExecution *ex, const Datum *values, const bool *nulls, ErrorData *error,
			int *in_row)
{
	GroupRow	row = {.ex = ex, .values = values, .nulls = nulls};
	SaggFailedGroup *failed;
	MemoryContext old;

	if (++*in_row > sagg_max_poison_in_row)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_POISON),
				 errmsg("more than %d groups in a row have failed when their windows closed",
						sagg_max_poison_in_row),
				 errdetail("The last one: %s", error->message),
				 errhint("Perhaps the query or the sink is wrong, and not the groups. Fix it, or raise stream_agg.max_poison_in_row, and start the stream again.")));
	check_number(ex);
	old = MemoryContextSwitchTo(ex->memory);
	failed = palloc0(sizeof(SaggFailedGroup));
	describe_window(ex, values[0], failed);
	keep_keys(&row, failed);
	failed->sqlstate = error->sqlerrcode;
	failed->message = sagg_error_text(error->message);
	failed->detail = error->detail ? sagg_error_text(error->detail) : NULL;
	ex->failed = lappend(ex->failed, failed);
	MemoryContextSwitchTo(old);
}

/* Computes the final values of a group. */
typedef struct Finish
{
	SaggExecution *ex;
	const SaggGroup *group;
	Datum	   *values;
	bool	   *nulls;
} Finish;

static void
call_finish(void *arg)
{
	Finish	   *finish = arg;

	sagg_finish_group(finish->ex, finish->group, finish->values, finish->nulls);
}

/*
 * Give up a context in which a call has failed, and make it anew.  Callbacks that
 * the call has registered there are not called, as after any error: the files of a
 * sort, for example, are closed already.
 */
void
sagg_renew_context(SaggExecution *ex, ExprContext **context)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	if (*context)
	{
		FreeExprContext(*context, false);
		*context = CreateStandaloneExprContext();
	}
	MemoryContextSwitchTo(old);
}

/*
 * Give up what a failed call has left where kept inputs are given to aggregates.  An
 * ordered-set aggregate has a slot in fn_extra, perhaps with a tuple.
 */
static void
renew_replay(SaggExecution *ex)
{
	sagg_renew_context(ex, &ex->replaycontext);
	sagg_renew_context(ex, &ex->inputcontext);
	for (int i = 0; i < ex->query->naggs; i++)
	{
		if (ex->aggs[i].input_state)
			ex->aggs[i].transfn.fn_extra = NULL;
	}
}

/*
 * Does sagg_try for a call that computes with aggregates.  After an error the
 * execution is as it was before.
 */
ErrorData *
sagg_try_aggregates(SaggExecution *ex, void (*function) (void *arg), void *arg)
{
	ExprContext *aggcontext = ex->aggcontext;
	ExprContext *tmpcontext = ex->tmpcontext;
	ExprContext *curaggcontext = ex->aggstate->curaggcontext;
	ErrorData  *error = sagg_try(function, arg);

	if (error)
	{
		ex->aggcontext = aggcontext;
		ex->tmpcontext = ex->aggstate->tmpcontext = tmpcontext;
		ex->aggstate->curaggcontext = curaggcontext;
		renew_replay(ex);
	}
	return error;
}

/*
 * The final values of a group cannot be computed, because of "error": notes the
 * group, or raises the error if it is not the fault of a group.
 */
void
sagg_final_failed(SaggExecution *ex, const Datum *values, const bool *nulls, ErrorData *error)
{
	if (!sagg_error_of_group(error))
		ReThrowError(error);
	note_failed(ex, values, nulls, error, &ex->finals_in_row);
	ex->failed_in_row++;
}

/*
 * Calls sagg_finish_group, which may fail: returns false then, and the group
 * has been noted.
 */
bool
sagg_try_finish_group(SaggExecution *ex, const SaggGroup *group, Datum *values, bool *nulls)
{
	Finish		finish = {ex, group, values, nulls};
	ErrorData  *error = sagg_try_aggregates(ex, call_finish, &finish);

	if (error)
		sagg_final_failed(ex, values, nulls, error);
	else
		ex->finals_in_row = 0;
	return error == NULL;
}

/*
 * Returns the number of groups that a careful execution has to emit.
 */
int64
sagg_execution_groups(const SaggExecution *ex)
{
	return tuplestore_tuple_count(ex->fresh);
}

/*
 * Go to group number "first".  Parts are read again or follow each other, and both
 * places have a read pointer: to skip all that is before a part would read it, once
 * it is in a temporary file.
 */
static void
seek_group(SaggExecution *ex, int64 first)
{
	if (ex->part_pointer < 0 || (first != ex->part_first && first != ex->part_end))
	{
		tuplestore_rescan(ex->fresh);
		(void) tuplestore_skiptuples(ex->fresh, first, true);
		if (ex->part_pointer < 0)
			ex->part_pointer = tuplestore_alloc_read_pointer(ex->fresh, EXEC_FLAG_BACKWARD | EXEC_FLAG_REWIND);
		tuplestore_copy_read_pointer(ex->fresh, 0, ex->part_pointer);
	}
	else if (first == ex->part_first)
		tuplestore_copy_read_pointer(ex->fresh, ex->part_pointer, 0);
	else
		tuplestore_copy_read_pointer(ex->fresh, 0, ex->part_pointer);
	ex->part_first = ex->part_end = first;
}

/*
 * Put the groups from "first" up to, not including, "end" into a tuplestore.
 */
static Tuplestorestate *
part_of(SaggExecution *ex, int64 first, int64 end)
{
	Tuplestorestate *part = tuplestore_begin_heap(true, false, work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(ex->query->groups_desc, &TTSOpsMinimalTuple);

	seek_group(ex, first);
	for (; ex->part_end < end && tuplestore_gettupleslot(ex->fresh, true, false, slot); ex->part_end++)
		tuplestore_puttupleslot(part, slot);
	ExecDropSingleTupleTableSlot(slot);
	return part;
}

/*
 * Does sagg_execution_output for the groups from "first" up to, not including,
 * "end".  May be called repeatedly, and in a subtransaction.
 */
void
sagg_execution_output_part(SaggExecution *ex, int64 first, int64 end, SaggOutput *output)
{
	Tuplestorestate *part = part_of(ex, first, end);

	sagg_output_of_groups(ex, part, output);
	tuplestore_end(part);
}

/*
 * Groups have been written: the next failure is the first in a row.
 */
void
sagg_execution_groups_written(SaggExecution *ex)
{
	ex->failed_in_row = 0;
}

/*
 * The group with this number is not emitted, because of "error".
 */
void
sagg_execution_group_failed(SaggExecution *ex, int64 number, ErrorData *error)
{
	Tuplestorestate *part = part_of(ex, number, number + 1);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(ex->query->groups_desc, &TTSOpsMinimalTuple);

	if (!tuplestore_gettupleslot(part, true, false, slot))
		elog(ERROR, "the batch has no group " INT64_FORMAT, number);
	slot_getallattrs(slot);
	note_failed(ex, slot->tts_values, slot->tts_isnull, error, &ex->failed_in_row);
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(part);
}
