/*-------------------------------------------------------------------------
 *
 * log_statements.c
 *	  The SQL statements of CHECKPOINT, and how they are run.
 *
 * All statements on the logs are here; rows that every micro-batch writes are
 * inserted without (log_rows.c).  Statements are prepared once per checkpoint
 * object and run between sagg_log_begin and sagg_log_end: connected to SPI, as
 * the owner of the extension, with nothing but pg_catalog in search_path (I8).
 * Code of users must never run in such a section, and that includes the
 * functions of SaggStateAccess, which may call an aggregate's serialize or
 * deserialize function.
 *
 * An ERROR within a section needs no cleanup: the end of the transaction
 * restores the user and disconnects from SPI.
 *
 * Locks: those that SELECT, INSERT, UPDATE and DELETE take.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

#define MAX_ARGS	16

/*
 * In texts: a list over the table of counters, each element with a comma before it.
 * See append_counters.
 */
#define COUNTERS	"{counters}"	/* their columns, of the batch and in
									 * total */
#define UNCHANGED	"{unchanged}"	/* for these: nothing counted after the
									 * row c */
#define TOTALS		"{totals}"	/* the columns of totals */

typedef struct LogStatement
{
	int			expected;		/* SPI's result code on success */
	const char *text;
	int			nargs;
	Oid			args[MAX_ARGS];
} LogStatement;

/*
 * $1 is the stream's name everywhere.  Deletes name both ends of a range of
 * batches, so that the index scan does not walk over dead entries of earlier
 * deletes.  The condition of SAGG_LOG_REPLACE_PLAN is part of the compare-and-set
 * of I2, with log_rows.c: a batch is planned and committed only as the successor of
 * the last committed one.
 */
