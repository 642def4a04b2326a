/*-------------------------------------------------------------------------
 *
 * inline_numeric.c
 *	  Exact sums of numeric and int8 as scaled 128-bit integers.
 *
 * A sum is unscaled / 10^scale, where scale is the greatest display scale
 * seen, as it is in the server's own accumulator.  So sum and avg come out
 * digit for digit as those of the server.  A value that does not fit - NaN,
 * infinities, too many digits, a sum beyond 128 bits - is declined and the sum
 * stays unchanged; inline_aggregate.c then continues with the server's
 * functions.
 *
 * A numeric is read from its stored form (numeric_form.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "execute/execute_internal.h"
#include "execute/numeric_form.h"
#include "powers_of_ten.h"

/* of a numeric */
#define DIGIT_BASE			10000	/* a stored digit */
#define DIGIT_POWER			4	/* decimal digits in it */

/*
 * Compute value * 10^power; returns false if that does not fit.
 */
static bool
scale_up(int128 *value, int power)
{
	while (power > 0)
	{
		int			step = Min(power, SAGG_INT64_POWER);
		int128		factor = sagg_powers_of_ten[step];

		if (*value != (int64) *value &&
			(*value > SAGG_INT128_MAX / factor || *value < -(SAGG_INT128_MAX / factor)))
			return false;
		*value *= factor;
		power -= step;
	}
	return true;
}

/*
 * Read the number in a stored numeric, as unscaled / 10^scale with its display
 * scale.  Returns false if it is not a number, or might not fit.
 */
static inline bool
read_numeric(const char *data, Size len, int128 *value, int *scale)
{
	uint16		header;
	NumericHead head;
	const char *end = data + len;
	int			ndigits;
	int			power;
	uint64		n = 0;
	int128		result;

	memcpy(&header, data, sizeof(header));
	if ((header & SIGN_MASK) == SIGN_SPECIAL)
		return false;
	data = read_numeric_head(data, header, &head);
	*scale = head.scale;
	ndigits = (int) (end - data) / (int) sizeof(int16);
	*value = 0;
	if (*scale > SAGG_SUM_DIGITS)
		return false;
	if (ndigits == 0)
		return true;

	/* power of ten of the last stored digit, in units of the display scale */
	power = (head.weight - ndigits + 1) * DIGIT_POWER + *scale;
	if (ndigits * DIGIT_POWER + Max(power, 0) > SAGG_SUM_DIGITS || power <= -DIGIT_POWER)
		return false;
	if (ndigits <= DIGIT_POWER)
	{
		for (; data < end; data += sizeof(int16))
		{
			int16		digit;

			memcpy(&digit, data, sizeof(digit));
			n = n * DIGIT_BASE + digit;
		}
		if (power < 0)
		{
			if (n % sagg_powers_of_ten[-power] != 0)
				return false;
			n /= sagg_powers_of_ten[-power];
			power = 0;
		}
		result = n;
	}
	else
	{
		for (result = 0; data < end; data += sizeof(int16))
		{
			int16		digit;

			memcpy(&digit, data, sizeof(digit));
			result = result * DIGIT_BASE + digit;
		}
		if (power < 0)
		{
			if (result % sagg_powers_of_ten[-power] != 0)
				return false;
			result /= sagg_powers_of_ten[-power];
			power = 0;
		}
	}
	for (; power > 0; power -= Min(power, SAGG_INT64_POWER))
		result *= sagg_powers_of_ten[Min(power, SAGG_INT64_POWER)];
	*value = head.negative ? -result : result;
	return true;
}

/*
 * Add a value that is not NULL, of type numeric.  Returns false, and changes
 * nothing, if the value or the sum does not fit.
 */
bool
sagg_sum_add_numeric(SaggSum *sum, Datum datum)
{
	struct varlena *stored = (struct varlena *) DatumGetPointer(datum);
	int128		value;
	int128		total = sum->unscaled;
	int			scale;

	if (VARATT_IS_EXTERNAL(stored) || VARATT_IS_COMPRESSED(stored))
		return false;
	if (!read_numeric(VARDATA_ANY(stored), VARSIZE_ANY_EXHDR(stored), &value, &scale))
		return false;
	if (scale < sum->scale)
	{
		if (!scale_up(&value, sum->scale - scale))
			return false;
	}
	else if (scale > sum->scale && !scale_up(&total, scale - sum->scale))
		return false;
	if (__builtin_add_overflow(total, value, &total))
		return false;
	sum->unscaled = total;
	sum->scale = Max(sum->scale, scale);
	sum->n++;
	return true;
}

/*
 * Add an int8.  Returns false if the sum does not fit.
 */
bool
sagg_sum_add_int8(SaggSum *sum, int64 value)
{
	if (__builtin_add_overflow(sum->unscaled, (int128) value, &sum->unscaled))
		return false;			/* only after 2^64 values; the sum is lost */
	sum->n++;
	return true;
}

/*
 * Add all values of another sum.  Returns false, and changes nothing, if the
 * result does not fit.
 */
bool
sagg_sum_add_sum(SaggSum *sum, const SaggSum *other)
{
	int128		value = other->unscaled;
	int128		total = sum->unscaled;

	if (other->scale < sum->scale)
	{
		if (!scale_up(&value, sum->scale - other->scale))
			return false;
	}
	else if (!scale_up(&total, other->scale - sum->scale))
		return false;
	if (__builtin_add_overflow(total, value, &total))
		return false;
	sum->unscaled = total;
	sum->scale = Max(sum->scale, other->scale);
	sum->n += other->n;
	return true;
}

/*
 * Returns the sum as numeric, in the current context.
 */
Datum
sagg_sum_numeric(const SaggSum *sum)
{
	char		text[SAGG_SUM_DIGITS * 2 + 8];
	char	   *p = text + sizeof(text);
	uint128		rest = sum->unscaled < 0 ? -(uint128) sum->unscaled : (uint128) sum->unscaled;

	if (sum->unscaled == (int64) sum->unscaled)
		return NumericGetDatum(int64_div_fast_to_numeric((int64) sum->unscaled, sum->scale));

	*--p = '\0';
	for (int digits = 0; rest > 0 || digits <= sum->scale; digits++)
	{
		if (digits == sum->scale && digits > 0)
			*--p = '.';
		*--p = '0' + (int) (rest % 10);
		rest /= 10;
	}
	if (sum->unscaled < 0)
		*--p = '-';
	return DirectFunctionCall3(numeric_in, CStringGetDatum(p),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}
