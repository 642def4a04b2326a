/*-------------------------------------------------------------------------
 *
 * json_token.cpp
 *	  The JSON tokens that need a closer check: strings with escapes, numbers
 *	  that numeric might not hold.
 *
 * Same rules as json_leaf.cpp: no PostgreSQL, no exceptions (I6), no memory,
 * no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "json_token.h"

#include <cstring>

/* numeric's highest power of ten, and the exponent that numeric_in rejects */
static constexpr int64_t NUMERIC_MAX_POWER = 131071;
static constexpr int64_t NUMERIC_MAX_EXPONENT = INT32_MAX / 2;

/* Returns the value of four hexadecimal digits, or -1. */
static int
hex4(const uint8_t *p, const uint8_t *end)
{
	int			value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		uint8_t		c = p[i];

		value <<= 4;
		if (is_digit(c))
			value |= c - '0';
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			value |= (c | 0x20) - 'a' + 10;
		else
			return -1;
	}
	return value;
}

/* Writes a code point as UTF-8 and returns the end of it. */
static uint8_t *
put_utf8(uint8_t *out, uint32_t c)
{
	if (c < 0x80)
		*out++ = (uint8_t) c;
	else if (c < 0x800)
	{
		*out++ = (uint8_t) (0xc0 | (c >> 6));
		*out++ = (uint8_t) (0x80 | (c & 0x3f));
	}
	else if (c < 0x10000)
	{
		*out++ = (uint8_t) (0xe0 | (c >> 12));
		*out++ = (uint8_t) (0x80 | ((c >> 6) & 0x3f));
		*out++ = (uint8_t) (0x80 | (c & 0x3f));
	}
	else
	{
		*out++ = (uint8_t) (0xf0 | (c >> 18));
		*out++ = (uint8_t) (0x80 | ((c >> 12) & 0x3f));
		*out++ = (uint8_t) (0x80 | ((c >> 6) & 0x3f));
		*out++ = (uint8_t) (0x80 | (c & 0x3f));
	}
	return out;
}

/*
 * Sets the code point of an escape \uXXXX or of a pair of them. *p is behind
 * the first "\u" and is moved behind the escape.  Returns why it is invalid,
 * or null.
 */
static const char *
unicode_escape(const uint8_t **p, const uint8_t *end, uint32_t *codepoint)
{
	int			first = hex4(*p, end);
	int			second;

	if (first < 0)
		return "\\u must be followed by four hexadecimal digits";
	if (first == 0)
		return "\\u0000 cannot be converted to text";
	*p += 4;
	*codepoint = (uint32_t) first;
	if (first < 0xd800 || first > 0xdfff)
		return nullptr;
	if (first < 0xdc00 && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u')
	{
		second = hex4(*p + 2, end);
		if (second >= 0xdc00 && second <= 0xdfff)
		{
			*p += 6;
			*codepoint = 0x10000 + (((uint32_t) first & 0x3ff) << 10) +
				((uint32_t) second & 0x3ff);
			return nullptr;
		}
	}
	return "unpaired Unicode surrogate";
}

/*
 * Validates the escapes of a string's inside [p, end) and, if "out" is not
 * null, writes it without them; out may be p, as text never gets longer, and
 * *out_end is the end of what was written.  Returns null, or why the string is
 * invalid, with *wrong at the escape.
 */
const char *
sagg_json_unescape(const uint8_t *p, const uint8_t *end, uint8_t *out,
				   uint8_t **out_end, const uint8_t **wrong) noexcept
{
	static const char *const invalid = "invalid escape in string";

	for (;;)
	{
		const uint8_t *slash = (const uint8_t *) memchr(p, '\\', (size_t) (end - p));
		size_t		plain = (size_t) ((slash ? slash : end) - p);
		const char *reason;
		uint32_t	c;

		if (out)
		{
			memmove(out, p, plain);
			out += plain;
		}
		if (!slash)
			break;
		*wrong = slash;
		p = slash + 2;
		if (p > end)
			return invalid;
		switch (slash[1])
		{
			case '"':
			case '\\':
			case '/':
				c = slash[1];
				break;
			case 'b':
				c = '\b';
				break;
			case 'f':
				c = '\f';
				break;
			case 'n':
				c = '\n';
				break;
			case 'r':
				c = '\r';
				break;
			case 't':
				c = '\t';
				break;
			case 'u':
				reason = unicode_escape(&p, end, &c);
				if (reason)
					return reason;
				break;
			default:
				return invalid;
		}
		if (out)
			out = put_utf8(out, c);
	}
	if (out)
		*out_end = out;
	return nullptr;
}

static bool
take_digits(int64_t n, int64_t *digits)
{
	*digits -= n;
	return *digits >= 0;
}

/*
 * Returns whether numeric can hold the number.  Its digits before and after
 * the point are given by where they begin and end; the exponent, with its
 * sign, may be null. *digits, less those the exponent stands for, must not
 * become negative.
 */
bool
sagg_json_numeric_holds(const uint8_t *whole, const uint8_t *whole_end,
						const uint8_t *frac, const uint8_t *frac_end,
						const uint8_t *exponent,
						const uint8_t *exponent_end,
						int64_t *digits) noexcept
{
	int64_t		exp = 0;
	int64_t		power;

	if (exponent)
	{
		const uint8_t *p = exponent + !is_digit(*exponent);

		for (; p < exponent_end && exp < NUMERIC_MAX_EXPONENT; p++)
			exp = exp * 10 + (*p - '0');
		if (exp >= NUMERIC_MAX_EXPONENT)
			return false;
		if (*exponent == '-')
			exp = -exp;
	}
	if ((frac_end - frac) - exp > SAGG_NUMERIC_MAX_SCALE)
		return false;
	if (*whole != '0')
		power = (whole_end - whole) - 1;
	else
	{
		const uint8_t *p = frac;

		while (p < frac_end && *p == '0')
			p++;
		if (p == frac_end)
			return exp >= 0 || take_digits(-exp, digits);	/* zero */
		power = frac - p - 1;
	}
	return power + exp <= NUMERIC_MAX_POWER && take_digits(exp < 0 ? -exp : exp, digits);
}
