/*-------------------------------------------------------------------------
 *
 * refusals.c
 *	  The records of a batch that are left out because they cannot be
 *	  processed: which ones, and why.
 *
 * A stream whose option on_error is skip or dead_letter has one such set in
 * every batch; one whose policy is fail has none.  A record is refused once,
 * however often it is read, and never taken back.  What is kept of it is a
 * bit and, for dead letters, the error, its message and its detail cut to
 * MAX_TEXT_BYTES each; no more dead letters are collected than stream_agg.max_dead_letters allows (I7).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "stream_agg.h"

#define MAX_TEXT_BYTES	500

/*
 * An empty set, in the current context, which must live as long as the batch.
 */
SaggRefusals *
sagg_refusals_make(SaggOnError policy)
{
	SaggRefusals *refusals = palloc0(sizeof(SaggRefusals));

	refusals->memory = CurrentMemoryContext;
	refusals->policy = policy;
	return refusals;
}

/*
 * Returns whether a record is in the set.
 */
bool
sagg_record_refused(const SaggRefusals *refusals, SaggRecordId record)
{
	int			reading = sagg_record_reading(record);
	int64		number = sagg_record_number(record);
	const SaggRecordSet *set;

	if (reading >= refusals->nreadings)
		return false;
	set = &refusals->refused[reading];
	return number < set->nbits &&
		(set->bits[number / 8] & (1 << (number % 8))) != 0;
}

/*
 * Returns the set of a reading's records, which may be new.
 */
static SaggRecordSet *
set_of_reading(SaggRefusals *refusals, int reading)
{
	if (reading >= refusals->nreadings)
	{
		Size		size = sizeof(SaggRecordSet) * (reading + 1);

		Assert(reading < SAGG_MAX_READINGS);
		refusals->refused = refusals->refused ? repalloc(refusals->refused, size) :
			MemoryContextAlloc(refusals->memory, size);
		memset(&refusals->refused[refusals->nreadings], 0,
			   sizeof(SaggRecordSet) * (reading + 1 - refusals->nreadings));
		refusals->nreadings = reading + 1;
	}
	return &refusals->refused[reading];
}

static void
set_bit(SaggRefusals *refusals, SaggRecordId record)
{
	SaggRecordSet *set = set_of_reading(refusals, sagg_record_reading(record));
	int64		number = sagg_record_number(record);

	if (number >= set->nbits)
	{
		Size		before = set->nbits / 8;
		Size		after = Max(number / 8 + 1, Max(1024, 2 * before));

		set->bits = before > 0 ? repalloc_huge(set->bits, after) :
			MemoryContextAllocHuge(refusals->memory, after);
		memset(set->bits + before, 0, after - before);
		set->nbits = (int64) after * 8;
	}
	set->bits[number / 8] |= 1 << (number % 8);
}

/*
 * A text of an error as it is kept, palloc'd.
 */
char *
sagg_error_text(const char *text)
{
	return pnstrdup(text, pg_mbcliplen(text, strlen(text), MAX_TEXT_BYTES));
}

/*
 * An error as one text that is kept, in the current memory context: the message and,
 * on a line of its own, the detail, which may be NULL.
 */
char *
sagg_error_reason(const char *message, const char *detail)
{
	char	   *text = psprintf("%s%s%s", message, detail ? "\nDETAIL:  " : "",
								detail ? detail : "");
	char	   *reason = sagg_error_text(text);

	pfree(text);
	return reason;
}

/*
 * The error of a refused record as one text, the detail on a line of its own;
 * palloc'd.
 */
char *
sagg_refusal_text(const SaggRefusal *refusal)
{
	return sagg_error_reason(refusal->message, refusal->detail);
}

static void
append_to_list(SaggRefusals *refusals, const SaggRefusal *refusal)
{
	if (refusals->count >= refusals->size)
	{
		int64		size = Max(64, 2 * refusals->size);

		refusals->list = refusals->list ?
			repalloc_huge(refusals->list, sizeof(SaggRefusal) * size) :
			MemoryContextAlloc(refusals->memory, sizeof(SaggRefusal) * size);
		refusals->size = size;
	}
	refusals->list[refusals->count] = *refusal;
}

