/*-------------------------------------------------------------------------
 *
 * fdw_scan.c
 *	  Scans of a source.
 *
 * In a worker, while a batch is attached, scans of its sources read the batch:
 * every scan reads all records of its topics, in a fixed order and with fixed
 * numbers, so that a query may scan it more than once; scans of several
 * streams share what they decode (shared_scan.c).  Any other scan reads the
 * topic as of its start, with a consumer of its own.  EXPLAIN without ANALYZE
 * contacts nobody.
 *
 * A query may call functions that open cursors over its sources, and these may
 * still be open when the batch, or the repair that restricts what they read,
 * is over.  Then fetching the next row raises an error.
 *
 * A record that cannot be decoded is an error (I5), and the error's context
 * names it; in a batch with rejections it is rejected and gives no row, however
 * often it is scanned.  Other queries follow the source's option on_error, and decode
 * nothing of records that conditions on metadata exclude, or if no column needs it;
 * conditions are checked again by the executor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "tcop/pquery.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "scan_internal.h"
#include "read/format/schema_registry.h"

/*
 * Sets the record of the attached batch that a scan has last returned, for
 * messages.  Returns false if there is none, or if it is being decoded, when
 * errors name it already.
 */
bool
sagg_scan_last_record(SaggPlace *place)
{
	*place = sagg_batch_context.last;
	return (sagg_batch_context.batch != NULL || sagg_batch_context.last_elsewhere) &&
		place->partition >= 0;
}

/*
 * An error context callback for running a query over an attached batch: an
 * error is usually one of the record read last.  "arg" is not used.
 */
void
sagg_scan_error_context(void *arg)
{
	SaggPlace	place;

	if (sagg_scan_last_record(&place))
		errcontext("last record read: topic \"%s\", partition %d, offset " INT64_FORMAT,
				   sagg_topic_name(place.topic), place.partition, place.offset);
}

static bool
is_attached(Oid source)
{
	return sagg_batch_context.batch != NULL &&
		list_member_oid(sagg_batch_context.sources, source);
}

/*
 * Returns whether a scan of "source" would read an attached batch, and the
 * number of its records in "records".
 */
bool
sagg_scan_attached(Oid source, int64 *records)
{
	if (!is_attached(source))
		return false;
	*records = sagg_batch_records(sagg_batch_context.batch);
	return true;
}

/*
 * Set up a scan outside of micro-batches and repairs.
 */
static void
prepare_query(SaggSourceScan *state, Relation rel, SaggLayout *layout)
{
	SaggLayout *all = sagg_source_layout(rel, NULL);
	bool		error = false;

	state->on_error = layout->scan_errors;
	for (int i = 0; i < layout->natts; i++)
		error = error || layout->fields[i].kind == SAGG_FIELD_ERROR;
	state->decodes = layout->ignore_others || state->on_error == SAGG_SCAN_SKIP;
	for (int i = 0; i < layout->natts; i++)
	{
		/* the reason why a record does not decode covers all of its columns */
		if (error && state->on_error == SAGG_SCAN_NULL && all->fields[i].kind == SAGG_FIELD_PAYLOAD)
			layout->fields[i] = all->fields[i];
		state->decodes = state->decodes || layout->fields[i].kind == SAGG_FIELD_PAYLOAD;
	}
	state->ignores_tombstones = layout->tombstones == SAGG_TOMBSTONES_IGNORE;
}

/*
 * Determine which columns are read, and from where; "early" are the conditions
 * that are tested before decoding.
 */
