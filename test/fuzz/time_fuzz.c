/*
 * time_fuzz.c
 *	  Reads texts of times without a zone by the decoder's short way, and has the
 *	  server's input functions of timestamptz and timestamp do it too.
 *
 * Times of any year, of the years that zones have changes in, close to such
 * changes, and runs of times that go on in small steps, as records do.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "read/format/decode.h"
#include "read/format/record_datum.h"
#include "record_maker.h"

PG_FUNCTION_INFO_V1(fuzz_times);

#define SECONDS_OF_YEAR	(INT64CONST(31556952))
#define UNIX_YEAR		1970

/* Returns seconds since 1970, as a local time, within years. */
static pg_time_t
any_time(RecordMaker *maker, int first, int last)
{
	return (first - UNIX_YEAR + (int) record_random(maker, last - first)) * SECONDS_OF_YEAR +
		record_random(maker, SECONDS_OF_YEAR);
}

/* Returns a local time up to a day and some hours from a change, or any. */
static pg_time_t
time_at_change(RecordMaker *maker, const pg_tz *zone)
{
	pg_time_t	time = any_time(maker, 1850, 2500);
	pg_time_t	boundary;
	long int	before;
	long int	after;
	int			isdst;
	int			span = record_random(maker, 2) ? 2 * SECS_PER_HOUR : 30 * SECS_PER_HOUR;

	if (pg_next_dst_boundary(&time, &before, &isdst, &boundary, &after, &isdst, zone) <= 0)
		return time;
	time = boundary + (record_random(maker, 2) ? before : after);
	/* in one of four the very second */
	return record_random(maker, 4) ? time + (int) record_random(maker, 2 * span) - span : time;
}

static pg_time_t
next_time(RecordMaker *maker, const pg_tz *zone, pg_time_t last)
{
	switch (record_random(maker, 6))
	{
		case 0:
			return any_time(maker, 1, 9999);
		case 1:
			return any_time(maker, 1850, 2100);
		case 2:
		case 3:
			return time_at_change(maker, zone);
		default:
			return last + (int) record_random(maker, 2 * SECS_PER_HOUR) - SECS_PER_HOUR / 2;
	}
}

/* Returns a text of a local time; NULL for a year that texts do not have. */
static char *
time_text(RecordMaker *maker, pg_time_t time)
{
	static const char *const fractions[] = {"", ".0", ".000", ".123", ".999999", ".5"};
	int			days = (int) ((time - ((time % SECS_PER_DAY) + SECS_PER_DAY) % SECS_PER_DAY) / SECS_PER_DAY);
	int			second = (int) (time - (pg_time_t) days * SECS_PER_DAY);
	int			year;
	int			month;
	int			day;

	j2date(days + UNIX_EPOCH_JDATE, &year, &month, &day);
	if (year < 1 || year > 9999)
		return NULL;
	return psprintf("%04d-%02d-%02d%c%02d:%02d:%02d%s", year, month, day, record_random(maker, 2) ? 'T' : ' ',
					second / SECS_PER_HOUR, second / SECS_PER_MINUTE % MINS_PER_HOUR, second % SECS_PER_MINUTE,
					fractions[record_random(maker, lengthof(fractions))]);
}

/* Returns whether the short way takes a text and gives what the server gives. */
static bool
same(SaggConversion *conv, char *text)
{
	SaggFieldValue value = {0};
	Datum		got;
	Datum		expected = InputFunctionCall(&conv->input, text, conv->ioparam, -1);

	value.kind = SAGG_FIELD_STRING;
	value.text = text;
	value.len = strlen(text);
	return sagg_convert_fast(conv, &value, &got) && DatumGetTimestamp(got) == DatumGetTimestamp(expected) &&
		conv->is_local == (conv->type == TIMESTAMPTZOID);
}

/*
 * fuzz_times(zone text, seed bigint, n int) returns text: the first text of n
 * that is read otherwise, NULL if there is none.
 */
Datum
fuzz_times(PG_FUNCTION_ARGS)
{
	RecordMaker maker = {0};
	pg_tz	   *save = session_timezone;
	pg_tz	   *zone = pg_tzset(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	SaggConversion with_zone;
	SaggConversion without;
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "fuzz times", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	pg_time_t	time = 0;
	char	   *found = NULL;

	if (zone == NULL || !pg_tz_acceptable(zone))
		PG_RETURN_NULL();
	sagg_conversion_init(&with_zone, TIMESTAMPTZOID, -1, InvalidOid);
	sagg_conversion_init(&without, TIMESTAMPOID, -1, InvalidOid);
	maker.state = (uint64_t) PG_GETARG_INT64(1);
	session_timezone = zone;
	for (int i = 0; i < PG_GETARG_INT32(2) && found == NULL; i++)
	{
		char	   *text;

		MemoryContextReset(memory);
		MemoryContextSwitchTo(memory);
		time = next_time(&maker, zone, time);
		text = time_text(&maker, time);
		MemoryContextSwitchTo(old);
		if (text && (!same(&with_zone, text) || !same(&without, text)))
			found = pstrdup(text);
	}
	session_timezone = save;
	if (found == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(found));
}
