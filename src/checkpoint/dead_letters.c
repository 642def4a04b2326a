/*-------------------------------------------------------------------------
 *
 * dead_letters.c
 *	  Records that a batch has refused, into stream_agg.dead_letters.
 *
 * They are written in the batch's own transaction (I1): a record is a dead
 * letter exactly once, and its offset is committed together with it.  A stream
 * has no more of them than stream_agg.max_dead_letters; the batch that would
 * add more fails, so none is dropped silently (I5).  The table is counted only
 * when there are some to add.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "checkpoint_internal.h"

/* how many go into one statement: until one of these is reached */
#define CHUNK_LETTERS	500
#define CHUNK_BYTES		(1024 * 1024)

/* columns of a chunk, in the order of SAGG_LOG_DEAD_LETTERS_INSERT */
enum
{
	LETTER_TOPIC,
	LETTER_PARTITION,
	LETTER_OFFSET,
	LETTER_TIMESTAMP,
	LETTER_KEY,
	LETTER_VALUE,
	LETTER_HEADERS,
	LETTER_ERROR,
	LETTER_COLUMNS
};

typedef struct Chunk
{
	int			n;
	Datum		values[LETTER_COLUMNS][CHUNK_LETTERS];
	bool		nulls[LETTER_COLUMNS][CHUNK_LETTERS];
} Chunk;

static Size
varlena_size(Datum value, bool isnull)
{
	return isnull ? 0 : VARSIZE_ANY(DatumGetPointer(value));
}

/*
 * Collect letters in the current context; returns false when there are none
 * left.
 */
static bool
fill_chunk(Chunk *chunk, SaggNextDeadLetter next, void *arg)
{
	Size		bytes = 0;
	SaggDeadLetter letter;

	chunk->n = 0;
	while (chunk->n < CHUNK_LETTERS && bytes < CHUNK_BYTES && next(arg, &letter))
	{
		int			i = chunk->n++;

		for (int column = 0; column < LETTER_COLUMNS; column++)
			chunk->nulls[column][i] = false;
		chunk->values[LETTER_TOPIC][i] = CStringGetTextDatum(sagg_topic_name(letter.topic));
		chunk->values[LETTER_PARTITION][i] = Int32GetDatum(letter.partition);
		chunk->values[LETTER_OFFSET][i] = Int64GetDatum(letter.offset);
		chunk->values[LETTER_TIMESTAMP][i] = letter.timestamp;
		chunk->nulls[LETTER_TIMESTAMP][i] = letter.no_timestamp;
		chunk->values[LETTER_KEY][i] = letter.key;
		chunk->nulls[LETTER_KEY][i] = letter.no_key;
		chunk->values[LETTER_VALUE][i] = letter.value;
		chunk->nulls[LETTER_VALUE][i] = letter.no_value;
		chunk->values[LETTER_HEADERS][i] = letter.headers;
		chunk->nulls[LETTER_HEADERS][i] = letter.no_headers;
		chunk->values[LETTER_ERROR][i] = CStringGetTextDatum(letter.error);
		bytes += varlena_size(letter.key, letter.no_key) +
			varlena_size(letter.value, letter.no_value) +
			varlena_size(letter.headers, letter.no_headers);
	}
	return chunk->n > 0;
}

static Datum
chunk_array(Chunk *chunk, int column, Oid type, int len, bool byval, char align)
{
	int			dims[1] = {chunk->n};
	int			lbs[1] = {1};

	return PointerGetDatum(construct_md_array(chunk->values[column],
											  chunk->nulls[column], 1, dims, lbs,
											  type, len, byval, align));
}

static void
insert_chunk(SaggCheckpoint *checkpoint, Chunk *chunk, int64 batch)
{
	SaggLogSection section;
	Datum		values[10];

	values[1] = Int64GetDatum(batch);
	values[2] = chunk_array(chunk, LETTER_TOPIC, TEXTOID, -1, false, TYPALIGN_INT);
	values[3] = chunk_array(chunk, LETTER_PARTITION, INT4OID, 4, true, TYPALIGN_INT);
	values[4] = chunk_array(chunk, LETTER_OFFSET, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	values[5] = chunk_array(chunk, LETTER_TIMESTAMP, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	values[6] = chunk_array(chunk, LETTER_KEY, BYTEAOID, -1, false, TYPALIGN_INT);
	values[7] = chunk_array(chunk, LETTER_VALUE, BYTEAOID, -1, false, TYPALIGN_INT);
	values[8] = chunk_array(chunk, LETTER_HEADERS, JSONBOID, -1, false, TYPALIGN_INT);
	values[9] = chunk_array(chunk, LETTER_ERROR, TEXTOID, -1, false, TYPALIGN_INT);
	sagg_log_begin(&section, checkpoint);
	if (sagg_log_execute(&section, SAGG_LOG_DEAD_LETTERS_INSERT, values, NULL, 0) != chunk->n)
		elog(ERROR, "dead letters of micro-batch " INT64_FORMAT " are missing", batch);
	sagg_log_end(&section);
}

/*
 * Raise ERRCODE_SAGG_DEAD_LETTERS if the batch's do not fit beside those that
 * are there.
 */
static void
check_number(SaggCheckpoint *checkpoint, const SaggRefusals *refusals)
{
	SaggLogSection section;
	Datum		values[1];
	int64		kept;

	sagg_log_begin(&section, checkpoint);
	(void) sagg_log_execute(&section, SAGG_LOG_DEAD_LETTERS_COUNT, values, NULL, 1);
	kept = sagg_log_int64(0, 1);
	sagg_log_end(&section);
	if (kept + refusals->count > sagg_max_dead_letters)
		sagg_too_many_dead_letters(kept, refusals);
}

/*
 * Write down a batch's dead letters: as many as "refusals" has, got from "next"
 * one by one.  A part of CHECKPOINT, before sagg_checkpoint_commit; adds the
 * time spent to commit->stage_time.
 */
void
sagg_checkpoint_dead_letters(SaggCheckpoint *checkpoint, const SaggPlan *plan,
							 const SaggRefusals *refusals,
							 SaggNextDeadLetter next, void *arg,
							 SaggCommit *commit)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg dead letters",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	Chunk	   *chunk = palloc(sizeof(Chunk));
	int64		written = 0;
	instr_time	started;
	instr_time	spent;

	INSTR_TIME_SET_CURRENT(started);
	check_number(checkpoint, refusals);
	MemoryContextSwitchTo(memory);
	while (fill_chunk(chunk, next, arg))
	{
		insert_chunk(checkpoint, chunk, plan->batch);
		written += chunk->n;
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	pfree(chunk);
	if (written != refusals->count)
		elog(ERROR, INT64_FORMAT " of " INT64_FORMAT " dead letters were written",
			 written, refusals->count);
	INSTR_TIME_SET_CURRENT(spent);
	INSTR_TIME_SUBTRACT(spent, started);
	commit->stage_time[SAGG_CHECKPOINT] += INSTR_TIME_GET_MICROSEC(spent);
}
