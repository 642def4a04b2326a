/*-------------------------------------------------------------------------
 *
 * fast_datum.c
 *	  The short way from values to Datums of the common types, for the values
 *	  that nearly every record has.
 *
 * The short way takes a value only if its result equals that of the long way
 * (record_datum.c), and declines anything else: values that are out of range,
 * unusual or wrong go the long way.  So nothing here raises errors except out
 * of memory, and needs no PG_TRY.
 *
 * Results depend on no setting (DateStyle), except times without a zone in
 * columns of type timestamptz: on TimeZone, which the conversion notes.  Takes
 * no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "powers_of_ten.h"
#include "record_datum.h"

/* integers up to this, and powers of ten up to 10^22, are exact as double */
#define MAX_EXACT_DOUBLE	(INT64CONST(1) << 53)

static inline bool
is_text(const SaggFieldValue *value)
{
	return value->kind == SAGG_FIELD_STRING || value->kind == SAGG_PLAIN_TEXT;
}

/*
 * Reads a JSON number of at most 18 digits and without exponent:
 * unscaled / 10^scale.  The sign of a zero is lost, as in numeric.
 */
static inline bool
read_decimal(const SaggFieldValue *value, int64 *unscaled, int *scale)
{
	const char *p = value->text;
	const char *end = p + value->len;
	const char *point = NULL;
	bool		minus = (*p == '-');
	uint64		n = 0;			/* 19 digits do not overflow it */

	p += minus;
	if (end - p > SAGG_INT64_POWER + 1)
		return false;
	for (; p < end; p++)
	{
		unsigned	digit = (unsigned char) *p - '0';

		if (digit <= 9)
			n = n * 10 + digit;
		else if (*p == '.')
			point = p;
		else
			return false;
	}
	*scale = point ? (int) (end - point - 1) : 0;
	if (!point && value->len - minus > SAGG_INT64_POWER)
		return false;
	*unscaled = minus ? -(int64) n : (int64) n;
	return true;
}

/* numeric, with the typmod's precision and scale if it has one */
static bool
fast_numeric(const SaggFieldValue *value, int32 typmod, Datum *result)
{
	int64		n;
	int			scale;

	if (value->kind != SAGG_FIELD_NUMBER || !read_decimal(value, &n, &scale))
		return false;
	if (typmod >= (int32) VARHDRSZ)
	{
		int			precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
		int			places = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;

		/* rounding, negative scales and overflow go the long way */
		if (places < scale || places > SAGG_INT64_POWER ||
			pg_mul_s64_overflow(n, sagg_powers_of_ten[places - scale], &n))
			return false;
		if (precision <= SAGG_INT64_POWER &&
			(n >= sagg_powers_of_ten[precision] || n <= -sagg_powers_of_ten[precision]))
			return false;
		scale = places;
	}
	*result = NumericGetDatum(int64_div_fast_to_numeric(n, scale));
	return true;
}

/*
 * Makes a float8.  Dividing two exact doubles rounds once, as strtod does.
 */
static bool
fast_float8(const SaggFieldValue *value, Datum *result)
{
	int64		n;
	int			scale;

	if (value->kind != SAGG_FIELD_NUMBER || !read_decimal(value, &n, &scale) ||
		n > MAX_EXACT_DOUBLE || n < -MAX_EXACT_DOUBLE)
		return false;
	*result = Float8GetDatum((double) n / (double) sagg_powers_of_ten[scale]);
	return true;
}

/* Returns a number of "n" decimal digits at p, or -1. */
static inline int
read_digits(const char *p, int n)
{
	int			number = 0;

	while (n-- > 0)
	{
		unsigned	digit = (unsigned char) *p++ - '0';

		if (digit > 9)
			return -1;
		number = number * 10 + digit;
	}
	return number;
}

