/*-------------------------------------------------------------------------
 *
 * sink_complete.c
 *	  Mode complete: determines the changes that make the sink equal to the
 *	  result.
 *
 * One statement compares the whole sink with the whole result and yields only
 * the differences: rows of the result that the sink lacks, rows that differ in
 * the sink, and identities that are in the sink and not in the result.
 * sink_put.c puts these into the sink as it does in mode update, so rows that
 * are correct already are neither written nor locked.
 *
 * The comparison is a full join on a hash of the identity.  It can only be
 * planned as a hash join, whatever the planner estimates for the two sides: it
 * matches NULLs in keys, and no plan of it is quadratic.
 *
 * Rows are compared by their images, which every type has (json, point and xml
 * have no equality); for that the result is first converted to the types of
 * the sink's columns, as the INSERT would do it.
 *
 * This file writes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "write_internal.h"

/* columns of the comparison: these, those of the result, the sink's identity */
enum
{
	COLUMN_IN_RESULT,			/* true, or NULL */
	COLUMN_IN_SINK,				/* true, or NULL */
	COLUMN_SAME_IDENTITY,		/* equal byte by byte; equal values may differ
								 * in their bytes */
	COLUMNS_FIXED
};

typedef struct DifferenceReceiver
{
	DestReceiver pub;
	const SinkBatch *batch;
	TupleDesc	identity_desc;
	SaggOutput *difference;
} DifferenceReceiver;

/*
 * Returns whether the sink's column takes values of the output's without
 * conversion.
 */
static bool
same_type(Form_pg_attribute out, Form_pg_attribute att)
{
	return out->atttypid == att->atttypid &&
		(att->atttypmod == -1 || att->atttypmod == out->atttypmod);
}

/*
 * Returns the row type of the sink's columns that the output goes to, in the
 * output's order.  Sets "same" to whether the output can be read as that type.
 */
static TupleDesc
sink_columns_desc(const SinkBatch *batch, bool *same)
{
	TupleDesc	output = batch->query->output_desc;
	TupleDesc	rel = RelationGetDescr(batch->rel);
	TupleDesc	desc = CreateTemplateTupleDesc(output->natts);

	*same = true;
	for (int i = 0; i < output->natts; i++)
	{
		TupleDescCopyEntry(desc, i + 1, rel, batch->columns[i]);
		if (!same_type(TupleDescAttr(output, i), TupleDescAttr(desc, i)))
			*same = false;
	}
	return desc;
}

/*
 * Returns the assignment of each output column to its column of the sink.
 */
static ExprState **
assignments(TupleDesc output, TupleDesc desc, EState *estate)
{
	ExprState **states = palloc(sizeof(ExprState *) * desc->natts);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute out = TupleDescAttr(output, i);
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Node	   *expr = (Node *) makeVar(1, i + 1, out->atttypid, out->atttypmod,
											out->attcollation, 0);

		expr = coerce_to_target_type(NULL, expr, out->atttypid,
									 att->atttypid, att->atttypmod,
									 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
		if (expr == NULL)
			elog(ERROR, "cannot assign to column \"%s\"", NameStr(att->attname));
		assign_expr_collations(NULL, expr);
		states[i] = ExecPrepareExpr((Expr *) expr, estate);
	}
	return states;
}

/*
 * Returns the output as rows of the sink's column types, in a tuplestore of
 * its own.
 */