static const LogStatement log_statements[SAGG_LOG_STATEMENTS] = {
	[SAGG_LOG_READ_ORIGIN] = {
		SPI_OK_SELECT,
		"SELECT topic, cluster_id, initial_offsets"
		"  FROM stream_agg.sources WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_SET_ORIGIN] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.sources AS s (stream, topic, cluster_id, initial_offsets)"
		" VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (stream) DO UPDATE"
		"   SET topic = excluded.topic, cluster_id = excluded.cluster_id,"
		"       initial_offsets = excluded.initial_offsets"
		" WHERE s.cluster_id IS NULL"
		"    OR s.topic IS NOT DISTINCT FROM excluded.topic"
		"       AND s.cluster_id = excluded.cluster_id",
		4, {TEXTOID, TEXTOID, TEXTOID, JSONBOID}
	},
	[SAGG_LOG_INITIAL_WATERMARK] = {
		SPI_OK_SELECT,
		"SELECT CASE WHEN watermark IS NULL THEN timestamptz '-infinity'"
		"            ELSE to_timestamp(0) END"
		"  FROM stream_agg.streams WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_LAST_COMMIT] = {
		SPI_OK_SELECT,
		"SELECT batch, watermark, offsets, last_records,"
		"       CASE WHEN reset IS NULL THEN committed ELSE '-infinity' END,"
		"       coalesce(reset = 'results', false),"
		"       max_event_time, event_times, active_times" TOTALS
		"  FROM stream_agg.commits WHERE stream = $1"
		" ORDER BY batch DESC LIMIT 1",
		1, {TEXTOID}
	},
	[SAGG_LOG_PLANS_SINCE] = {
		SPI_OK_SELECT,
		"SELECT batch, ranges, watermark, batch_time, suspects, attempts, skipped,"
		"       quiet, behind, dealt"
		"  FROM stream_agg.offsets WHERE stream = $1 AND batch >= $2"
		" ORDER BY batch LIMIT 3",
		2, {TEXTOID, INT8OID}
	},
	[SAGG_LOG_REPLACE_PLAN] = {
		SPI_OK_UPDATE,
		"UPDATE stream_agg.offsets"
		"   SET ranges = $3, watermark = $4, batch_time = $5, suspects = $6,"
		"       attempts = $7, skipped = $8, quiet = $9, behind = $10, dealt = $11"
		" WHERE stream = $1 AND batch = $2"
		"   AND (SELECT coalesce(max(c.batch), -1)"
		"          FROM stream_agg.commits c WHERE c.stream = $1) = $2 - 1",
		11, {TEXTOID, INT8OID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		JSONBOID, INT4OID, JSONBOID, JSONBOID, JSONBOID, JSONBOID}
	},
	[SAGG_LOG_IS_EMPTY] = {
		SPI_OK_SELECT,
		"SELECT 1::int8"
		" WHERE NOT EXISTS (SELECT FROM stream_agg.offsets WHERE stream = $1)"
		"   AND NOT EXISTS (SELECT FROM stream_agg.commits WHERE stream = $1)"
		"   AND NOT EXISTS (SELECT FROM stream_agg.state WHERE stream = $1)",
		1, {TEXTOID}
	},
	[SAGG_LOG_OLDEST_BATCH] = {
		SPI_OK_SELECT,
		"SELECT least((SELECT min(batch) FROM stream_agg.offsets WHERE stream = $1),"
		"             (SELECT min(batch) FROM stream_agg.commits WHERE stream = $1))",
		1, {TEXTOID}
	},
	[SAGG_LOG_TRIM_OFFSETS] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.offsets"
		" WHERE stream = $1 AND batch >= $2 AND batch < $3",
		3, {TEXTOID, INT8OID, INT8OID}
	},
	[SAGG_LOG_TRIM_COMMITS] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.commits"
		" WHERE stream = $1 AND batch >= $2 AND batch < $3",
		3, {TEXTOID, INT8OID, INT8OID}
	},
	[SAGG_LOG_STATE_SIZES] = {
		SPI_OK_SELECT,
		"SELECT partition, unit, bytes, blobs, first, newest[1], newest[2], newest[3], newest[4]"
		"  FROM (SELECT partition, unit, sum(octet_length(data))::int8 AS bytes,"
		"               count(*) AS blobs, min(batch) AS first,"
		"               max(ARRAY[batch, entries, bytes, due]) AS newest"
		"          FROM stream_agg.state WHERE stream = $1 GROUP BY partition, unit) AS chain",
		1, {TEXTOID}
	},
	[SAGG_LOG_STATE_BLOBS] = {
		SPI_OK_SELECT,
		"SELECT state_blobs FROM stream_agg.commits"
		" WHERE stream = $1 AND batch = $2",
		2, {TEXTOID, INT8OID}
	},
	[SAGG_LOG_STATE_READ] = {
		SPI_OK_SELECT,
		"SELECT partition, unit, batch, seq, base, entries, bytes, due, data"
		"  FROM stream_agg.state WHERE stream = $1"
		" ORDER BY partition, unit, batch, seq",
		1, {TEXTOID}
	},
	[SAGG_LOG_UNIT_READ] = {
		SPI_OK_SELECT,
		"SELECT partition, unit, batch, seq, base, entries, bytes, due, data"
		"  FROM stream_agg.state WHERE stream = $1 AND partition = $2 AND unit = $3"
		" ORDER BY batch, seq",
		3, {TEXTOID, INT4OID, INT8OID}
	},
	[SAGG_LOG_STATE_INSERT] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.state"
		"       (stream, batch, partition, unit, seq, base, entries, bytes, due, data)"
		" SELECT $1, $2, unnest($3), unnest($4), unnest($5), unnest($6), unnest($7),"
		"        unnest($8), unnest($9), unnest($10)",
		10, {TEXTOID, INT8OID, INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, BOOLARRAYOID,
		INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, BYTEAARRAYOID}
	},
	[SAGG_LOG_STATE_DELETE] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.state"
		" WHERE stream = $1 AND partition = $2 AND unit = $3 AND batch >= $4 AND batch <= $5",
		5, {TEXTOID, INT4OID, INT8OID, INT8OID, INT8OID}
	},
	[SAGG_LOG_DEAD_LETTERS_COUNT] = {
		SPI_OK_SELECT,
		"SELECT count(*),"
		"       coalesce(sum(coalesce(octet_length(key), 0)::bigint"
		"                    + coalesce(octet_length(value), 0)"
		"                    + coalesce(pg_column_size(headers), 0)"
		"                    + octet_length(error)"
		"                    + coalesce(octet_length(detail), 0)), 0)::bigint"
		"  FROM stream_agg.dead_letters WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_DEAD_LETTERS_INSERT] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.dead_letters"
		"       (stream, batch, topic, partition, \"offset\", \"timestamp\","
		"        key, value, headers, error, detail, sqlstate)"
		" SELECT $1, $2, unnest($3), unnest($4), unnest($5), unnest($6),"
		"        unnest($7), unnest($8), unnest($9), unnest($10), unnest($11), unnest($12)"
		" ON CONFLICT (stream, topic, partition, \"offset\") DO UPDATE"
		"   SET batch = excluded.batch,"
		"       \"timestamp\" = excluded.\"timestamp\", key = excluded.key,"
		"       value = excluded.value, headers = excluded.headers,"
		"       error = excluded.error, detail = excluded.detail,"
		"       sqlstate = excluded.sqlstate",
		12, {
			TEXTOID, INT8OID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID,
			TIMESTAMPTZARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, JSONBARRAYOID,
		TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
	},
	[SAGG_LOG_FAILED_WINDOWS_COUNT] = {
		SPI_OK_SELECT,
		"SELECT count(*) FROM stream_agg.failed_windows WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_FAILED_WINDOWS_INSERT] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.failed_windows"
		"       (stream, batch, number, window_start, window_end, keys, error, detail, sqlstate)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
		" ON CONFLICT (stream, batch, number) DO UPDATE"
		"   SET window_start = excluded.window_start, window_end = excluded.window_end,"
		"       keys = excluded.keys, error = excluded.error, detail = excluded.detail,"
		"       sqlstate = excluded.sqlstate",
		9, {
			TEXTOID, INT8OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTARRAYOID, TEXTOID,
		TEXTOID, TEXTOID}
	},
	[SAGG_LOG_LATE_RECORDS_COUNT] = {
		SPI_OK_SELECT,
		"SELECT count(*),"
		"       coalesce(sum(coalesce(octet_length(key), 0)::bigint"
		"                    + coalesce(octet_length(value), 0)"
		"                    + coalesce(pg_column_size(headers), 0)"
		"                    + pg_column_size(windows)), 0)::bigint"
		"  FROM stream_agg.late_records WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_LATE_RECORDS_INSERT] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.late_records"
		"       (stream, batch, topic, partition, \"offset\", \"timestamp\","
		"        key, value, headers, event_time, windows)"
		" SELECT $1, $2, r.topic, r.partition, r.off, r.ts, r.key, r.value,"
		"        r.headers, r.event_time, w.windows"
		"   FROM unnest($3, $4, $5, $6, $7, $8, $9, $10) WITH ORDINALITY"
		"        AS r (topic, partition, off, ts, key, value, headers, event_time, n)"
		"   JOIN (SELECT u.n, array_agg(tstzrange(u.s, u.e) ORDER BY u.s) AS windows"
		"           FROM unnest($11, $12, $13) AS u (s, e, n) GROUP BY u.n) AS w"
		"     ON w.n = r.n"
		" ON CONFLICT (stream, topic, partition, \"offset\") DO UPDATE"
		"   SET batch = excluded.batch,"
		"       \"timestamp\" = excluded.\"timestamp\", key = excluded.key,"
		"       value = excluded.value, headers = excluded.headers,"
		"       event_time = excluded.event_time, windows = excluded.windows",
		13, {
			TEXTOID, INT8OID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID,
			TIMESTAMPTZARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, JSONBARRAYOID,
			TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
		INT8ARRAYOID}
	},
	[SAGG_LOG_LATE_WINDOWS] = {
		SPI_OK_SELECT,
		"SELECT lower(w), upper(w), count(*)"
		"  FROM stream_agg.late_records l, unnest(l.windows) AS w"
		" WHERE l.stream = $1 GROUP BY w ORDER BY w",
		1, {TEXTOID}
	},
	[SAGG_LOG_LATE_REPAIRED] = {
		SPI_OK_UPDATE,
		"UPDATE stream_agg.late_records l SET windows = k.windows"
		"  FROM (SELECT r.topic, r.partition, r.\"offset\","
		"               coalesce(array_agg(m.win ORDER BY m.win)"
		"                        FILTER (WHERE d.win IS NULL), '{}') AS windows"
		"          FROM stream_agg.late_records r"
		"         CROSS JOIN unnest(r.windows) AS m (win)"
		"          LEFT JOIN (SELECT tstzrange(s, e) AS win"
		"                       FROM unnest($2, $3) AS u (s, e)) AS d ON d.win = m.win"
		"         WHERE r.stream = $1 GROUP BY 1, 2, 3"
		"        HAVING count(d.win) > 0) AS k"
		" WHERE l.stream = $1 AND l.topic = k.topic AND l.partition = k.partition"
		"   AND l.\"offset\" = k.\"offset\"",
		3, {TEXTOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID}
	},
	[SAGG_LOG_LATE_FORGET] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.late_records WHERE stream = $1 AND windows = '{}'",
		1, {TEXTOID}
	},
	[SAGG_LOG_COMMITS] = {
		SPI_OK_SELECT,
		"SELECT c.offsets, c.max_event_time FROM stream_agg.commits c"
		" WHERE c.stream = $1"
		"   AND c.batch > (SELECT coalesce(max(r.batch), -1) FROM stream_agg.commits r"
		"                   WHERE r.stream = $1 AND r.reset IS NOT NULL)"
		" ORDER BY c.batch",
		1, {TEXTOID}
	},
	[SAGG_LOG_DEAD_OFFSETS] = {
		SPI_OK_SELECT,
		"SELECT topic, partition, \"offset\""
		"  FROM stream_agg.dead_letters WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_RESET_LATE_RECORDS] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.late_records WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_RESET_ORIGIN] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.sources (stream) VALUES ($1)"
		" ON CONFLICT (stream) DO UPDATE"
		"   SET topic = NULL, cluster_id = NULL, initial_offsets = NULL",
		1, {TEXTOID}
	},
	[SAGG_LOG_RESET_PLANS] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.offsets WHERE stream = $1 AND batch > $2",
		2, {TEXTOID, INT8OID}
	},
	[SAGG_LOG_RESET_STATE] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.state WHERE stream = $1",
		1, {TEXTOID}
	},
	[SAGG_LOG_RESET_PLAN] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.offsets (stream, batch, ranges, watermark, batch_time)"
		" VALUES ($1, $2, '{}', $3, now())",
		3, {TEXTOID, INT8OID, TIMESTAMPTZOID}
	},
	[SAGG_LOG_RESET_COMMIT] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.commits"
		"       (stream, batch, offsets, watermark, reset, state_blobs,"
		"        read_time, execute_time, write_time, checkpoint_time,"
		"        committed, last_records" COUNTERS ")"
		" SELECT $1, $2, '{}', $3, $4, 0, 0, 0, 0, 0, clock_timestamp(), '{}'" UNCHANGED
		"   FROM (VALUES (true)) AS one"
		"   LEFT JOIN stream_agg.commits c ON c.stream = $1 AND c.batch = $2 - 1",
		4, {TEXTOID, INT8OID, TIMESTAMPTZOID, TEXTOID}
	},
	[SAGG_LOG_EVENT_INSERT] = {
		SPI_OK_INSERT,
		"INSERT INTO stream_agg.events (stream, number, \"time\", event, message)"
		" SELECT $1, coalesce(max(number), 0) + 1, clock_timestamp(), $2, $3"
		"   FROM stream_agg.events WHERE stream = $1",
		3, {TEXTOID, TEXTOID, TEXTOID}
	},
	[SAGG_LOG_EVENT_TRIM] = {
		SPI_OK_DELETE,
		"DELETE FROM stream_agg.events"
		" WHERE stream = $1"
		"   AND number <= (SELECT max(number) - $2"
		"                    FROM stream_agg.events WHERE stream = $1)",
		2, {TEXTOID, INT8OID}
	},
	[SAGG_LOG_READ_BEFORE] = {
		SPI_OK_SELECT,
		"SELECT c.batch, coalesce(o.ranges, '{}'), c.offsets, c.max_event_time,"
		"       coalesce(o.watermark, '-infinity'), c.watermark, c.reset IS NOT NULL"
		"  FROM stream_agg.commits c LEFT JOIN stream_agg.offsets o"
		"    ON o.stream = c.stream AND o.batch = c.batch"
		" WHERE c.stream = $1 ORDER BY c.batch",
		1, {TEXTOID}
	},
	[SAGG_LOG_RESET_WATERMARK] = {
		SPI_OK_SELECT,
		"SELECT coalesce(max(watermark), '-infinity')"
		"  FROM stream_agg.commits WHERE stream = $1 AND reset = 'results'",
		1, {TEXTOID}
	},
};

