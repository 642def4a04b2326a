/*-------------------------------------------------------------------------
 *
 * diverted_records.c
 *	  Records that a batch diverts: those it has rejected, into
 *	  stream_agg.dead_letters, and those that came too late, into
 *	  stream_agg.late_records.
 *
 * They are written in the batch's own transaction (I1): a record is diverted
 * exactly once, and its offset is committed together with it.  A stream has no
 * more of them than stream_agg.max_dead_letters and max_late_records, and none
 * whose bytes exceed max_dead_letters_size and max_late_records_size; the
 * batch that would add more fails, so none is dropped silently (I5).  The rows
 * of a table are counted only when there are some to add.  Late windows count
 * by the bytes they take in the table; those of the current batch, which are
 * not compressed yet, count in full.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "checkpoint_internal.h"

/* a statement inserts records until one of these is reached */
#define CHUNK_RECORDS	500
#define CHUNK_BYTES		(1024 * 1024)
#define CHUNK_WINDOWS	10000

/* columns of a chunk; the statements have them from $3 on */
enum
{
	ASIDE_TOPIC,
	ASIDE_PARTITION,
	ASIDE_OFFSET,
	ASIDE_TIMESTAMP,
	ASIDE_KEY,
	ASIDE_VALUE,
	ASIDE_HEADERS,
	ASIDE_ERROR,				/* of dead letters, as the last two */
	ASIDE_EVENT_TIME = ASIDE_ERROR, /* of late records, as their last column */
	ASIDE_DETAIL,				/* of dead letters */
	ASIDE_SQLSTATE,
	ASIDE_COLUMNS
};

typedef struct ColumnType
{
	Oid			type;
	int			len;
	bool		byval;
	char		align;
} ColumnType;

#define TEXT_COLUMN		{TEXTOID, -1, false, TYPALIGN_INT}
#define TIME_COLUMN		{TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE}
#define INT8_COLUMN		{INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE}

static const ColumnType column_types[ASIDE_COLUMNS] = {
	[ASIDE_TOPIC] = TEXT_COLUMN,
	[ASIDE_PARTITION] = {INT4OID, 4, true, TYPALIGN_INT},
	[ASIDE_OFFSET] = INT8_COLUMN,
	[ASIDE_TIMESTAMP] = TIME_COLUMN,
	[ASIDE_KEY] = {BYTEAOID, -1, false, TYPALIGN_INT},
	[ASIDE_VALUE] = {BYTEAOID, -1, false, TYPALIGN_INT},
	[ASIDE_HEADERS] = {JSONBOID, -1, false, TYPALIGN_INT},
	[ASIDE_ERROR] = TEXT_COLUMN,
	[ASIDE_DETAIL] = TEXT_COLUMN,
	[ASIDE_SQLSTATE] = TEXT_COLUMN,
};

static const ColumnType time_column = TIME_COLUMN;
static const ColumnType int8_column = INT8_COLUMN;

/*
 * A chunk of the records.  The windows of late records are in arrays of their
 * own, each with the number of its record, counted from 1.
 */
typedef struct Chunk
{
	bool		late;
	int			n;
	int64		bytes;			/* total bytes of the records' keys, values,
								 * headers, errors and windows */
	Datum		values[ASIDE_COLUMNS][CHUNK_RECORDS];
	bool		nulls[ASIDE_COLUMNS][CHUNK_RECORDS];
	int			nwindows;
	int			max_windows;
	Datum	   *starts;
	Datum	   *ends;
	Datum	   *records;
} Chunk;

static int64
varlena_size(Datum value, bool isnull)
{
	return isnull ? 0 : VARSIZE_ANY_EXHDR(DatumGetPointer(value));
}

static void
set_value(Chunk *chunk, int column, Datum value, bool isnull)
{
	chunk->values[column][chunk->n - 1] = value;
	chunk->nulls[column][chunk->n - 1] = isnull;
}

/*
 * Add the error of the dead letter that was added last.
 */
static void
set_error(Chunk *chunk, const SaggDivertedRecord *diverted)
{
	set_value(chunk, ASIDE_ERROR, CStringGetTextDatum(diverted->error), false);
	set_value(chunk, ASIDE_DETAIL,
			  diverted->detail ? CStringGetTextDatum(diverted->detail) : (Datum) 0,
			  diverted->detail == NULL);
	set_value(chunk, ASIDE_SQLSTATE,
			  CStringGetTextDatum(unpack_sql_state(diverted->sqlstate)), false);
	chunk->bytes += strlen(diverted->error) + (diverted->detail ? strlen(diverted->detail) : 0);
}