static Tuplestorestate *
convert_output(TupleDesc output_desc, TupleDesc desc, Tuplestorestate *output)
{
	Tuplestorestate *result = tuplestore_begin_heap(true, false, work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(output_desc, &TTSOpsMinimalTuple);
	EState	   *estate = CreateExecutorState();
	ExprContext *econtext = GetPerTupleExprContext(estate);
	ExprState **states = assignments(output_desc, desc, estate);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	tuplestore_rescan(output);
	while (tuplestore_gettupleslot(output, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		econtext->ecxt_scantuple = slot;
		for (int i = 0; i < desc->natts; i++)
			values[i] = ExecEvalExprSwitchContext(states[i], econtext, &nulls[i]);
		tuplestore_putvalues(result, desc, values, nulls);
		ResetExprContext(econtext);
	}
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	return result;
}

/*
 * Append ROW(...) of one side's identity, or of all of its columns.
 */
static char *
row_of(const SinkBatch *batch, char side, bool identity)
{
	const SaggQuery *query = batch->query;
	int			n = identity ? query->nidentity : batch->desc->natts;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "ROW(");
	for (int i = 0; i < n; i++)
		appendStringInfo(&buf, "%s%c.c%d", i > 0 ? ", " : "", side,
						 identity ? query->identity[i] : i + 1);
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

/*
 * Append one side of the join, its columns named present, c1, c2, ...
 */
static void
append_side(StringInfo buf, const SinkBatch *batch, char side,
			const char *only, const char *relation)
{
	appendStringInfoString(buf, "(SELECT true");
	for (int i = 0; i < batch->desc->natts; i++)
		appendStringInfo(buf, ", %s",
						 quote_identifier(NameStr(TupleDescAttr(batch->desc, i)->attname)));
	appendStringInfo(buf, " FROM %s%s) %c(present", only, relation, side);
	for (int i = 0; i < batch->desc->natts; i++)
		appendStringInfo(buf, ", c%d", i + 1);
	appendStringInfoChar(buf, ')');
}

/*
 * Append the condition that two identities are equal; NULLs are equal.
 */
static void
append_same_identity(StringInfo buf, const SinkBatch *batch)
{
	const SaggQuery *query = batch->query;

	for (int i = 0; i < query->nidentity; i++)
	{
		AttrNumber	attno = query->identity[i];

		appendStringInfoString(buf, " AND (");
		sagg_sink_append_equality(buf, TupleDescAttr(batch->desc, attno - 1),
								  psprintf("o.c%d", attno), psprintf("s.c%d", attno));
		appendStringInfo(buf, " OR " SINK_BOTH_NULL("o.c%d", "s.c%d") ")", attno, attno);
	}
}

/*
 * Returns the statement that compares result and sink.
 */
static char *
difference_statement(const SinkBatch *batch)
{
	const SaggQuery *query = batch->query;
	bool		partitioned =
	batch->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	char	   *wanted = row_of(batch, 'o', true);
	char	   *found = row_of(batch, 's', true);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT o.present, s.present, pg_catalog.record_image_eq(%s, %s)",
					 wanted, found);
	for (int i = 0; i < batch->desc->natts; i++)
		appendStringInfo(&buf, ", o.c%d", i + 1);
	for (int i = 0; i < query->nidentity; i++)
		appendStringInfo(&buf, ", s.c%d", query->identity[i]);
	appendStringInfoString(&buf, " FROM ");
	append_side(&buf, batch, 'o', "", SAGG_ENR_OUTPUT);
	appendStringInfoString(&buf, " FULL JOIN ");
	append_side(&buf, batch, 's', partitioned ? "" : "ONLY ", batch->name);
	appendStringInfo(&buf,
					 " ON pg_catalog.hash_record_extended(%s, 0) OPERATOR(pg_catalog.=)"
					 " pg_catalog.hash_record_extended(%s, 0)", wanted, found);
	append_same_identity(&buf, batch);
	appendStringInfo(&buf,
					 " WHERE o.present IS NULL OR s.present IS NULL"
					 " OR pg_catalog.record_image_ne(%s, %s)",
					 row_of(batch, 'o', false), row_of(batch, 's', false));
	return buf.data;
}

/*
 * Handle a difference.  A row whose identity is equal but has other bytes (1.0
 * and 1.00) is deleted and inserted again: an upsert would keep it.
 */
static bool
receive_difference(TupleTableSlot *slot, DestReceiver *self)
{
	DifferenceReceiver *receiver = (DifferenceReceiver *) self;
	TupleDesc	desc = receiver->batch->desc;
	SaggOutput *difference = receiver->difference;
	bool		in_result;
	bool		in_sink;
	bool		same;

	slot_getallattrs(slot);
	in_result = !slot->tts_isnull[COLUMN_IN_RESULT];
	in_sink = !slot->tts_isnull[COLUMN_IN_SINK];
	same = in_result && in_sink && DatumGetBool(slot->tts_values[COLUMN_SAME_IDENTITY]);
	if (in_result)
		tuplestore_putvalues(same ? difference->known : difference->fresh, desc,
							 slot->tts_values + COLUMNS_FIXED,
							 slot->tts_isnull + COLUMNS_FIXED);
	if (in_sink && !same)
		tuplestore_putvalues(difference->removed, receiver->identity_desc,
							 slot->tts_values + COLUMNS_FIXED + desc->natts,
							 slot->tts_isnull + COLUMNS_FIXED + desc->natts);
	return true;
}

/*
 * Run the comparison, planned for as many rows as there are.
 */
static void
compare(SinkBatch *batch, Tuplestorestate *rows, DifferenceReceiver *receiver)
{
	EphemeralNamedRelationData enr;
	SPIExecuteOptions options = {.dest = &receiver->pub};
	char	   *text = difference_statement(batch);
	int			ret;

	/* with DestNone it would not be a SELECT */
	sagg_receiver_init(&receiver->pub, DestTuplestore, receive_difference);

	sagg_enr_register(&enr, SAGG_ENR_OUTPUT, batch->desc, rows,
					  (double) tuplestore_tuple_count(rows));
	ret = SPI_execute_extended(text, &options);
	if (ret != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\": %s",
			 text, SPI_result_code_string(ret));
	sagg_enr_unregister(SAGG_ENR_OUTPUT);
}

/*
 * Compare the sink with "result", the whole result, as rows of the query's
 * output_desc.  Returns in *difference the rows that must be put into the
 * sink, and the identities that must be deleted from it before that;
 * batch->desc becomes the row type of these.  The caller ends all of them
 * while it is connected to SPI, as it is now.  Raises what assigning a value
 * to a column of the sink raises.
 */
void
sagg_sink_difference(SinkBatch *batch, Tuplestorestate *result, SaggOutput *difference)
{
	DifferenceReceiver receiver = {.batch = batch, .difference = difference};
	Tuplestorestate *rows = result;
	bool		same;

	batch->desc = sink_columns_desc(batch, &same);
	if (!same)
		rows = convert_output(batch->query->output_desc, batch->desc, result);
	receiver.identity_desc = sagg_sink_identity_desc(batch);
	difference->fresh = tuplestore_begin_heap(true, false, work_mem);
	difference->known = tuplestore_begin_heap(true, false, work_mem);
	difference->removed = tuplestore_begin_heap(true, false, work_mem);
	compare(batch, rows, &receiver);
	if (rows != result)
		tuplestore_end(rows);
}
