/*-------------------------------------------------------------------------
 *
 * sink_multi_insert.c
 *	  Inserts rows into a sink a few pages at a time, as COPY does.
 *
 * The rows are made by the plan of the INSERT statement, without the node that
 * would insert them: so defaults, conversions, order and the check of privileges
 * are the statement's.  Constraints are checked, and entries of indexes made, by
 * the functions of the executor that the statement uses.
 *
 * The statement does more where there are triggers, policies, or functions that
 * could look at the table meanwhile: such a sink is left to it.  This file
 * decides nothing else: whatever it raises, the caller undoes and leaves to the
 * statement, too, so that errors are the statement's and name the row that it
 * names.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "write_internal.h"

/* what is collected before it is inserted, as COPY has it */
#define MAX_ROWS		1000
#define MAX_BYTES		65535

/* tables that keep their slots when all rows have been inserted */
#define MAX_BUFFERS		32

/* rows for one table */
typedef struct RowBuffer
{
	ResultRelInfo *rri;
	int			n;
	TupleTableSlot *slots[MAX_ROWS];	/* made as they are needed */
} RowBuffer;

typedef struct MultiInsert
{
	DestReceiver pub;
	EState	   *estate;			/* of the plan */
	ResultRelInfo *target;		/* the sink */
	ModifyTableState *modify;	/* for the routing */
	PartitionTupleRouting *routing; /* NULL unless the sink is partitioned */
	TupleTableSlot *root_slot;	/* a row of the sink, to be routed */
	CommandId	cid;
	List	   *buffers;
	int			rows;			/* that are in buffers */
	Size		bytes;
	int64		inserted;
	bool	   *refused;		/* set where a partition is left to the
								 * statement */
} MultiInsert;

/*
 * Returns whether a CHECK constraint of the table could look at it.
 */
static bool
has_volatile_checks(Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr && i < constr->num_check; i++)
	{
		if (contain_volatile_functions(stringToNode(constr->check[i].ccbin)))
			return true;
	}
	return false;
}

/*
 * Returns whether a table of the sink takes rows by several.
 */
static bool
takes_several(Relation rel)
{
	return rel->trigdesc == NULL && rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_rel->relam == HEAP_TABLE_AM_OID && !has_volatile_checks(rel);
}

/*
 * Returns whether rows may be inserted into the sink by sagg_sink_multi_insert,
 * as far as that is known before the statement has been planned.
 */
bool
sagg_sink_takes_several(const SinkBatch *batch)
{
	Relation	rel = batch->rel;

	return !batch->sink->one_by_one && !rel->rd_rel->relrowsecurity &&
		(rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		 rel->trigdesc == NULL && !has_volatile_checks(rel) : takes_several(rel));
}

static RowBuffer *
buffer_of(MultiInsert *insert, ResultRelInfo *rri)
{
	RowBuffer  *buffer = (RowBuffer *) rri->ri_CopyMultiInsertBuffer;
	MemoryContext old;

	if (buffer)
		return buffer;
	if (rri != insert->target && !takes_several(rri->ri_RelationDesc))
	{
		*insert->refused = true;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg_internal("partition \"%s\" takes rows one by one",
								 RelationGetRelationName(rri->ri_RelationDesc))));
	}
	old = MemoryContextSwitchTo(insert->estate->es_query_cxt);
	buffer = palloc0(sizeof(RowBuffer));
	buffer->rri = rri;
	insert->buffers = lappend(insert->buffers, buffer);
	MemoryContextSwitchTo(old);
	/* a field for COPY, which has its own executor state */
	rri->ri_CopyMultiInsertBuffer = (struct CopyMultiInsertBuffer *) buffer;
	return buffer;
}

static TupleTableSlot *
next_slot(MultiInsert *insert, RowBuffer *buffer)
{
	TupleTableSlot **slot = &buffer->slots[buffer->n];

	if (*slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(insert->estate->es_query_cxt);

		*slot = table_slot_create(buffer->rri->ri_RelationDesc, NULL);
		MemoryContextSwitchTo(old);
	}
	return *slot;
}