/*
 * Refuse a record for an error; "detail" may be NULL.
 * Nothing happens if it is refused already.  Raises ERRCODE_SAGG_DEAD_LETTERS
 * if the batch has more dead letters than a stream may have.
 */
void
sagg_refuse_record(SaggRefusals *refusals, SaggRecordId record, int sqlstate,
				   const char *message, const char *detail)
{
	SaggRefusal refusal = {record, sqlstate, NULL, NULL};

	if (sagg_record_refused(refusals, record))
		return;
	if (refusals->policy == SAGG_DEAD_LETTER &&
		refusals->count >= sagg_max_dead_letters)
		sagg_too_many_dead_letters(0, refusals);
	if (refusals->policy == SAGG_DEAD_LETTER || refusals->count == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(refusals->memory);

		refusal.message = sagg_error_text(message);
		refusal.detail = detail ? sagg_error_text(detail) : NULL;
		MemoryContextSwitchTo(old);
	}
	if (refusals->count == 0)
		refusals->first = refusal;
	if (refusals->policy == SAGG_DEAD_LETTER)
		append_to_list(refusals, &refusal);
	set_bit(refusals, record);
	refusals->count++;
}

/*
 * The error that ends a batch which has more dead letters than fit beside the
 * "kept" ones of earlier batches.
 */
void
sagg_too_many_dead_letters(int64 kept, const SaggRefusals *refusals)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_DEAD_LETTERS),
			 errmsg("the stream would have more than %d dead letters",
					sagg_max_dead_letters),
			 kept > 0 ?
			 errdetail("There are " INT64_FORMAT ", and this micro-batch adds " INT64_FORMAT ".",
					   kept, refusals->count) :
			 refusals->count > 0 ?
			 errdetail("This micro-batch alone has more. The first one: %s",
					   sagg_refusal_text(&refusals->first)) : 0,
			 errhint("Look at stream_agg.dead_letters for what produces them; then run stream_agg.delete_dead_letters or raise stream_agg.max_dead_letters, and start the stream again.")));
}

/*
 * The same for late records, of which the batch has "added".
 */
void
sagg_too_many_late_records(int64 kept, int64 added)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_LATE_RECORDS),
			 errmsg("the stream would have more than %d late records",
					sagg_max_late_records),
			 kept > 0 ?
			 errdetail("There are " INT64_FORMAT ", and this micro-batch adds " INT64_FORMAT ".",
					   kept, added) :
			 errdetail("This micro-batch alone has more."),
			 errhint("Run stream_agg.repair_late or stream_agg.delete_late_records, raise stream_agg.max_late_records, or set the stream's option late_records to false, and start the stream again.")));
}

/*
 * The error that ends a batch whose dead letters, or late records, would take
 * too many bytes beside those of "kept" bytes.
 */
void
sagg_too_large_aside(bool late, int64 kept)
{
	if (late)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_LATE_RECORDS),
				 errmsg("the late records of the stream would take more than %d kB",
						sagg_max_late_records_size_kb),
				 kept > 0 ?
				 errdetail("Those of earlier micro-batches take " INT64_FORMAT " kB.", kept / 1024) :
				 errdetail("Those of this micro-batch alone take more."),
				 errhint("Run stream_agg.repair_late or stream_agg.delete_late_records, raise stream_agg.max_late_records_size, or set the stream's option late_records to false, and start the stream again.")));
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_DEAD_LETTERS),
			 errmsg("the dead letters of the stream would take more than %d kB",
					sagg_max_dead_letters_size_kb),
			 errdetail("Those of earlier micro-batches take " INT64_FORMAT " kB.", kept / 1024),
			 errhint("Look at stream_agg.dead_letters for what produces them; then run stream_agg.delete_dead_letters or raise stream_agg.max_dead_letters_size, and start the stream again.")));
}
