/*-------------------------------------------------------------------------
 *
 * sink_put.c
 *	  Inserts and updates rows in the sink.
 *
 * Without knowledge of the sink, every row would need an upsert.  But the
 * state store knows which groups it meets for the first time and which it has
 * written before, and for both there is a cheaper statement:
 *
 *		fresh	INSERT INTO sink (...) SELECT ... FROM batch_output
 *		known	UPDATE sink s SET ... FROM batch_output r WHERE s.key = r.key
 *		either	INSERT ... ON CONFLICT (identity) DO UPDATE
 *
 * Rows are sorted by the index that identifies them (sink_sort.c).  Fresh ones go
 * in by several if the sink takes them so (sink_multi_insert.c).
 * What fails then is undone and left to the statement.
 *
 * That is a guess, since anybody may change the sink: a row may be there
 * unexpectedly, or be missing.  Then the upsert is used, for this batch and
 * for all later ones of the session.
 *
 * A query without GROUP BY has a single row, without an identity: it is updated,
 * or inserted where there is none.
 *
 * The statements are planned once and kept over transactions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "write_internal.h"

/*
 * The plans are cached, so they are made for later batches as well, not for
 * the number of rows of the first one.
 */
#define LEAST_ESTIMATE		1000

/*
 * Fewer rows are inserted by the statement, which needs no subtransaction.  Fault
 * tests, which have few, have them inserted by several.
 */
#ifdef SAGG_FAILPOINTS
#define LEAST_SEVERAL		1
#else
#define LEAST_SEVERAL		10
#endif

/*
 * Append "a = prefix.a, ..." for the columns that do not belong to the
 * identity; returns their number.
 */
static int
append_assignments(StringInfo buf, const SinkBatch *batch, const char *prefix)
{
	int			n = 0;

	for (int attno = 1; attno <= batch->desc->natts; attno++)
	{
		const char *name = sagg_sink_column(batch->desc, attno);

		if (!sagg_is_identity(batch->query, attno))
			appendStringInfo(buf, "%s%s = %s.%s", n++ > 0 ? ", " : "",
							 name, prefix, name);
	}
	return n;
}

static void
append_insert(StringInfo buf, const SinkBatch *batch)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int attno = 1; attno <= batch->desc->natts; attno++)
		appendStringInfo(&columns, "%s%s", attno > 1 ? ", " : "",
						 sagg_sink_column(batch->desc, attno));
	appendStringInfo(buf, "INSERT INTO %s (%s) SELECT %s FROM %s",
					 batch->name, columns.data, columns.data, SAGG_ENR_OUTPUT);
}

static char *
insert_statement(const SinkBatch *batch)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_insert(&buf, batch);
	return buf.data;
}

/*
 * Returns the upsert.  Sets *counts to false when a row that exists already is
 * not touched, because it has only its identity.  A row that was not written by
 * this stream may begin with its window and end at another time.
 */
static char *
upsert_statement(const SinkBatch *batch, bool *counts)
{
	StringInfoData buf;
	StringInfoData assignments;

	initStringInfo(&buf);
	append_insert(&buf, batch);
	appendStringInfo(&buf, " ON CONFLICT (%s) DO ", sagg_sink_conflict_list(batch));
	initStringInfo(&assignments);
	*counts = append_assignments(&assignments, batch, "EXCLUDED") > 0;
	if (batch->identity.window != SINK_WINDOW_ITSELF)
	{
		const char *window = sagg_sink_column(batch->query->output_desc, batch->query->window_output);

		appendStringInfo(&assignments, "%s%s = EXCLUDED.%s", *counts ? ", " : "", window, window);
		*counts = true;
	}
	if (*counts)
		appendStringInfo(&buf, "UPDATE SET %s", assignments.data);
	else
		appendStringInfoString(&buf, "NOTHING");
	return buf.data;
}

static char *
update_statement(const SinkBatch *batch)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "UPDATE %s%s s SET ",
					 batch->rel->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "",
					 batch->name);
	append_assignments(&buf, batch, "r");
	appendStringInfo(&buf, " FROM %s r", SAGG_ENR_OUTPUT);
	if (batch->query->nidentity > 0)
		appendStringInfoString(&buf, " WHERE ");
	for (int i = 0; i < batch->query->nidentity; i++)
	{
		if (i > 0)
			appendStringInfoString(&buf, " AND ");
		sagg_sink_append_match(&buf, batch, i);
	}
	return buf.data;
}

/*
 * Run a statement over the rows; returns how many it processed.  After a
 * caught ERROR, the rows are still registered.
 */