static void
free_buffer(RowBuffer *buffer)
{
	for (int i = 0; i < MAX_ROWS && buffer->slots[i]; i++)
		ExecDropSingleTupleTableSlot(buffer->slots[i]);
	buffer->rri->ri_CopyMultiInsertBuffer = NULL;
	pfree(buffer);
}

static void
flush_buffer(MultiInsert *insert, RowBuffer *buffer)
{
	ResultRelInfo *rri = buffer->rri;
	MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(insert->estate));

	CHECK_FOR_INTERRUPTS();
	/* pages stay in the cache: the next batch may update their rows */
	table_multi_insert(rri->ri_RelationDesc, buffer->slots, buffer->n, insert->cid, 0, NULL);
	MemoryContextSwitchTo(old);
	SAGG_FAILPOINT("write.several");
	for (int i = 0; i < buffer->n; i++)
	{
		if (rri->ri_NumIndices > 0)
			(void) SAGG_INSERT_INDEX_TUPLES(rri, buffer->slots[i], insert->estate);
		ExecClearTuple(buffer->slots[i]);
	}
	buffer->n = 0;
}

static void
flush(MultiInsert *insert)
{
	ListCell   *lc;

	foreach(lc, insert->buffers)
	{
		RowBuffer  *buffer = lfirst(lc);

		if (buffer->n > 0)
			flush_buffer(insert, buffer);
	}
	insert->inserted += insert->rows;
	insert->rows = 0;
	insert->bytes = 0;
	if (list_length(insert->buffers) <= MAX_BUFFERS)
		return;
	foreach(lc, insert->buffers)
		free_buffer(lfirst(lc));
	list_free(insert->buffers);
	insert->buffers = NIL;
}

/*
 * Let a slot show the values of another one, as long as that has them.
 */
static void
show_values(TupleTableSlot *slot, TupleTableSlot *from)
{
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, from->tts_values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, from->tts_isnull, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
}

/*
 * Compute what is generated, check the constraints, and copy the row into the
 * slot's own memory.
 */
static void
finish_row(MultiInsert *insert, ResultRelInfo *rri, TupleTableSlot *slot)
{
	Relation	rel = rri->ri_RelationDesc;
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	slot->tts_tableOid = RelationGetRelid(rel);
	if (constr && constr->has_generated_stored)
		ExecComputeStoredGenerated(rri, insert->estate, slot, CMD_INSERT);
	if (constr)
		ExecConstraints(rri, slot, insert->estate);
	if (rel->rd_rel->relispartition && insert->routing == NULL)
		ExecPartitionCheck(rri, slot, insert->estate, true);
	ExecMaterializeSlot(slot);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	MultiInsert *insert = (MultiInsert *) self;
	ResultRelInfo *rri = insert->target;
	TupleConversionMap *map = NULL;
	RowBuffer  *buffer;
	TupleTableSlot *row;

	slot_getallattrs(slot);
	if (insert->routing)
	{
		show_values(insert->root_slot, slot);
		rri = ExecFindPartition(insert->modify, insert->target, insert->routing,
								insert->root_slot, insert->estate);
		map = SAGG_ROOT_TO_PARTITION_MAP(rri, insert->estate);
	}
	buffer = buffer_of(insert, rri);
	row = next_slot(insert, buffer);
	if (map)
		row = execute_attr_map_slot(map->attrMap, insert->root_slot, row);
	else
		show_values(row, slot);
	finish_row(insert, rri, row);
	buffer->n++;
	insert->rows++;
	insert->bytes += ExecFetchSlotHeapTuple(row, false, NULL)->t_len;
	if (insert->rows >= MAX_ROWS || insert->bytes >= MAX_BYTES)
		flush(insert);
	return true;
}

/*
 * Open the sink, entry "rti" of the plan's range table, for inserting.
 */