static void
prepare_columns(SaggSourceScan *state, Relation rel, List *attributes, ForeignScan *plan, Oid user)
{
	Bitmapset  *early = NULL;
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *used = bms_make_singleton(0);	/* not NULL, which means all */
	SaggLayout *layout;
	ListCell   *lc;

	foreach(lc, attributes)
	{
		if (lfirst_int(lc) > 0)
			used = bms_add_member(used, lfirst_int(lc));
	}
	layout = sagg_source_layout(rel, used);
	state->decodes = true;
	if (state->attachment == 0 && state->restriction == NULL)
		prepare_query(state, rel, layout);
	if (state->attachment != 0)
		state->watch = sagg_null_watch(rel, layout, used);
	pull_varattnos((Node *) plan->fdw_recheck_quals, plan->scan.scanrelid, &early);
	layout->registry = sagg_source_registry(state->source, user);
	if (layout->registry && sagg_batch_context.batch == NULL)
		sagg_registry_tidy(layout->registry);
	state->decoder = sagg_decoder_make(desc, layout, desc->natts);
	/* the portal of a cursor may hold values for longer than these live */
	if (state->attachment != 0 && ActivePortal == NULL)
		state->shared = sagg_shared_scan_begin(rel, layout, used, state->decoder);
	state->metadata = palloc(sizeof(SaggMetadataColumn) * Max(desc->natts, 1));
	state->error = -1;
	for (int i = 0; i < desc->natts; i++)
	{
		SaggFieldKind kind = layout->fields[i].kind;
		SaggMetadataColumn *column = &state->metadata[state->nmetadata];

		if (kind == SAGG_FIELD_ERROR)
			state->error = i;
		if (kind == SAGG_FIELD_UNUSED || kind == SAGG_FIELD_PAYLOAD || kind == SAGG_FIELD_ERROR)
			continue;
		sagg_metadata_column_init(column, i, kind, TupleDescAttr(desc, i)->atttypid);
		column->early = bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, early);
		state->nmetadata++;
		if (kind == SAGG_FIELD_HEADERS)
			state->want_headers = true;
		if (kind != SAGG_FIELD_TOPIC && kind != SAGG_FIELD_PARTITION &&
			kind != SAGG_FIELD_OFFSET)
			state->want_record = true;
	}
}

/*
 * BeginForeignScan.
 */
void
sagg_begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	Relation	rel = node->ss.ss_currentRelation;
	Oid			user = SAGG_SCAN_USER(node);
	MemoryContext old;
	SaggSourceScan *state;

	node->fdw_state = NULL;
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	old = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
	state = palloc0(sizeof(SaggSourceScan));
	state->source = RelationGetRelid(rel);
	if (is_attached(state->source))
		state->attachment = sagg_batch_context.attachment;
	else
		state->restriction = sagg_scan_restriction(state->source, &state->restriction_number);
	prepare_columns(state, rel, list_nth(plan->fdw_private, SAGG_SCAN_ATTRIBUTES), plan,
					OidIsValid(user) ? user : GetUserId());
	state->bounds = list_nth(plan->fdw_private, SAGG_SCAN_BOUNDS);
	state->expressions = ExecInitExprList(plan->fdw_exprs, (PlanState *) node);
	if (state->attachment != 0)
	{
		state->cursor = sagg_batch_open(sagg_batch_context.batch, state->want_headers);
		state->rejections = sagg_batch_context.rejections;
		state->base = sagg_record_id(sagg_batch_context.reading, 0);
		if (list_length(sagg_batch_context.sources) > 1)
			state->topics = sagg_source_topics(state->source);
		state->topic = -1;
	}
	node->fdw_state = state;
	MemoryContextSwitchTo(old);
}

static void
start(ForeignScanState *node, SaggSourceScan *state)
{
	SaggScanLimits limits;

	state->started = true;
	state->next = 0;
	state->empty = false;
	if (state->cursor)
	{
		sagg_batch_rewind(state->cursor);
		state->loaded = 0;
		return;
	}
	limits.restriction = state->restriction;
	limits.lenient = state->restriction ? state->restriction->lenient :
		state->on_error != SAGG_SCAN_FAIL;
	if (!sagg_scan_limits(state->bounds, state->expressions, node->ss.ps.ps_ExprContext,
						  &limits))
	{
		state->empty = true;
		return;
	}
	if (state->reader == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
		Oid			user = SAGG_SCAN_USER(node);

		state->reader = sagg_scan_reader_open(state->source,
											  OidIsValid(user) ? user : GetUserId(),
											  state->want_headers);
		MemoryContextSwitchTo(old);
	}
	sagg_scan_reader_start(state->reader, &limits);
}

/*
 * Read the next record: its position and, unless its row may be shared, all of
 * it.
 */