/*
 * Begin a section of statements. "section" is allocated by the caller and
 * passed to sagg_log_end.  The current memory context becomes SPI's; allocate
 * what must outlive the section in section->caller.
 */
void
sagg_log_begin(SaggLogSection *section, SaggCheckpoint *checkpoint)
{
	section->checkpoint = checkpoint;
	section->caller = CurrentMemoryContext;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	sagg_become_extension_owner(&section->owner);
}

/*
 * End a section: restores the user, settings and memory context.
 */
void
sagg_log_end(SaggLogSection *section)
{
	sagg_restore_user(&section->owner);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	MemoryContextSwitchTo(section->caller);
}

/*
 * Append one of the lists over the table of counters.
 */
static void
append_counters(StringInfo text, const char *list)
{
	bool		unchanged = strncmp(list, UNCHANGED, strlen(UNCHANGED)) == 0;
	bool		totals = strncmp(list, TOTALS, strlen(TOTALS)) == 0;

	for (int i = 0; i < SAGG_COUNTERS; i++)
	{
		const SaggCounter *counter = &sagg_counters[i];

		if (counter->column && unchanged)
			appendStringInfoString(text, ", 0");
		else if (counter->column && !totals)
			appendStringInfo(text, ", %s", counter->column);

		if (unchanged)
			appendStringInfo(text, ", coalesce(c.%s, 0)", counter->total);
		else
			appendStringInfo(text, ", %s", counter->total);
	}
}