/*
 * Make room for this many more windows.
 */
static void
reserve_windows(Chunk *chunk, int64 windows)
{
	Size		size;

	if (chunk->nwindows + windows <= chunk->max_windows)
		return;
	size = sizeof(Datum) * (chunk->nwindows + windows + CHUNK_WINDOWS);
	chunk->starts = chunk->starts ? repalloc(chunk->starts, size) : palloc(size);
	chunk->ends = chunk->ends ? repalloc(chunk->ends, size) : palloc(size);
	chunk->records = chunk->records ? repalloc(chunk->records, size) : palloc(size);
	chunk->max_windows = size / sizeof(Datum);
}

/*
 * Add the windows of the late record that was added last.
 */
static void
add_windows(Chunk *chunk, const SaggDivertedRecord *diverted)
{
	int64		windows = 0;

	for (int64 i = 0; i < diverted->nrows; i++)
		windows += diverted->rows[i].n;
	reserve_windows(chunk, windows);
	for (int64 i = 0; i < diverted->nrows; i++)
	{
		const SaggLateRow *row = &diverted->rows[i];

		CHECK_FOR_INTERRUPTS();
		for (int64 k = 0; k < row->n; k++)
		{
			chunk->starts[chunk->nwindows] = TimestampTzGetDatum(row->start + k * row->step);
			chunk->ends[chunk->nwindows] = TimestampTzGetDatum(row->end + k * row->step);
			chunk->records[chunk->nwindows++] = Int64GetDatum(chunk->n);
		}
	}
	chunk->bytes += ARR_OVERHEAD_NONULLS(1) + windows * SAGG_LATE_WINDOW_BYTES;
}

/*
 * Fill the chunk with records, in the current context.  Returns false when
 * there are none left.
 */
static bool
fill_chunk(Chunk *chunk, bool late, SaggNextDivertedRecord next, void *arg)
{
	SaggDivertedRecord diverted;

	memset(chunk, 0, sizeof(*chunk));
	chunk->late = late;
	while (chunk->n < CHUNK_RECORDS && chunk->bytes < CHUNK_BYTES &&
		   chunk->nwindows < CHUNK_WINDOWS && next(arg, &diverted))
	{
		chunk->n++;
		set_value(chunk, ASIDE_TOPIC, CStringGetTextDatum(sagg_topic_name(diverted.topic)), false);
		set_value(chunk, ASIDE_PARTITION, Int32GetDatum(diverted.partition), false);
		set_value(chunk, ASIDE_OFFSET, Int64GetDatum(diverted.offset), false);
		set_value(chunk, ASIDE_TIMESTAMP, diverted.timestamp, diverted.no_timestamp);
		set_value(chunk, ASIDE_KEY, diverted.key, diverted.no_key);
		set_value(chunk, ASIDE_VALUE, diverted.value, diverted.no_value);
		set_value(chunk, ASIDE_HEADERS, diverted.headers, diverted.no_headers);
		if (late)
		{
			set_value(chunk, ASIDE_EVENT_TIME, TimestampTzGetDatum(diverted.rows[0].time), false);
			add_windows(chunk, &diverted);
		}
		else
		{
			set_error(chunk, &diverted);
		}
		chunk->bytes += varlena_size(diverted.key, diverted.no_key) +
			varlena_size(diverted.value, diverted.no_value) +
			varlena_size(diverted.headers, diverted.no_headers);
	}
	return chunk->n > 0;
}

static Datum
make_array(const ColumnType *type, Datum *values, bool *nulls, int n)
{
	int			dims[1] = {n};
	int			lbs[1] = {1};

	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, type->type,
											  type->len, type->byval, type->align));
}

static void
insert_chunk(SaggCheckpoint *checkpoint, Chunk *chunk, int64 batch)
{
	SaggLogSection section;
	Datum		values[13];

	values[1] = Int64GetDatum(batch);
	for (int i = 0; i < (chunk->late ? ASIDE_EVENT_TIME + 1 : ASIDE_COLUMNS); i++)
	{
		const ColumnType *type = chunk->late && i == ASIDE_EVENT_TIME ?
		&time_column : &column_types[i];

		values[i + 2] = make_array(type, chunk->values[i], chunk->nulls[i], chunk->n);
	}
	if (chunk->late)
	{
		values[10] = make_array(&time_column, chunk->starts, NULL, chunk->nwindows);
		values[11] = make_array(&time_column, chunk->ends, NULL, chunk->nwindows);
		values[12] = make_array(&int8_column, chunk->records, NULL, chunk->nwindows);
	}
	sagg_log_begin(&section, checkpoint);
	if (sagg_log_execute(&section, chunk->late ? SAGG_LOG_LATE_RECORDS_INSERT :
						 SAGG_LOG_DEAD_LETTERS_INSERT, values, NULL, 0) != chunk->n)
		elog(ERROR, "records that micro-batch " INT64_FORMAT " diverts are missing", batch);
	sagg_log_end(&section);
}

