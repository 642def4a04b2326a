/*-------------------------------------------------------------------------
 *
 * json_token.h
 *	  The insides of JSON tokens, for json_leaf.cpp only.
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
									const uint8_t *exponent_end) noexcept;

#endif							/* SAGG_JSON_TOKEN_H */
