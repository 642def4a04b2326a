/*-------------------------------------------------------------------------
 *
 * fdw_insert.c
 *	  INSERT and COPY into a source: every row becomes a record of its topic,
 *	  or of one of its topics that a column names.
 *
 * The statement ends when Kafka has acknowledged all of them, or with an
 * error.  Records are not part of the transaction: ROLLBACK, or an error
 * behind them, does not take them back, and other readers see them before
 * COMMIT.  EXPLAIN, and statements without rows, contact nobody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "insert_internal.h"

typedef struct SourceInsert
{
	Oid			source;
	Oid			user;			/* user whose mapping and privileges count */
	int64		rows;
	MemoryContext memory;		/* memory of the statement */
	MemoryContext row_memory;
	SaggTopics *topics;
	SaggEncoder *encoder;
	const SaggSourceProducer *kind; /* functions to write to the source */
	SaggProducer *producer;		/* NULL until the first row */
	SaggDelivery *delivery;		/* delivery that the rows belong to, if they
								 * are a stream's */
	bool		borrowed;		/* the producer is the delivery's */
} SourceInsert;

/*
 * PlanForeignModify.  There is nothing to plan; rejects what the server allows
 * and the kind of the source cannot do.
 */
List *
sagg_plan_modify(PlannerInfo *root, ModifyTable *plan, Index result_relation,
				 int subplan_index)
{
	Oid			source = planner_rt_fetch(result_relation, root)->relid;

	if (plan->operation == CMD_INSERT)
		(void) sagg_source_producer(source);
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("INSERT with ON CONFLICT is not supported for source \"%s\"",
						get_rel_name(source)),
				 errdetail("Records of a topic do not conflict with each other.")));
	return NIL;
}

static void
begin(ModifyTableState *mtstate, ResultRelInfo *rri)
{
	EState	   *estate = mtstate->ps.state;
	Oid			user = SAGG_MODIFY_USER(rri, estate);
	MemoryContext old;
	SourceInsert *state;

	old = MemoryContextSwitchTo(estate->es_query_cxt);
	state = palloc0(sizeof(SourceInsert));
	state->memory = estate->es_query_cxt;
	state->row_memory = AllocSetContextCreate(state->memory, "stream_agg record",
											  ALLOCSET_DEFAULT_SIZES);
	state->source = RelationGetRelid(rri->ri_RelationDesc);
	state->user = OidIsValid(user) ? user : GetUserId();
	state->kind = sagg_source_producer(state->source);
	state->topics = sagg_source_topics(state->source);
	state->encoder = sagg_encoder_make(rri->ri_RelationDesc);
	if (state->topics->one == NULL && !sagg_encoder_has_topic(state->encoder))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into source \"%s\", which has several topics",
						RelationGetRelationName(rri->ri_RelationDesc)),
				 errdetail("No column says into which of them."),
				 errhint("Insert into a source of one topic, or give this one a column of type text with OPTIONS (metadata 'topic').")));
	state->delivery = sagg_delivery_of(state->source);
	rri->ri_FdwState = state;
	MemoryContextSwitchTo(old);
}

/*
 * BeginForeignModify
 */
void
sagg_begin_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
				  List *fdw_private, int subplan_index, int eflags)
{
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		begin(mtstate, rri);
}

/*
 * BeginForeignInsert: COPY, and partitions that rows are routed to.
 */
void
sagg_begin_insert(ModifyTableState *mtstate, ResultRelInfo *rri)
{
	ModifyTable *plan = (ModifyTable *) mtstate->ps.plan;

	if (plan && plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("INSERT with ON CONFLICT is not supported for source \"%s\"",
						RelationGetRelationName(rri->ri_RelationDesc)),
				 errdetail("Records of a topic do not conflict with each other.")));
	begin(mtstate, rri);
}

static void
row_error_context(void *arg)
{
	SourceInsert *state = (SourceInsert *) arg;

	errcontext("row " INT64_FORMAT " inserted into source \"%s\"",
			   state->rows, get_rel_name(state->source));
}

/*
 * Check the topic of a row: it must be a topic of the source, because the
 * right to insert into the source does not include other topics.
 */
static void
check_topic(SourceInsert *state, SaggOutRecord *record)
{
	if (record->topic == NULL && state->topics->one == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a row for source \"%s\" must name its topic",
						get_rel_name(state->source)),
				 errdetail("The source has several.")));
	if (record->topic && !sagg_topics_include(state->topics, record->topic))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" has no topic \"%s\"",
						get_rel_name(state->source), record->topic),
				 errdetail("It has %s.", state->topics->subject)));
	if (state->topics->one)
		record->topic = NULL;
}

static void
encode_row(SourceInsert *state, TupleTableSlot *slot, SaggOutRecord *record)
{
	ErrorContextCallback callback;

	callback.callback = row_error_context;
	callback.arg = state;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	sagg_encoder_encode(state->encoder, slot, record);
	check_topic(state, record);
	if (state->delivery)
		sagg_delivery_mark(state->delivery, slot, record);
	error_context_stack = callback.previous;
}

/*
 * Get a producer for the statement: that of the delivery if it is free, else one of
 * its own.
 */
static void
get_producer(SourceInsert *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->memory);

	if (state->delivery)
		state->producer = sagg_delivery_producer(state->delivery, state->user, state->memory);
	state->borrowed = state->producer != NULL;
	if (state->producer == NULL)
		state->producer = state->kind->open(state->source, state->user);
	MemoryContextSwitchTo(old);
}

/*
 * ExecForeignInsert.  Returns the slot unchanged, for RETURNING; what Kafka
 * decides about the record is not in it.
 */
TupleTableSlot *
sagg_exec_insert(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot,
				 TupleTableSlot *plan_slot)
{
	SourceInsert *state = (SourceInsert *) rri->ri_FdwState;
	SaggOutRecord record;
	MemoryContext old;

	state->rows++;
	MemoryContextReset(state->row_memory);
	old = MemoryContextSwitchTo(state->row_memory);
	encode_row(state, slot, &record);
	if (state->producer == NULL)
		get_producer(state);
	state->kind->send(state->producer, &record);
	MemoryContextSwitchTo(old);
	return slot;
}

/*
 * EndForeignModify and EndForeignInsert: wait for the acknowledgements.  After
 * an error the memory context closes the producer instead.
 */
void
sagg_end_insert(EState *estate, ResultRelInfo *rri)
{
	SourceInsert *state = (SourceInsert *) rri->ri_FdwState;

	if (state == NULL)
		return;
	rri->ri_FdwState = NULL;
	if (state->producer)
	{
		state->kind->finish(state->producer);
		if (state->borrowed)
			sagg_delivery_finished(state->delivery);
		else
			state->kind->close(state->producer);
	}
	MemoryContextDelete(state->row_memory);
}

/*
 * IsForeignRelUpdatable: records can be added and never change.
 */
int
sagg_is_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

/*
 * ExplainForeignModify
 */
void
sagg_explain_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
					List *fdw_private, int subplan_index, ExplainState *es)
{
	sagg_explain_topics(RelationGetRelid(rri->ri_RelationDesc), es);
}
