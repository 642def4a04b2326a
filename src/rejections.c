/*-------------------------------------------------------------------------
 *
 * rejections.c
 *	  Rejections: the records of a batch that are left out because they cannot
 *	  be processed, and the reasons.
 *
 * A stream whose option on_error is skip or dead_letter has one such set in
 * every batch; a stream whose policy is fail has none.  A record is rejected
 * once, however often it is read, and this is never undone.  For each record
 * it keeps a bit and, for dead letters, the error, with message and detail
 * truncated to MAX_TEXT_BYTES each; no more dead letters are collected than
 * stream_agg.max_dead_letters allows (I7).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "stream_agg.h"

#define MAX_TEXT_BYTES	500

/*
 * Returns an empty set, in the current context, which must live as long as the
 * batch.
 */
SaggRejections *
sagg_rejections_make(SaggOnError policy)
{
	SaggRejections *rejections = palloc0(sizeof(SaggRejections));

	rejections->memory = CurrentMemoryContext;
	rejections->policy = policy;
	return rejections;
}

/*
 * Returns whether a record is in the set.
 */
bool
sagg_record_rejected(const SaggRejections *rejections, SaggRecordId record)
{
	int			reading = sagg_record_reading(record);
	int64		number = sagg_record_number(record);
	const SaggRecordSet *set;

	if (reading >= rejections->nreadings)
		return false;
	set = &rejections->rejected[reading];
	return number < set->nbits &&
		(set->bits[number / 8] & (1 << (number % 8))) != 0;
}

/*
 * Returns the set of a reading's records, which may be new.
 */
static SaggRecordSet *
set_of_reading(SaggRejections *rejections, int reading)
{
	if (reading >= rejections->nreadings)
	{
		Size		size = sizeof(SaggRecordSet) * (reading + 1);

		Assert(reading < SAGG_MAX_READINGS);
		rejections->rejected = rejections->rejected ? repalloc(rejections->rejected, size) :
			MemoryContextAlloc(rejections->memory, size);
		memset(&rejections->rejected[rejections->nreadings], 0,
			   sizeof(SaggRecordSet) * (reading + 1 - rejections->nreadings));
		rejections->nreadings = reading + 1;
	}
	return &rejections->rejected[reading];
}

static void
set_bit(SaggRejections *rejections, SaggRecordId record)
{
	SaggRecordSet *set = set_of_reading(rejections, sagg_record_reading(record));
	int64		number = sagg_record_number(record);

	if (number >= set->nbits)
	{
		Size		before = set->nbits / 8;
		Size		after = Max(number / 8 + 1, Max(1024, 2 * before));

		set->bits = before > 0 ? repalloc_huge(set->bits, after) :
			MemoryContextAllocHuge(rejections->memory, after);
		memset(set->bits + before, 0, after - before);
		set->nbits = (int64) after * 8;
	}
	set->bits[number / 8] |= 1 << (number % 8);
}

/*
 * Returns a text of an error as it is kept, palloc'd.
 */
char *
sagg_error_text(const char *text)
{
	return pnstrdup(text, pg_mbcliplen(text, strlen(text), MAX_TEXT_BYTES));
}

/*
 * Returns an error as one text that is kept, in the current memory context:
 * the message and, on a line of its own, the detail, which may be NULL.
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
 * Returns the error of a rejected record as one text, the detail on a line of
 * its own; palloc'd.
 */
char *
sagg_rejection_text(const SaggRejection *rejection)
{
	return sagg_error_reason(rejection->message, rejection->detail);
}

static void
append_to_list(SaggRejections *rejections, const SaggRejection *rejection)
{
	if (rejections->count >= rejections->size)
	{
		int64		size = Max(64, 2 * rejections->size);

		rejections->list = rejections->list ?
			repalloc_huge(rejections->list, sizeof(SaggRejection) * size) :
			MemoryContextAlloc(rejections->memory, sizeof(SaggRejection) * size);
		rejections->size = size;
	}
	rejections->list[rejections->count] = *rejection;
}

/*
 * Reject a record for an error; "detail" may be NULL.  Does nothing if it is
 * rejected already.  Raises ERRCODE_SAGG_DEAD_LETTERS if the batch has more
 * dead letters than a stream may have.
 */
void
sagg_reject_record(SaggRejections *rejections, SaggRecordId record, int sqlstate,
				   const char *message, const char *detail)
{
	SaggRejection rejection = {record, sqlstate, NULL, NULL};

	if (sagg_record_rejected(rejections, record))
		return;
	if (rejections->policy == SAGG_DEAD_LETTER &&
		rejections->count >= sagg_max_dead_letters)
		sagg_too_many_dead_letters(0, rejections);
	if (rejections->policy == SAGG_DEAD_LETTER || rejections->count == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(rejections->memory);

		rejection.message = sagg_error_text(message);
		rejection.detail = detail ? sagg_error_text(detail) : NULL;
		MemoryContextSwitchTo(old);
	}
	if (rejections->count == 0)
		rejections->first = rejection;
	if (rejections->policy == SAGG_DEAD_LETTER)
		append_to_list(rejections, &rejection);
	set_bit(rejections, record);
	rejections->count++;
}

/*
 * Raise the error for a batch that has more dead letters than fit beside the
 * "kept" ones of earlier batches.
 */
void
sagg_too_many_dead_letters(int64 kept, const SaggRejections *rejections)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_DEAD_LETTERS),
			 errmsg("the stream would have more than %d dead letters",
					sagg_max_dead_letters),
			 kept > 0 ?
			 errdetail("There are " INT64_FORMAT ", and this micro-batch adds " INT64_FORMAT ".",
					   kept, rejections->count) :
			 rejections->count > 0 ?
			 errdetail("This micro-batch alone has more. The first one: %s",
					   sagg_rejection_text(&rejections->first)) : 0,
			 errhint("Look at stream_agg.dead_letters for what produces them; then run stream_agg.delete_dead_letters or raise stream_agg.max_dead_letters, and start the stream again.")));
}

/*
 * Raise the error for a batch that has more late records, "added", than fit
 * beside the "kept" ones.
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
 * Raise the error for a batch whose dead letters, or late records, would take
 * too many bytes beside the "kept" bytes of earlier ones.
 */
void
sagg_too_large_diverted(bool late, int64 kept)
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