/*
 * Returns how many records the table has for the stream, and in "bytes" their
 * size.
 */
static int64
count_kept(SaggCheckpoint *checkpoint, bool late, int64 *bytes)
{
	SaggLogSection section;
	Datum		values[1];
	int64		kept;

	sagg_log_begin(&section, checkpoint);
	(void) sagg_log_execute(&section, late ? SAGG_LOG_LATE_RECORDS_COUNT :
							SAGG_LOG_DEAD_LETTERS_COUNT, values, NULL, 1);
	kept = sagg_log_int64(0, 1);
	*bytes = sagg_log_int64(0, 2);
	sagg_log_end(&section);
	return kept;
}

/*
 * Returns the most bytes that diverted records may take.
 */
static int64
max_bytes(bool late)
{
	int			kilobytes = late ? sagg_max_late_records_size_kb : sagg_max_dead_letters_size_kb;

	return kilobytes < 0 ? PG_INT64_MAX : (int64) kilobytes * 1024;
}

/*
 * Insert "count" records, which "next" returns one by one.  "kept" is the size
 * of those already in the table, in bytes.
 */
static void
write_records(SaggCheckpoint *checkpoint, const SaggPlan *plan, bool late,
			  int64 count, int64 kept, SaggNextDivertedRecord next, void *arg,
			  SaggCommit *commit)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg diverted records",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	Chunk	   *chunk = palloc(sizeof(Chunk));
	int64		written = 0;
	int64		bytes = kept;
	instr_time	started;
	instr_time	spent;

	INSTR_TIME_SET_CURRENT(started);
	MemoryContextSwitchTo(memory);
	while (fill_chunk(chunk, late, next, arg))
	{
		bytes += chunk->bytes;
		if (bytes > max_bytes(late))
			sagg_too_large_diverted(late, kept);
		insert_chunk(checkpoint, chunk, plan->batch);
		written += chunk->n;
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	pfree(chunk);
	if (written != count)
		elog(ERROR, INT64_FORMAT " of " INT64_FORMAT " records were diverted",
			 written, count);
	INSTR_TIME_SET_CURRENT(spent);
	INSTR_TIME_SUBTRACT(spent, started);
	commit->stage_time[SAGG_CHECKPOINT] += INSTR_TIME_GET_MICROSEC(spent);
}

/*
 * Write a batch's dead letters: as many as "rejections" has, which "next"
 * returns one by one.  A part of CHECKPOINT, before sagg_checkpoint_commit;
 * adds the time spent to commit->stage_time.  Raises ERRCODE_SAGG_DEAD_LETTERS
 * if they do not fit beside those that are there.
 */
void
sagg_checkpoint_dead_letters(SaggCheckpoint *checkpoint, const SaggPlan *plan,
							 const SaggRejections *rejections,
							 SaggNextDivertedRecord next, void *arg, SaggCommit *commit)
{
	int64		bytes;
	int64		kept = count_kept(checkpoint, false, &bytes);

	if (kept + rejections->count > sagg_max_dead_letters)
		sagg_too_many_dead_letters(kept, rejections);
	write_records(checkpoint, plan, false, rejections->count, bytes, next, arg, commit);
}

/*
 * Write a batch's late records: "count" of them, which "next" returns one by
 * one.  A part of CHECKPOINT like dead letters; raises
 * ERRCODE_SAGG_LATE_RECORDS if they do not fit.
 */
void
sagg_checkpoint_late_records(SaggCheckpoint *checkpoint, const SaggPlan *plan,
							 int64 count, SaggNextDivertedRecord next, void *arg,
							 SaggCommit *commit)
{
	int64		bytes;
	int64		kept = count_kept(checkpoint, true, &bytes);

	if (kept + count > sagg_max_late_records)
		sagg_too_many_late_records(kept, count);
	write_records(checkpoint, plan, true, count, bytes, next, arg, commit);
}