/*
 * Returns the text of a statement with its lists of counters, in the current context.
 */
static char *
complete_text(const LogStatement *statement)
{
	StringInfoData text;
	const char *rest = statement->text;
	const char *list;

	initStringInfo(&text);
	while ((list = strchr(rest, '{')) != NULL)
	{
		appendBinaryStringInfo(&text, rest, list - rest);
		rest = strchr(list, '}') + 1;
		if (rest == list + 2)
			appendStringInfoString(&text, "{}");	/* an empty object or
													 * array */
		else
			append_counters(&text, list);
	}
	appendStringInfoString(&text, rest);
	return text.data;
}

static SPIPlanPtr
prepared(SaggCheckpoint *checkpoint, SaggLogStatement statement)
{
	SPIPlanPtr	plan = checkpoint->statements[statement];

	if (plan == NULL)
	{
		const LogStatement *s = &log_statements[statement];
		Oid			args[MAX_ARGS];

		memcpy(args, s->args, sizeof(args));
		plan = SPI_prepare(complete_text(s), s->nargs, args);
		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", s->text,
				 SPI_result_code_string(SPI_result));

		/*
		 * not saved: nobody would free it after an ERROR, and it is needed
		 * once
		 */
		if (checkpoint->as_of_snapshot)
			return plan;
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep a plan: %s",
				 SPI_result_code_string(SPI_result));
		checkpoint->statements[statement] = plan;
	}
	return plan;
}

