/*-------------------------------------------------------------------------
 *
 * rate_rows.c
 *	  Computes when each row of a rate source comes, and how many have come by
 *	  a time.
 *
 * Until the end of the ramp-up the rate grows evenly from 0, so that after t
 * ms of r ms there are rate * t * t / (2 * r) rows; from then on rows come at
 * the rate.  It uses integer arithmetic only: a row has the same time on every
 * machine and in every run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "rate_internal.h"

/* rows that take longer never come */
#define LAST_SECOND			INT64CONST(1000000000000)

/*
 * Returns the greatest integer whose square is not greater than a number.
 */
static int64
integer_root(uint64 square)
{
	uint64		root = (uint64) sqrt((double) square);

	while (root * root > square)
		root--;
	while ((root + 1) * (root + 1) <= square)
		root++;
	return (int64) root;
}

/*
 * Returns how many rows come before the end of the ramp-up.
 */
static int64
ramp_rows(const SaggRate *rate)
{
	return (int64) ((int128) rate->rows_per_second * rate->ramp_ms / 2000);
}

/*
 * Returns the time of a row, in milliseconds since 1970; PG_INT64_MAX for a
 * row that comes too late to matter.
 */
int64
sagg_rate_time(const SaggRate *rate, int64 row)
{
	int64		before = ramp_rows(rate);

	if (row / rate->rows_per_second > LAST_SECOND)
		return PG_INT64_MAX;
	if (row < before)
		return rate->start_ms +
			integer_root((uint64) ((int128) 2000 * rate->ramp_ms * row / rate->rows_per_second));
	row -= before;
	return rate->start_ms + rate->ramp_ms + row / rate->rows_per_second * 1000 +
		row % rate->rows_per_second * 1000 / rate->rows_per_second;
}

/*
 * Returns the number of rows whose time is "time_ms" or before.
 */
int64
sagg_rate_rows_until(const SaggRate *rate, int64 time_ms)
{
	int64		before = ramp_rows(rate);
	int128		next = (int128) time_ms - rate->start_ms + 1;	/* ms, exclusive */
	int128		rows;

	if (next <= 0)
		return 0;
	if (next <= rate->ramp_ms)
	{
		int128		twice = (int128) 2000 * rate->ramp_ms;

		rows = (next * next * rate->rows_per_second + twice - 1) / twice;
		return (int64) Min(rows, before);
	}
	next -= rate->ramp_ms;
	rows = before + (next * rate->rows_per_second + 999) / 1000;
	return (int64) Min(rows, PG_INT64_MAX / 2);
}

/*
 * Returns the offset in a partition of the first of its rows that is "row" or
 * later, which is how many of its rows come before "row".
 */
int64
sagg_rate_offset(const SaggRate *rate, int32 partition, int64 row)
{
	return row <= partition ? 0 :
		(row - partition + rate->partitions - 1) / rate->partitions;
}

/*
 * Returns the time of the clock, in milliseconds since 1970.
 */
int64
sagg_rate_now(void)
{
	return GetCurrentTimestamp() / 1000 - SAGG_EPOCH_MS;
}
