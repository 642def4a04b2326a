/*-------------------------------------------------------------------------
 *
 * sink_fill.c
 *	  Fills new columns of a sink, in the rows that exist.
 *
 * It runs one UPDATE for each combination of NULLs in the identities.  Missing
 * rows are not added: only a micro-batch adds rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "write_internal.h"

/*
 * Returns the statement for the rows of one null pattern.
 */
static char *
fill_statement(const SinkBatch *batch, List *columns, const Bitmapset *nulls)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "UPDATE %s%s s SET ",
					 batch->rel->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "",
					 batch->name);
	foreach(lc, columns)
	{
		const char *name = sagg_sink_column(batch->desc, lfirst_int(lc));

		appendStringInfo(&buf, "%s%s = r.%s", lc == list_head(columns) ? "" : ", ", name, name);
	}
	appendStringInfo(&buf, " FROM %s r WHERE ", SAGG_ENR_OUTPUT);
	sagg_sink_append_identity(&buf, batch, nulls);
	return buf.data;
}

static int64
fill_rows(SinkBatch *batch, List *columns, Tuplestorestate *rows)
{
	EphemeralNamedRelationData enr;
	int64		filled = 0;
	ListCell   *lc;

	sagg_enr_register(&enr, SAGG_ENR_OUTPUT, batch->desc, rows,
					  (double) tuplestore_tuple_count(rows));
	foreach(lc, sagg_sink_null_patterns(rows, batch->desc, batch->query->identity,
										batch->query->nidentity))
	{
		char	   *text = fill_statement(batch, columns, lfirst(lc));
		int			ret = SPI_execute(text, false, 0);

		if (ret != SPI_OK_UPDATE)
			elog(ERROR, "could not execute \"%s\": %s", text, SPI_result_code_string(ret));
		filled += (int64) SPI_processed;
	}
	sagg_enr_unregister(SAGG_ENR_OUTPUT);
	return filled;
}

/*
 * Put the values of "columns", numbers of query->output_desc, of the output's
 * rows into the rows of the sink with equal identities; returns how many rows
 * that were.  For a stream whose rows have an identity, or which has only one
 * row.  Runs as the current user, as sagg_sink_write does; keeps ROW EXCLUSIVE
 * on the sink.
 */
int64
sagg_sink_fill(const SaggStream *stream, const SaggQuery *query,
			   const SaggOutput *output, List *columns)
{
	SaggSink	sink = {.stream = stream->name, .relid = stream->sink, .mode = stream->mode,
	.kind = &sagg_table_sink};
	SinkBatch	batch = {.sink = &sink, .query = query, .desc = query->output_desc};
	int64		filled;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	sagg_sink_batch_open(&batch, false);
	filled = fill_rows(&batch, columns, output->fresh) +
		fill_rows(&batch, columns, output->known);
	relation_close(batch.rel, NoLock);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	return filled;
}
