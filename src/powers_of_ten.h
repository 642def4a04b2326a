/*-------------------------------------------------------------------------
 *
 * powers_of_ten.h
 *	  The powers of ten that an int64 holds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_POWERS_OF_TEN_H
#define SAGG_POWERS_OF_TEN_H

#include "c.h"

/* the greatest power; this many digits always fit an int64 */
#define SAGG_INT64_POWER	18

static const int64 sagg_powers_of_ten[SAGG_INT64_POWER + 1] = {
	INT64CONST(1),
	INT64CONST(10),
	INT64CONST(100),
	INT64CONST(1000),
	INT64CONST(10000),
	INT64CONST(100000),
	INT64CONST(1000000),
	INT64CONST(10000000),
	INT64CONST(100000000),
	INT64CONST(1000000000),
	INT64CONST(10000000000),
	INT64CONST(100000000000),
	INT64CONST(1000000000000),
	INT64CONST(10000000000000),
	INT64CONST(100000000000000),
	INT64CONST(1000000000000000),
	INT64CONST(10000000000000000),
	INT64CONST(100000000000000000),
	INT64CONST(1000000000000000000)
};

#endif							/* SAGG_POWERS_OF_TEN_H */