static int64
run(SinkBatch *batch, SinkStatement statement, const char *text,
	Tuplestorestate *rows, int expected)
{
	EphemeralNamedRelation enr = palloc(sizeof(EphemeralNamedRelationData));
	int64		processed;
	int			ret;

	sagg_enr_register(enr, SAGG_ENR_OUTPUT, batch->desc, rows,
					  Max((double) tuplestore_tuple_count(rows), LEAST_ESTIMATE));
	ret = SPI_execute_plan(sagg_sink_plan(batch->sink, statement, text, batch->desc),
						   NULL, NULL, false, 0);
	if (ret != expected)
		elog(ERROR, "could not execute \"%s\": %s",
			 text, SPI_result_code_string(ret));
	processed = (int64) SPI_processed;
	sagg_enr_unregister(SAGG_ENR_OUTPUT);
	return processed;
}

/*
 * INSERT rows, and return their number.
 */
static int64
insert(SinkBatch *batch, Tuplestorestate *rows)
{
	return run(batch, SINK_INSERT, insert_statement(batch), rows, SPI_OK_INSERT);
}

/*
 * The same with several rows at once.  Returns -1 if the statement has to do it.
 */
static int64
insert_several(SinkBatch *batch, Tuplestorestate *rows)
{
	EphemeralNamedRelation enr = palloc(sizeof(EphemeralNamedRelationData));
	char	   *text = insert_statement(batch);
	int64		processed;

	sagg_enr_register(enr, SAGG_ENR_OUTPUT, batch->desc, rows,
					  Max((double) tuplestore_tuple_count(rows), LEAST_ESTIMATE));
	processed = sagg_sink_multi_insert(batch, sagg_sink_plan(batch->sink, SINK_INSERT, text,
															 batch->desc), text, enr);
	sagg_enr_unregister(SAGG_ENR_OUTPUT);
	return processed;
}

/*
 * Put rows into the sink about which nothing is known; returns their number.
 */
static int64
upsert(SinkBatch *batch, Tuplestorestate *rows)
{
	bool		counts;
	char	   *text = upsert_statement(batch, &counts);
	int64		processed = run(batch, SINK_UPSERT, text, rows, SPI_OK_INSERT);

	return counts ? processed : tuplestore_tuple_count(rows);
}

/* A way to insert rows, that may fail. */
typedef struct Attempt
{
	SinkBatch  *batch;
	Tuplestorestate *rows;
	int64		(*function) (SinkBatch *batch, Tuplestorestate *rows);
	int64		processed;
} Attempt;

static void
run_attempt(void *arg)
{
	Attempt    *attempt = arg;

	attempt->processed = attempt->function(attempt->batch, attempt->rows);
}

/*
 * Insert in a subtransaction.  Returns the error, and then nothing has happened.
 */
static ErrorData *
try_insert(SinkBatch *batch, Tuplestorestate *rows,
		   int64 (*function) (SinkBatch *batch, Tuplestorestate *rows), int64 *processed)
{
	Attempt		attempt = {.batch = batch, .rows = rows, .function = function};
	ErrorData  *error = sagg_try(run_attempt, &attempt);

	*processed = attempt.processed;
	return error;
}

/*
 * Forget an error of try_insert, after which the rows are still registered.
 */
static void
forget_error(ErrorData *error)
{
	FreeErrorData(error);
	sagg_enr_unregister(SAGG_ENR_OUTPUT);
}

/*
 * Insert several rows at once if the sink takes them so; returns their number,
 * or -1 if the statement has to do it. *sqlstate is the error of the data that
 * has prevented it, or 0.
 */
static int64
try_several(SinkBatch *batch, Tuplestorestate *rows, int *sqlstate)
{
	int64		processed;
	ErrorData  *error;

	*sqlstate = 0;
	if (tuplestore_tuple_count(rows) < LEAST_SEVERAL || !sagg_sink_takes_several(batch))
		return -1;
	error = try_insert(batch, rows, insert_several, &processed);
	if (error == NULL)
		return processed;
	if (!sagg_error_of_data(error) && !sagg_error_of_partition(error) && !batch->sink->one_by_one)
		ReThrowError(error);
	*sqlstate = error->sqlerrcode;
	forget_error(error);
	return -1;
}

/*
 * Insert rows into a sink where an error is the batch's; returns their number.
 */
static int64
append(SinkBatch *batch, Tuplestorestate *rows)
{
	int			sqlstate;
	int64		processed = try_several(batch, rows, &sqlstate);

	return processed >= 0 ? processed : insert(batch, rows);
}

/*
 * Returns whether the rows may be written by several statements.  Not where
 * that is visible: triggers would fire for each, policies can differ between
 * commands, and a missing privilege that only an upsert needs would be noticed
 * too late.
 */
static bool
may_split(const SinkBatch *batch)
{
	const AclMode both = ACL_INSERT | ACL_UPDATE;

	return !batch->sink->surprised && batch->rel->trigdesc == NULL &&
		!batch->rel->rd_rel->relrowsecurity &&
		pg_class_aclmask(RelationGetRelid(batch->rel), GetUserId(), both,
						 ACLMASK_ALL) == both;
}

