/*-------------------------------------------------------------------------
 *
 * avro_value.c
 *	  Converts single values of Avro's binary encoding, with their logical
 *	  types, to the text from which Datums are made.
 *
 * Every value is checked, whether it is wanted or not, so that the validity of
 * a record does not depend on the query.  See avro_walk.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/int.h"
#include "common/shortest_dec.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "avro.h"

/* decimals of more bytes are rejected */
#define MAX_DECIMAL_BYTES	512

static bool
fail(AvroReader *reader, const char *reason)
{
	if (reader->reason == NULL)
		reader->reason = reason;
	return false;
}

static bool
append_date(int64 days, StringInfo out)
{
	char		text[MAXDATELEN + 1];
	struct pg_tm tm = {0};
	int64		date;

	if (pg_sub_s64_overflow(days, POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE, &date) ||
		date < DATETIME_MIN_JULIAN - POSTGRES_EPOCH_JDATE || date >= DATE_END_JULIAN - POSTGRES_EPOCH_JDATE)
		return false;
	j2date((int) date + POSTGRES_EPOCH_JDATE, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	EncodeDateOnly(&tm, USE_ISO_DATES, text);
	if (out)
		appendStringInfoString(out, text);
	return true;
}

/* Returns microseconds of a day. */
static bool
append_time(int64 time, StringInfo out)
{
	if (time < 0 || time > USECS_PER_DAY)
		return false;
	if (out)
		appendStringInfo(out, "%02d:%02d:%02d.%06d", (int) (time / USECS_PER_HOUR),
						 (int) (time / USECS_PER_MINUTE % MINS_PER_HOUR),
						 (int) (time / USECS_PER_SEC % SECS_PER_MINUTE),
						 (int) (time % USECS_PER_SEC));
	return true;
}

/* Returns microseconds since 1970, in UTC if "zone". */
static bool
append_timestamp(int64 unix_time, bool zone, StringInfo out)
{
	char		text[MAXDATELEN + 1];
	struct pg_tm tm;
	fsec_t		fsec;
	Timestamp	timestamp;
	int			utc = 0;

	if (pg_sub_s64_overflow(unix_time, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
							USECS_PER_DAY, &timestamp) ||
		!IS_VALID_TIMESTAMP(timestamp) ||
		timestamp2tm(timestamp, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	tm.tm_isdst = 0;			/* there is a zone */
	EncodeDateTime(&tm, fsec, zone, utc, NULL, USE_ISO_DATES, text);
	if (out)
		appendStringInfoString(out, text);
	return true;
}

/* Converts nanoseconds to microseconds, rounding half away from zero. */
static int64
microseconds(int64 nanoseconds)
{
	int64		rest = nanoseconds % 1000;

	return nanoseconds / 1000 + (rest >= 500) - (rest <= -500);
}

/*
 * Converts a number to a date or time; returns false if it is out of range.
 */
static bool
append_logical(AvroLogical logical, int64 n, StringInfo out)
{
	bool		zone = logical <= AVRO_L_TIMESTAMP_NANOS;

	switch (logical)
	{
		case AVRO_L_DATE:
			return append_date(n, out);
		case AVRO_L_TIME_MILLIS:
			return n <= PG_INT32_MAX && append_time(n * 1000, out);
		case AVRO_L_TIME_MICROS:
			return append_time(n, out);
		case AVRO_L_TIMESTAMP_MILLIS:
		case AVRO_L_LOCAL_MILLIS:
			return !pg_mul_s64_overflow(n, 1000, &n) && append_timestamp(n, zone, out);
		case AVRO_L_TIMESTAMP_MICROS:
		case AVRO_L_LOCAL_MICROS:
			return append_timestamp(n, zone, out);
		case AVRO_L_TIMESTAMP_NANOS:
		case AVRO_L_LOCAL_NANOS:
			return append_timestamp(microseconds(n), zone, out);
		default:
			return false;
	}
}

static bool
take_number(AvroReader *reader, const AvroNode *node, bool as_number,
			SaggJsonKind *kind, StringInfo out)
{
	int64		n;

	if (!sagg_avro_take_long(reader, &n))
		return false;
	if (node->type == AVRO_T_INT && (n < PG_INT32_MIN || n > PG_INT32_MAX))
		return fail(reader, "an int has more than 32 bits");
	*kind = SAGG_FIELD_NUMBER;
	if (node->logical == AVRO_L_NONE || as_number)
	{
		if (out)
			appendStringInfo(out, INT64_FORMAT, n);
		return true;
	}
	*kind = SAGG_FIELD_STRING;
	return append_logical(node->logical, n, out) || fail(reader, "a date or time is out of range");
}

static bool
take_digits(AvroReader *reader, int digits)
{
	return sagg_avro_expand(reader, digits, "its numbers stand for too many digits");
}

static bool
take_float(AvroReader *reader, const AvroNode *node, SaggJsonKind *kind,
		   StringInfo out)
{
	int			size = node->type == AVRO_T_FLOAT ? 4 : 8;
	uint64		bits = 0;
	float		single;
	double		number;
	char		text[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (reader->end - reader->p < size)
		return fail(reader, "it ends too early");
	for (int i = 0; i < size; i++)
		bits |= (uint64) (uint8) reader->p[i] << (8 * i);
	reader->p += size;
	if (size == 4)
	{
		uint32		half = (uint32) bits;

		memcpy(&single, &half, sizeof(single));
		number = single;
	}
	else
		memcpy(&number, &bits, sizeof(number));
	*kind = isfinite(number) ? SAGG_FIELD_NUMBER : SAGG_FIELD_STRING;
	if (isfinite(number) && number != 0 && !take_digits(reader, abs(ilogb(number)) * 3 / 10))
		return false;
	if (out == NULL)
		return true;
	if (isnan(number))
		strcpy(text, "NaN");
	else if (isinf(number))
		strcpy(text, number > 0 ? "Infinity" : "-Infinity");
	else if (size == 4)
		float_to_shortest_decimal_buf(single, text);
	else
		double_to_shortest_decimal_buf(number, text);
	appendStringInfoString(out, text);
	return true;
}

/*
 * Writes a whole number of at most MAX_DECIMAL_BYTES, two's complement with
 * its highest byte first, as decimal digits without sign, at least "least" of
 * them.
 */
static char *
decimal_digits(const uint8 *bytes, int len, bool minus, int least)
{
	uint32		words[MAX_DECIMAL_BYTES / sizeof(uint32)];	/* most significant
															 * digits first */
	int			nwords = (len + 3) / 4;
	int			first = 0;

	/*
	 * a byte has less than 2.5 digits, and nine digits are written at a time
	 */
	int			size = len * 5 / 2 + 9 + least;
	char	   *digits = palloc(size + 1);
	char	   *p = digits + size;
	uint64		carry = 1;

	for (int i = 0, byte = len - 4 * nwords; i < nwords; i++)
	{
		words[i] = 0;
		for (int j = 0; j < 4; j++, byte++)
			words[i] = words[i] << 8 | (byte < 0 ? (minus ? 0xff : 0) : bytes[byte]);
	}
	for (int i = nwords - 1; minus && i >= 0; i--)
	{
		carry += (uint32) ~words[i];
		words[i] = (uint32) carry;
		carry >>= 32;
	}
	*p = '\0';
	for (;;)
	{
		uint64		rest = 0;

		while (first < nwords && words[first] == 0)
			first++;
		if (first == nwords)
			break;
		for (int i = first; i < nwords; i++)
		{
			rest = rest << 32 | words[i];
			words[i] = (uint32) (rest / 1000000000);
			rest %= 1000000000;
		}
		for (int i = 0; i < 9; i++, rest /= 10)
			*--p = (char) ('0' + rest % 10);
	}
	while (*p == '0')
		p++;
	least -= digits + size - p;
	if (least > 0)
	{
		p -= least;
		memset(p, '0', least);
	}
	return p;
}

static bool
take_decimal(AvroReader *reader, const AvroNode *node, Size len,
			 SaggJsonKind *kind, StringInfo out)
{
	const uint8 *bytes = (const uint8 *) reader->p;
	bool		minus = len > 0 && (bytes[0] & 0x80);
	char	   *digits;
	int			whole;

	reader->p += len;
	if (len > MAX_DECIMAL_BYTES)
		return fail(reader, "a decimal is too long");
	if (!take_digits(reader, node->scale))
		return false;
	*kind = SAGG_FIELD_NUMBER;
	if (out == NULL)
		return true;
	digits = decimal_digits(bytes, len, minus, node->scale + 1);
	whole = (int) strlen(digits) - node->scale;
	if (minus)
		appendStringInfoChar(out, '-');
	appendBinaryStringInfo(out, digits, whole);
	if (node->scale > 0)
		appendStringInfo(out, ".%s", digits + whole);
	return true;
}

static bool
take_bytes(AvroReader *reader, const AvroNode *node, SaggJsonKind *kind,
		   StringInfo out)
{
	const char *bytes;
	Size		len = node->size;

	if (node->type == AVRO_T_FIXED)
	{
		if (reader->end - reader->p < node->size)
			return fail(reader, "it ends too early");
	}
	else if (!sagg_avro_take_length(reader, &len))
		return false;
	if (node->logical == AVRO_L_DECIMAL)
		return take_decimal(reader, node, len, kind, out);
	bytes = reader->p;
	reader->p += len;
	*kind = node->type == AVRO_T_STRING || node->logical == AVRO_L_UUID ? SAGG_FIELD_STRING : SAGG_BYTES;
	if (node->type == AVRO_T_STRING && !pg_verify_mbstr(PG_UTF8, bytes, (int) len, true))
		return fail(reader, "a string is not UTF-8 text, or has a NUL in it");
	if (out == NULL)
		return true;
	if (node->logical == AVRO_L_UUID)
	{
		for (Size i = 0; i < len; i++)
			appendStringInfo(out, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
							 (uint8) bytes[i]);
	}
	else
		appendBinaryStringInfo(out, bytes, (int) len);
	return true;
}

static bool
take_boolean(AvroReader *reader, SaggJsonKind *kind, StringInfo out)
{
	if (reader->p >= reader->end)
		return fail(reader, "it ends too early");
	if (*reader->p != 0 && *reader->p != 1)
		return fail(reader, "a boolean is neither false nor true");
	*kind = *reader->p++ ? SAGG_FIELD_TRUE : SAGG_FIELD_FALSE;
	if (out)
		appendStringInfoString(out, *kind == SAGG_FIELD_TRUE ? "true" : "false");
	return true;
}

/*
 * Takes a value that is not a container; appends its text, in UTF-8, or its
 * bytes to "out" unless that is NULL, and returns its kind.  Dates and times
 * are strings, or with "as_number" the numbers they are written as.
 */
bool
sagg_avro_scalar(AvroReader *reader, const AvroNode *node, bool as_number,
				 SaggJsonKind *kind, StringInfo out)
{
	int64		symbol;

	switch (node->type)
	{
		case AVRO_T_NULL:
			*kind = SAGG_FIELD_NULL;
			if (out)
				appendStringInfoString(out, "null");
			return true;
		case AVRO_T_BOOLEAN:
			return take_boolean(reader, kind, out);
		case AVRO_T_INT:
		case AVRO_T_LONG:
			return take_number(reader, node, as_number, kind, out);
		case AVRO_T_FLOAT:
		case AVRO_T_DOUBLE:
			return take_float(reader, node, kind, out);
		case AVRO_T_ENUM:
			if (!sagg_avro_take_long(reader, &symbol))
				return false;
			if (symbol < 0 || symbol >= node->n)
				return fail(reader, "a branch or symbol is not in the schema");
			*kind = SAGG_FIELD_STRING;
			if (out)
				appendStringInfoString(out, node->names[symbol]);
			return sagg_avro_expand(reader, (int) strlen(node->names[symbol]), "its symbols stand for too many bytes");
		default:
			return take_bytes(reader, node, kind, out);
	}
}
