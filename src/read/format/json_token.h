/*-------------------------------------------------------------------------
 *
 * json_token.h
 *	  Checks of JSON tokens, for json_leaf.cpp only.
 *
 * C++ without PostgreSQL; nothing here throws or allocates (I6).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_JSON_TOKEN_H
#define SAGG_JSON_TOKEN_H

#include <cstdint>

/* numeric's greatest number of decimal places */
static constexpr int64_t SAGG_NUMERIC_MAX_SCALE = 16383;

static inline bool
is_space(uint8_t c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static inline bool
is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

extern const char *sagg_json_unescape(const uint8_t *p, const uint8_t *end,
									  uint8_t *out, uint8_t **out_end,
									  const uint8_t **wrong) noexcept;
extern bool sagg_json_numeric_holds(const uint8_t *whole, const uint8_t *whole_end,
									const uint8_t *frac, const uint8_t *frac_end,
									const uint8_t *exponent,
									const uint8_t *exponent_end,
									int64_t *digits) noexcept;

/* Returns the end of the digits from p on. */
static inline const uint8_t *
skip_digits(const uint8_t *p, const uint8_t *end)
{
	while (p < end && is_digit(*p))
		p++;
	return p;
}

/*
 * Checks that [start, end) is a number as JSON writes it and numeric holds it,
 * and subtracts the digits that its exponent stands for from the allowed rest.
 * Returns why it is invalid, or null.
 */
static inline const char *
sagg_json_check_number(const uint8_t *const start, const uint8_t *end,
					   int64_t *digits)
{
	const uint8_t *whole = start + (*start == '-');
	const uint8_t *p = skip_digits(whole, end);
	const uint8_t *whole_end = p;
	const uint8_t *frac = p;
	const uint8_t *frac_end = p;
	const uint8_t *exponent = nullptr;
	bool		ok = p > whole && (*whole != '0' || p == whole + 1);

	if (ok && p < end && *p == '.')
	{
		frac = p + 1;
		p = frac_end = skip_digits(frac, end);
		ok = frac_end > frac;
	}
	if (ok && p < end && (*p | 0x20) == 'e')
	{
		exponent = p + 1;
		p = exponent + (exponent < end && (*exponent == '-' || *exponent == '+'));
		ok = p < end && is_digit(*p);
		p = skip_digits(p, end);
	}
	if (!ok || p != end)
		return "invalid number";
	if ((exponent || end - start > SAGG_NUMERIC_MAX_SCALE) &&
		!sagg_json_numeric_holds(whole, whole_end, frac, frac_end, exponent, end, digits))
		return *digits < 0 ? "the exponents of its numbers stand for too many digits" :
			"number is out of range for numeric";
	return nullptr;
}

#endif							/* SAGG_JSON_TOKEN_H */
