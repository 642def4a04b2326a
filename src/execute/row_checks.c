/*-------------------------------------------------------------------------
 *
 * row_checks.c
 *	  Checks rows of the inner query, and rejects the records of those that
 *	  cannot be aggregated.
 *
 * With the policy fail that is an error.  Otherwise the record is rejected as
 * a whole: none of the rows that joins, or the branches of UNION ALL, make of it
 * counts.  If one of them has counted, or its event time has, before another is
 * rejected, here or by a scan for which the record does not decode, then the
 * batch's groups are discarded and the inner query runs again, without the record.
 * A rejection depends only on the row, so running once more is enough.
 *
 * Event times are compared with the batch's own time, which a retry has, too,
 * so it rejects the same records.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "common/int.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "execute_internal.h"

/*
 * Returns the greatest event time that "max_future" accepts; DT_NOEND if there
 * is no limit.
 */
static int64
latest_time(const SaggExecution *ex)
{
	int64		max_future = sagg_max_future(ex->stream);
	TimestampTz latest;

	if (max_future == 0 || !ex->query->has_event_time ||
		pg_add_s64_overflow(ex->plan->batch_time, max_future, &latest) ||
		!IS_VALID_TIMESTAMP(latest))
		return DT_NOEND;
	return sagg_event_time_of_clock(ex->query, latest);
}

/*
 * Prepare an execution: "rejections" takes the records of rows that are rejected,
 * NULL if that is an error; "max_key_bytes" is how long the grouping keys of a
 * group may be in all, 0 = any length.
 */
void
sagg_execution_reject(SaggExecution *ex, SaggRejections *rejections,
					  Size max_key_bytes)
{
	ex->rejections = rejections;
	ex->max_key_bytes = max_key_bytes;
	ex->latest_time = latest_time(ex);
	Assert(rejections == NULL || ex->query->record != 0);
}

static char *
time_text(const SaggExecution *ex, int64 time)
{
	return DatumGetCString(DirectFunctionCall1(sagg_event_time_is_local(ex->query) ?
											   timestamp_out : timestamptz_out,
											   TimestampTzGetDatum(time)));
}

static char *
interval_text(int64 length)
{
	Interval	interval = {.time = length};

	return DatumGetCString(DirectFunctionCall1(interval_out,
											   IntervalPGetDatum(&interval)));
}

/*
 * Returns whether the row's record has been rejected, with another of its
 * rows.
 */
bool
sagg_row_rejected(const SaggExecution *ex, TupleTableSlot *slot)
{
	return ex->rejections != NULL &&
		sagg_record_rejected(ex->rejections, sagg_row_record(ex, slot));
}

/*
 * Returns whether a row of the record with this number has counted, or its event
 * time has.
 */
static bool
has_counted(const SaggExecution *ex, int64 number)
{
	return ex->classes[number] != SAGG_CLASS_FILTERED &&
		ex->classes[number] != SAGG_CLASS_REJECTED;
}

/*
 * Returns whether a record that was rejected while the inner query ran has had a row
 * that counted.  All records of an execution are of one reading.
 */
bool
sagg_rejected_has_counted(const SaggExecution *ex)
{
	if (ex->rejections == NULL || ex->rejections->count == 0)
		return false;
	for (int i = 0; i < ex->rejections->nreadings; i++)
	{
		const SaggRecordSet *set = &ex->rejections->rejected[i];
		int64		n = Min(set->nbits, ex->nclasses);

		for (int64 number = 0; number < n; number++)
		{
			if (set->bits[number / 8] == 0)
				number |= 7;
			else if (set->bits[number / 8] & (1 << (number % 8)) && has_counted(ex, number))
				return true;
		}
	}
	return false;
}

/*
 * Reject the row's record.  The reason may be in tmpcontext, which is reset.
 */