/*
 * Put rows into the sink that are expected to be new; returns their number.
 */
static int64
put_fresh(SinkBatch *batch, Tuplestorestate *rows)
{
	int			sqlstate;
	int64		processed = try_several(batch, rows, &sqlstate);

	if (processed >= 0)
		return processed;
	if (sqlstate != ERRCODE_UNIQUE_VIOLATION)
	{
		ErrorData  *error = try_insert(batch, rows, insert, &processed);

		if (error == NULL)
			return processed;
		if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
			ReThrowError(error);
		forget_error(error);
	}
	batch->sink->surprised = true;
	return upsert(batch, rows);
}

/*
 * UPDATE, row by row through an index, whatever the planner knows about the
 * sink.
 */
static int64
update(SinkBatch *batch, Tuplestorestate *rows)
{
	static const char *const other_ways[] = {
		"enable_bitmapscan", "enable_hashjoin", "enable_material",
		"enable_mergejoin", "enable_seqscan"
	};
	int			nest = NewGUCNestLevel();
	int64		processed;

	for (int i = 0; i < lengthof(other_ways); i++)
		(void) set_config_option(other_ways[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	processed = run(batch, SINK_UPDATE, update_statement(batch), rows, SPI_OK_UPDATE);
	AtEOXact_GUC(true, nest);
	return processed;
}

/*
 * Put rows into the sink that exist there, unless somebody has deleted them
 * or, with HAVING, they did not pass it before; returns their number.
 */
static int64
put_known(SinkBatch *batch, Tuplestorestate *rows)
{
	const SaggQuery *query = batch->query;
	int64		count = tuplestore_tuple_count(rows);

	if (may_split(batch) && query->removed == NULL &&
		query->nidentity > 0 && query->nidentity < batch->desc->natts &&
		batch->rel->rd_rel->relkind == RELKIND_RELATION)
	{
		if (update(batch, rows) == count)
			return count;

		/* a row was deleted, or has a NULL in its identity */
		batch->sink->surprised = true;
	}
	return upsert(batch, rows);
}

/*
 * Put the one row of a query without GROUP BY into the sink.
 */
static int64
put_single(SinkBatch *batch, Tuplestorestate *rows)
{
	int64		processed = run(batch, SINK_UPDATE, update_statement(batch), rows,
								SPI_OK_UPDATE);

	if (processed > 1)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("sink %s has more than one row", batch->name),
				 errdetail("The query has no GROUP BY, so its result is one row."),
				 errhint("Delete the other rows and start the stream.")));
	if (processed == 0)
		processed = insert(batch, rows);
	return processed;
}

/*
 * Append the rows of a tuplestore to another one.
 */
static void
append_rows(const SinkBatch *batch, Tuplestorestate *from, Tuplestorestate *to)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);

	tuplestore_rescan(from);
	while (tuplestore_gettupleslot(from, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		tuplestore_puttupleslot(to, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Put rows into the sink by "function", in the order of its index.
 */
static int64
put_sorted(SinkBatch *batch, Tuplestorestate *rows,
		   int64 (*function) (SinkBatch *batch, Tuplestorestate *rows))
{
	Tuplestorestate *sorted = sagg_sink_sort(batch, rows);
	int64		processed = function(batch, sorted);

	if (sorted != rows)
		tuplestore_end(sorted);
	return processed;
}

/*
 * Put rows into a table: see sagg_sink_put.
 */
static int64
put_into_table(SinkBatch *batch, Tuplestorestate *fresh, Tuplestorestate *known)
{
	int64		processed = 0;

	if (tuplestore_tuple_count(fresh) > 0)
	{
		if (may_split(batch))
			processed += put_sorted(batch, fresh, put_fresh);
		else
			append_rows(batch, fresh, known);
	}
	if (tuplestore_tuple_count(known) > 0)
		processed += put_sorted(batch, known, put_known);
	return processed;
}

/*
 * Put rows of batch->desc into the sink: "fresh" ones, which it should not
 * have, and "known" ones, which it should have.  Returns their number.
 * Connected to SPI; leaves "known" changed.
 */
int64
sagg_sink_put(SinkBatch *batch, Tuplestorestate *fresh, Tuplestorestate *known)
{
	int64		processed = 0;

	SAGG_FAILPOINT("write.statement_before");
	if (batch->sink->mode == SAGG_APPEND)
		processed = put_sorted(batch, fresh, append);
	else if ((batch->sink->kind->flags & SAGG_SINK_TAKES_CHANGES) == 0)
	{
		/* one statement, which waits only once, for all of its rows */
		append_rows(batch, fresh, known);
		processed = insert(batch, known);
	}
	else if (batch->query->single_row)
	{
		append_rows(batch, fresh, known);
		processed = put_single(batch, known);
	}
	else
		processed = put_into_table(batch, fresh, known);
	SAGG_FAILPOINT("write.statement_after");
	return processed;
}