/* Returns the days since 2000-01-01 of YYYY-MM-DD, years 1 to 9999. */
static inline bool
read_date(const char *p, int *days)
{
	int			year = read_digits(p, 4);
	int			month = read_digits(p + 5, 2);
	int			day = read_digits(p + 8, 2);

	if (p[4] != '-' || p[7] != '-' || year < 1 ||
		month < 1 || month > MONTHS_PER_YEAR ||
		day < 1 || day > day_tab[isleap(year)][month - 1])
		return false;
	*days = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

/*
 * Reads [p, end) as "Z", "+HH", "+HHMM" or "+HH:MM", or with '-' for '+'; sets
 * the microseconds to subtract in order to get UTC.
 */
static inline bool
read_zone(const char *p, const char *end, int64 *offset)
{
	int			hour;
	int			minute = 0;

	if (end - p == 1 && *p == 'Z')
	{
		*offset = 0;
		return true;
	}
	if (end - p < 3 || (*p != '+' && *p != '-'))
		return false;
	hour = read_digits(p + 1, 2);
	if (end - p == 5)
		minute = read_digits(p + 3, 2);
	else if (end - p == 6 && p[3] == ':')
		minute = read_digits(p + 4, 2);
	else if (end - p != 3)
		return false;
	if (hour < 0 || hour > MAX_TZDISP_HOUR || minute < 0 || minute >= MINS_PER_HOUR)
		return false;
	*offset = (hour * MINS_PER_HOUR + minute) * (int64) (60 * USECS_PER_SEC);
	if (*p == '-')
		*offset = -*offset;
	return true;
}

/*
 * Reads YYYY-MM-DD, 'T' or a space, HH:MM:SS, up to six decimals, and a zone,
 * which timestamp ignores.  For timestamptz the session's zone is taken if
 * there is none, and *is_local set.
 */
static bool
read_timestamp(const SaggFieldValue *value, bool with_zone, bool *is_local, Timestamp *result)
{
	static const int fraction_unit[] = {0, 100000, 10000, 1000, 100, 10, 1};
	const char *p = value->text;
	const char *end = p + value->len;
	int			days;
	int			hour;
	int			minute;
	int			second;
	int			fraction = 0;
	int64		offset = 0;

	if (value->len < 19 || !read_date(p, &days) ||
		(p[10] != 'T' && p[10] != ' ') || p[13] != ':' || p[16] != ':')
		return false;
	hour = read_digits(p + 11, 2);
	minute = read_digits(p + 14, 2);
	second = read_digits(p + 17, 2);
	if (hour < 0 || hour >= HOURS_PER_DAY || minute < 0 ||
		minute >= MINS_PER_HOUR || second < 0 || second >= SECS_PER_MINUTE)
		return false;
	p += 19;
	if (p < end && *p == '.')
	{
		int			n = 0;

		p++;
		while (p + n < end && n < 6 && p[n] >= '0' && p[n] <= '9')
			n++;
		if (n == 0)
			return false;
		fraction = read_digits(p, n) * fraction_unit[n];
		p += n;
	}
	second += (hour * MINS_PER_HOUR + minute) * SECS_PER_MINUTE;
	if (p < end)
	{
		if (!read_zone(p, end, &offset))
			return false;
	}
	else if (with_zone)
	{
		offset = sagg_local_offset(days + POSTGRES_EPOCH_JDATE, second) * USECS_PER_SEC;
		*is_local = true;
	}
	*result = days * USECS_PER_DAY + second * USECS_PER_SEC + fraction -
		(with_zone ? offset : 0);
	return IS_VALID_TIMESTAMP(*result);
}

/*
 * Converts nanoseconds since 1970, without decimals, to microseconds, rounding
 * half away from zero.  Those of today have 19 digits.
 */
static bool
read_nanoseconds(const SaggFieldValue *value, int64 *result)
{
	const char *p = value->text;
	const char *end = p + value->len;
	bool		minus = (*p == '-');
	uint64		n = 0;

	p += minus;
	if (end - p > SAGG_INT64_POWER + 1)
		return false;
	for (; p < end; p++)
	{
		unsigned	digit = (unsigned char) *p - '0';

		if (digit > 9)
			return false;
		n = n * 10 + digit;
	}
	n = n / 1000 + (n % 1000 >= 500);
	*result = minus ? -(int64) n : (int64) n;
	return true;
}

/*
 * Converts a time since 1970 with at most as many decimals as make
 * microseconds.
 */
static bool
read_epoch(const SaggFieldValue *value, SaggUnit unit, Timestamp *result)
{
	int			decimals = unit == SAGG_UNIT_S ? 6 : unit == SAGG_UNIT_US ? 0 : 3;
	int64		n;
	int			scale;

	if (unit == SAGG_UNIT_NS)
	{
		if (!read_nanoseconds(value, &n))
			return false;
	}
	else if (!read_decimal(value, &n, &scale) || scale > decimals ||
			 pg_mul_s64_overflow(n, sagg_powers_of_ten[decimals - scale], &n))
		return false;
	return !pg_sub_s64_overflow(n, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
								USECS_PER_DAY, result) &&
		IS_VALID_TIMESTAMP(*result);
}

/* timestamptz and timestamp of full precision */
static bool
fast_timestamp(SaggConversion *conv, const SaggFieldValue *value,
			   bool with_zone, Datum *result)
{
	Timestamp	timestamp;

	conv->is_local = false;
	if (conv->typmod >= 0 && conv->typmod < MAX_TIMESTAMP_PRECISION)
		return false;
	if (is_text(value))
	{
		if (!read_timestamp(value, with_zone, &conv->is_local, &timestamp))
			return false;
	}
	else if (value->kind != SAGG_FIELD_NUMBER ||
			 !read_epoch(value, conv->unit, &timestamp))
		return false;
	*result = TimestampGetDatum(timestamp);
	return true;
}

/*
 * Makes an int2, int4 or int8 within its bounds; the caller makes the Datum.
 * Decimals are rounded as by numeric: half away from zero.
 */
static inline bool
fast_integer(const SaggFieldValue *value, int64 min, int64 max, int64 *n)
{
	int			scale;

	if (value->kind != SAGG_FIELD_NUMBER || !read_decimal(value, n, &scale))
		return false;
	if (scale > 0)
	{
		int64		unit = sagg_powers_of_ten[scale];
		int64		rest = *n % unit;

		*n /= unit;
		if (rest >= unit - rest)
			(*n)++;
		else if (-rest >= unit + rest)
			(*n)--;
	}
	return *n >= min && *n <= max;
}

/*
 * Makes the Datum of a value that is neither missing nor null, in the current
 * memory context, if there is a short way for it; returns false if not.
 * Domains have none.  Sets conv->is_local of times: whether the value depends
 * on TimeZone.  Raises no errors except out of memory.
 */
bool
sagg_convert_fast(SaggConversion *conv, const SaggFieldValue *value,
				  Datum *result)
{
	int64		n;
	int			days;

	if (OidIsValid(conv->domain))
		return false;
	switch (conv->kind)
	{
		case SAGG_TO_BOOL:
			*result = BoolGetDatum(value->kind == SAGG_FIELD_TRUE);
			return value->kind == SAGG_FIELD_TRUE || value->kind == SAGG_FIELD_FALSE;
		case SAGG_TO_INT2:
			if (!fast_integer(value, PG_INT16_MIN, PG_INT16_MAX, &n))
				return false;
			*result = Int16GetDatum((int16) n);
			return true;
		case SAGG_TO_INT4:
			if (!fast_integer(value, PG_INT32_MIN, PG_INT32_MAX, &n))
				return false;
			*result = Int32GetDatum((int32) n);
			return true;
		case SAGG_TO_INT8:
			if (!fast_integer(value, PG_INT64_MIN, PG_INT64_MAX, &n))
				return false;
			*result = Int64GetDatum(n);
			return true;
		case SAGG_TO_FLOAT8:
			return fast_float8(value, result);
		case SAGG_TO_NUMERIC:
			return fast_numeric(value, conv->typmod, result);
		case SAGG_TO_TEXT:
			if (!is_text(value) || GetDatabaseEncoding() != PG_UTF8)
				return false;
			*result = PointerGetDatum(cstring_to_text_with_len(value->text,
															   (int) value->len));
			return true;
		case SAGG_TO_TIMESTAMPTZ:
			return fast_timestamp(conv, value, true, result);
		case SAGG_TO_TIMESTAMP:
			return fast_timestamp(conv, value, false, result);
		case SAGG_TO_DATE:
			if (!is_text(value) || value->len != 10 ||
				!read_date(value->text, &days))
				return false;
			*result = DateADTGetDatum(days);
			return true;
		case SAGG_TO_JSON:
		case SAGG_TO_JSONB:
		case SAGG_TO_RECORD:
			break;
		case SAGG_TO_OTHER:
			if (value->kind != SAGG_BYTES || conv->type != BYTEAOID)
				return false;
			*result = PointerGetDatum(cstring_to_text_with_len(value->text,
															   (int) value->len));
			return true;
	}
	return false;
}