/*
 * Run a statement. values[0] is set to the stream's name here, the others are
 * the caller's; "nulls" is as for SPI_execute_plan and may be NULL; "limit" is
 * the greatest number of rows, 0 for all.  Returns the number of rows; those
 * of a SELECT are read by sagg_log_value until the next statement.  The
 * statement sees what is committed, whatever the isolation level of the
 * transaction; if the checkpoint was opened as of the active snapshot, what
 * that sees.
 */
int64
sagg_log_execute(SaggLogSection *section, SaggLogStatement statement,
				 Datum *values, const char *nulls, long limit)
{
	SPIPlanPtr	plan = prepared(section->checkpoint, statement);
	int			result;

	SPI_freetuptable(SPI_tuptable);
	values[0] = PointerGetDatum(cstring_to_text(section->checkpoint->stream));
	if (section->checkpoint->as_of_snapshot)
		result = SPI_execute_plan(plan, values, nulls, true, limit);
	else if (IsolationUsesXactSnapshot())
		result = SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(),
									  InvalidSnapshot, false, true, limit);
	else
		result = SPI_execute_plan(plan, values, nulls, false, limit);
	if (result != log_statements[statement].expected)
		elog(ERROR, "unexpected result of \"%s\": %s",
			 log_statements[statement].text, SPI_result_code_string(result));
	return (int64) SPI_processed;
}

/*
 * Open a cursor for a SELECT.  The caller fetches by SPI_cursor_fetch within
 * sections of its own and closes it by sagg_log_cursor_close.  It is pinned, so
 * that users' code that runs between fetches cannot close it.
 */
Portal
sagg_log_cursor(SaggLogSection *section, SaggLogStatement statement,
				Datum *values)
{
	SPIPlanPtr	plan = prepared(section->checkpoint, statement);
	Portal		portal;

	values[0] = PointerGetDatum(cstring_to_text(section->checkpoint->stream));
	portal = SPI_cursor_open(NULL, plan, values, NULL,
							 section->checkpoint->as_of_snapshot);
	if (portal == NULL)
		elog(ERROR, "could not open a cursor for \"%s\": %s",
			 log_statements[statement].text, SPI_result_code_string(SPI_result));
	PinPortal(portal);
	return portal;
}

/*
 * Close a cursor.  After an error its (sub)transaction does the same.
 */
void
sagg_log_cursor_close(Portal portal)
{
	UnpinPortal(portal);
	SPI_cursor_close(portal);
}

/*
 * Returns a value of the rows that the last SELECT returned: row counts from
 * 0, column from 1.  It lives as long as those rows.
 */
Datum
sagg_log_value(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, isnull);
}

/*
 * Returns a bigint of the rows that the last SELECT returned, known not to be
 * NULL.
 */
int64
sagg_log_int64(int row, int column)
{
	bool		isnull;
	Datum		value = sagg_log_value(row, column, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d", column);
	return DatumGetInt64(value);
}