static void
open_target(MultiInsert *insert, EState *estate, Index rti)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	Relation	rel;

	insert->estate = estate;
	insert->target = makeNode(ResultRelInfo);
	ExecInitResultRelation(estate, insert->target, rti);
	ExecOpenIndices(insert->target, false);
	rel = insert->target->ri_RelationDesc;
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		insert->modify = makeNode(ModifyTableState);
		insert->modify->ps.state = estate;
		insert->modify->operation = CMD_INSERT;
		insert->modify->mt_nrels = 1;
		insert->modify->resultRelInfo = insert->target;
		insert->modify->rootResultRelInfo = insert->target;
		insert->routing = ExecSetupPartitionTupleRouting(estate, rel);
		insert->root_slot = table_slot_create(rel, &estate->es_tupleTable);
	}
	MemoryContextSwitchTo(old);
}

static void
close_target(MultiInsert *insert)
{
	ListCell   *lc;

	flush(insert);
	foreach(lc, insert->buffers)
		free_buffer(lfirst(lc));
	if (insert->routing)
		ExecCleanupTupleRouting(insert->modify, insert->routing);
}

/*
 * Returns the node that inserts, if the plan is of an INSERT that does nothing
 * else; otherwise NULL.
 */
static ModifyTable *
plain_insert(const CachedPlan *plan, Oid sink)
{
	PlannedStmt *stmt = linitial_node(PlannedStmt, plan->stmt_list);
	ModifyTable *modify = (ModifyTable *) stmt->planTree;

	if (list_length(plan->stmt_list) != 1 || stmt->commandType != CMD_INSERT ||
		stmt->hasModifyingCTE || !IsA(modify, ModifyTable) ||
		modify->withCheckOptionLists != NIL || modify->returningLists != NIL ||
		modify->onConflictAction != ONCONFLICT_NONE || list_length(modify->resultRelations) != 1 ||
		rt_fetch(linitial_int(modify->resultRelations), stmt->rtable)->relid != sink)
		return NULL;
	return modify;
}

/*
 * Returns whether a function of the statement, such as a default, could look at
 * the table.
 */
static bool
has_volatile_functions(SPIPlanPtr plan)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));

	return contain_volatile_functions_not_nextval((Node *) source->query_list);
}

static void
run_plan(MultiInsert *insert, const PlannedStmt *stmt, const ModifyTable *modify,
		 const char *text, EphemeralNamedRelation rows)
{
	QueryEnvironment *environment = create_queryEnv();
	PlannedStmt *select = makeNode(PlannedStmt);
	QueryDesc  *desc;

	*select = *stmt;
	select->commandType = CMD_SELECT;
	select->resultRelations = NIL;
	select->planTree = outerPlan(modify);
	register_ENR(environment, rows);
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	insert->cid = GetCurrentCommandId(true);
	desc = CreateQueryDesc(select, text, GetActiveSnapshot(), InvalidSnapshot,
						   &insert->pub, NULL, environment, 0);
	ExecutorStart(desc, EXEC_FLAG_SKIP_TRIGGERS);
	open_target(insert, desc->estate, linitial_int(modify->resultRelations));
	SAGG_EXECUTOR_RUN(desc, ForwardScanDirection, 0);
	close_target(insert);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * Insert the rows of an INSERT statement, whose kept plan and text are given
 * and which reads "rows".  Returns their number, or -1 if nothing has been done
 * because the statement has to do it.  For sinks of sagg_sink_takes_several, in
 * a subtransaction: may have inserted some when it raises an error, and has
 * set sink->one_by_one then if it is of no use to try it again.
 */
int64
sagg_sink_multi_insert(SinkBatch *batch, SPIPlanPtr plan, const char *text,
					   EphemeralNamedRelation rows)
{
	MultiInsert insert = {.refused = &batch->sink->one_by_one};
	CachedPlan *cached;
	ModifyTable *modify;

	if (list_length(SPI_plan_get_plan_sources(plan)) != 1)
		return -1;
	sagg_receiver_init(&insert.pub, DestNone, receive_row);
	cached = SPI_plan_get_cached_plan(plan);
	/* after that, which analyses the statement again if the table has changed */
	modify = has_volatile_functions(plan) ? NULL :
		plain_insert(cached, RelationGetRelid(batch->rel));
	if (modify)
		run_plan(&insert, linitial_node(PlannedStmt, cached->stmt_list), modify, text, rows);
	ReleaseCachedPlan(cached, CurrentResourceOwner);
	return modify ? insert.inserted : -1;
}