static bool
next_record(SaggSourceScan *state)
{
	if (state->empty)
		return false;
	if (state->cursor == NULL)
		return sagg_scan_reader_next(state->reader, &state->record);
	return (state->shared && sagg_shared_seek(state->shared, state->next, &state->record)) ||
		sagg_scan_load_record(state);
}

/*
 * Returns whether the current record is of a topic of the source, and not of
 * another source of the same batch.
 */
static bool
of_this_source(SaggSourceScan *state)
{
	if (state->record.topic != state->topic)
	{
		state->topic = state->record.topic;
		state->topic_is_ours = sagg_topics_include(state->topics,
												   sagg_topic_name(state->topic));
	}
	return state->topic_is_ours;
}

/*
 * Read the next record that is neither left out nor rejected into the slot's
 * values; returns false behind the last.
 */
static bool
next_good_record(ForeignScanState *node, SaggSourceScan *state, TupleTableSlot *slot)
{
	while (next_record(state))
	{
		sagg_batch_context.last.partition = -1;
		if (state->cursor)
			sagg_mark_record(&state->record);
		if (state->topics && !of_this_source(state))
		{
			state->next++;
			continue;
		}
		if (sagg_scan_take_record(node, state, slot))
			return true;
		state->next++;

		/*
		 * free what is left of the former row; the executor has put nothing
		 * there yet
		 */
		ResetExprContext(node->ss.ps.ps_ExprContext);
		CHECK_FOR_INTERRUPTS();
	}
	if (state->cursor)
		sagg_mark_no_record();
	return false;
}

/*
 * Returns whether the batch that the scan has begun to read, or its
 * restriction, is over.  Their memory may have been freed then.
 */
static inline bool
is_orphaned(const SaggSourceScan *state)
{
	if (state->attachment != 0)
		return state->attachment != sagg_batch_context.attachment;
	return state->restriction && !sagg_restriction_stands(state->restriction_number);
}

static void
raise_orphaned(const SaggSourceScan *state)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_CURSOR_STATE),
			 state->attachment != 0 ?
			 errmsg("cursor over source \"%s\" reads a micro-batch that is over",
					get_rel_name(state->source)) :
			 errmsg("cursor over source \"%s\" reads what was read for a repair that is over",
					get_rel_name(state->source)),
			 errdetail("It was opened by a function that the query of a stream calls, and has not been closed."),
			 errhint("Close cursors over sources in the function that opens them.")));
}

/*
 * IterateForeignScan.  The executor calls it in its per-tuple context, where
 * the row's values live until the next call.
 */
TupleTableSlot *
sagg_iterate_scan(ForeignScanState *node)
{
	SaggSourceScan *state = (SaggSourceScan *) node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	if (unlikely(is_orphaned(state)))
		raise_orphaned(state);
	if (!state->started)
		start(node, state);
	ExecClearTuple(slot);
	if (!next_good_record(node, state, slot))
		return slot;

	if (unlikely(state->watch != NULL) &&
		!sagg_null_watch_row(state->watch, state, slot->tts_isnull))
		state->watch = NULL;
	ExecStoreVirtualTuple(slot);
	if (state->cursor)
	{
		sagg_batch_context.last.topic = state->record.topic;
		sagg_batch_context.last.partition = state->record.partition;
		sagg_batch_context.last.offset = state->record.offset;
	}
	SAGG_TID_SET(&slot->tts_tid, state->base + state->next);
	slot->tts_tableOid = state->source;
	state->next++;
	return slot;
}

/*
 * ReScanForeignScan: from the first record, with the conditions' new values.
 */
void
sagg_rescan(ForeignScanState *node)
{
	SaggSourceScan *state = (SaggSourceScan *) node->fdw_state;

	if (state)
		state->started = false;
}

/*
 * EndForeignScan.  After an error the memory context does the same.
 */
void
sagg_end_scan(ForeignScanState *node)
{
	SaggSourceScan *state = (SaggSourceScan *) node->fdw_state;

	if (state == NULL)
		return;
	if (state->cursor)
		sagg_batch_end(state->cursor);
	if (state->reader)
		sagg_scan_reader_close(state->reader);
	if (state->shared && !is_orphaned(state))
		sagg_shared_scan_end(state->shared);
	sagg_decoder_free(state->decoder);
	node->fdw_state = NULL;
}