static void
reject(SaggExecution *ex, TupleTableSlot *slot, const char *message,
	   const char *detail)
{
	SaggRecordId record;
	int64		number;

	if (ex->rejections == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("%s", message),
				 detail ? errdetail_internal("%s", detail) : 0));
	record = sagg_row_record(ex, slot);
	number = sagg_record_number(record);
	if (number < ex->nclasses && has_counted(ex, number))
		ex->run_again = true;
	sagg_reject_record(ex->rejections, record, ERRCODE_SAGG_INVALID_RECORD, message, detail);
	ResetExprContext(ex->tmpcontext);
}

static void
reject_far_time(SaggExecution *ex, TupleTableSlot *slot, int64 time)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	reject(ex, slot,
		   psprintf("event time of a record is too far in the future: %s",
					time_text(ex, time)),
		   psprintf("The micro-batch's time is %s, and the stream's max_future %s. "
					"To allow such times, set the stream's option max_future to a greater interval, or to null for any time.",
					timestamptz_to_str(ex->plan->batch_time),
					interval_text(sagg_max_future(ex->stream))));
	MemoryContextSwitchTo(old);
}

/*
 * Returns whether a row's event time is valid.  If not, its record is
 * rejected.
 */
bool
sagg_check_event_time(SaggExecution *ex, TupleTableSlot *slot, int64 time)
{
	if (TIMESTAMP_NOT_FINITE(time))
	{
		reject(ex, slot, "event time of a record is infinite",
			   "It would belong to no window, and move the watermark past all others.");
		return false;
	}
	if (time > ex->latest_time)
	{
		reject_far_time(ex, slot, time);
		return false;
	}
	return true;
}

/*
 * Reject the record of a row whose window cannot be represented.
 */
void
sagg_reject_window(SaggExecution *ex, TupleTableSlot *slot, int64 time)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	reject(ex, slot, psprintf("window of event time %s is out of range",
							  time_text(ex, time)), NULL);
	MemoryContextSwitchTo(old);
}

/*
 * Reject the record of a row whose session gap has no certain length.
 */
void
sagg_reject_gap(SaggExecution *ex, TupleTableSlot *slot, const Interval *gap)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	reject(ex, slot, psprintf("session gap of a record has no fixed length: %s",
							  DatumGetCString(DirectFunctionCall1(interval_out,
																  IntervalPGetDatum(gap)))),
		   "It must not contain months or years, whose length varies, and must not be out of range.");
	MemoryContextSwitchTo(old);
}

static Size
key_bytes(const SaggCodec *codec, Datum value)
{
	if (codec->len == -1)
		return toast_raw_datum_size(value) - VARHDRSZ;
	if (codec->len == -2)
		return strlen(DatumGetCString(value));
	return codec->len;
}

/*
 * Returns whether the keys of a new group are short enough.
 */
bool
sagg_keys_fit(const SaggExecution *ex, const Datum *keys, const bool *nulls)
{
	Size		total = 0;

	if (ex->max_key_bytes == 0)
		return true;
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		if (!nulls[i])
			total += MAXALIGN(key_bytes(&ex->keys[i].codec, keys[i]));
	}
	return total <= ex->max_key_bytes;
}

/*
 * Reject the record of a row whose keys are too long; names the longest.  Its event
 * time has counted.
 */
void
sagg_reject_keys(SaggExecution *ex, TupleTableSlot *slot, const Datum *keys,
				 const bool *nulls)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	int			longest = 0;
	Size		bytes = 0;

	for (int i = 0; i < ex->query->nkeys; i++)
	{
		Size		len = nulls[i] ? 0 : key_bytes(&ex->keys[i].codec, keys[i]);

		if (len > bytes)
		{
			longest = i;
			bytes = len;
		}
	}
	if (ex->query->has_event_time)
		sagg_classify(ex, slot, SAGG_CLASS_TIME_ONLY);
	reject(ex, slot,
		   psprintf("grouping key \"%s\" of a record is too long: %zu bytes",
					ex->query->keys[longest].name, bytes),
		   psprintf("The keys of a group can have %zu bytes together, because an index of the sink holds them.",
					ex->max_key_bytes));
	MemoryContextSwitchTo(old);
}
