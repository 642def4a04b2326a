/*-------------------------------------------------------------------------
 *
 * serialized_state.c
 *	  Verifies that bytes are what one of the server's serialize functions
 *	  makes of a state.
 *
 * The server's deserialize functions are made for parallel plans, and trust
 * what they read: they verify that there are enough bytes, not that a digit is
 * one, or that a weight can be allocated.  So this is verified before they are
 * called.
 *
 * This file knows the functions of numeric.c, which serialize sums of numeric
 * and of integers: int64 count, one sum or two, and for numeric further
 * fields.  A sum is int32 number of digits, weight, sign and display scale,
 * and int16 digits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/fmgroids.h"

#include "execute/execute_internal.h"

/* as in numeric.c */
#define SIGN_POSITIVE	0x0000
#define SIGN_NEGATIVE	0x4000
#define DIGIT_BASE		10000

/* more than the digits of any sum of squares of numerics */
#define MAX_DIGITS		(4 * (131072 + 16383) / 4)
#define MAX_SCALE		(4 * 16383)

/* What follows the count. */
static const struct
{
	Oid			deserialfn;
	int			sums;
	int			rest;			/* number of bytes at the end */
}			known[] =

{
	/*
	 * int32 scale, int64 numbers of values with it, of NaN, and of either
	 * infinity
	 */
	{F_NUMERIC_AVG_DESERIALIZE, 1, 4 + 4 * 8},
	{F_NUMERIC_DESERIALIZE, 2, 4 + 4 * 8},
	{F_INT8_AVG_DESERIALIZE, 1, 0},
	{F_NUMERIC_POLY_DESERIALIZE, 2, 0}
};

static void
check_sum(StringInfo buf)
{
	int32		ndigits = (int32) pq_getmsgint(buf, 4);
	int32		weight = (int32) pq_getmsgint(buf, 4);
	int32		sign = (int32) pq_getmsgint(buf, 4);
	int32		scale = (int32) pq_getmsgint(buf, 4);

	if (ndigits < 0 || ndigits > MAX_DIGITS || weight < -MAX_DIGITS || weight > MAX_DIGITS ||
		(sign != SIGN_POSITIVE && sign != SIGN_NEGATIVE) || scale < 0 || scale > MAX_SCALE)
		sagg_codec_corrupt("A sum is invalid.");
	for (int32 i = 0; i < ndigits; i++)
	{
		if (pq_getmsgint(buf, 2) >= DIGIT_BASE)
			sagg_codec_corrupt("A sum has an invalid digit.");
	}
}

/*
 * Returns whether sagg_serialized_check can verify the input of a deserialize
 * function.
 */
bool
sagg_serialized_is_known(Oid function)
{
	for (int i = 0; i < lengthof(known); i++)
	{
		if (known[i].deserialfn == function)
			return true;
	}
	return false;
}

/*
 * Verify bytes for a deserialize function; for an unknown function, verifies
 * nothing.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT, or what reading too far
 * raises.
 */
void
sagg_serialized_check(Oid function, const char *data, Size len)
{
	StringInfoData buf = {.data = unconstify(char *, data), .len = (int) len, .maxlen = (int) len};

	for (int i = 0; i < lengthof(known); i++)
	{
		if (known[i].deserialfn != function)
			continue;
		(void) pq_getmsgint64(&buf);
		for (int sum = 0; sum < known[i].sums; sum++)
			check_sum(&buf);
		(void) pq_getmsgbytes(&buf, known[i].rest);
		if (buf.cursor != buf.len)
			sagg_codec_corrupt("A sum is followed by bytes that do not belong to it.");
	}
}
