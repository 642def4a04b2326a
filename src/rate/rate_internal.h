/*-------------------------------------------------------------------------
 *
 * rate_internal.h
 *	  What the files of rate/ share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_RATE_INTERNAL_H
#define SAGG_RATE_INTERNAL_H

#include "source_kinds.h"

#define SAGG_MAX_RATE			INT64CONST(1000000000)
#define SAGG_MAX_RAMP_MS		(INT64CONST(30) * 24 * 3600 * 1000)

/*
 * A sequence of rows 0, 1, 2, ...: it only says which rows exist at a given
 * time, so two sources of the same definition have the same rows.
 */
typedef struct SaggRate
{
	int64		rows_per_second;
	int64		start_ms;		/* time of row 0, since 1970 */
	int64		ramp_ms;		/* length of the ramp-up from rate 0, in ms */
	int32		partitions;		/* row v is at offset v / partitions of
								 * partition v % partitions */
} SaggRate;

/* rate_rows.c */
extern int64 sagg_rate_time(const SaggRate *rate, int64 row);
extern int64 sagg_rate_rows_until(const SaggRate *rate, int64 time_ms);
extern int64 sagg_rate_offset(const SaggRate *rate, int32 partition, int64 row);
extern int64 sagg_rate_now(void);

/* rate_options.c */
extern void sagg_rate_of_source(Oid source, SaggRate *rate);
extern char *sagg_rate_topic(const SaggRate *rate);

/* rate_reader.c; see source.h */
extern void sagg_rate_open(SaggReader *base, List *sources);
extern void sagg_rate_close(SaggReader *base);
extern const char *sagg_rate_identity(SaggReader *base);
extern SaggRange *sagg_rate_bounds(SaggReader *base, int *npartitions);
extern void sagg_rate_offsets_at(SaggReader *base, TimestampTz time,
								 SaggRange *bounds, int nbounds);
extern void sagg_rate_assign(SaggReader *base, const SaggRange *positions,
							 int npositions);
extern bool sagg_rate_has_records(SaggReader *base);
extern long sagg_rate_rest(SaggReader *base, long interval_ms, long timeout_ms);
extern void sagg_rate_begin(SaggReader *base, const SaggRange *ranges, int nranges);
extern bool sagg_rate_collect(SaggReader *base);
extern void sagg_rate_release(SaggReader *base);

typedef struct SaggRatePartition
{
	int32		topic;
	int32		partition;
	int64		position;		/* offset of the next row that is in no batch */
	const SaggRate *rate;
} SaggRatePartition;

typedef struct SaggRateTopic
{
	int32		topic;
	SaggRate	rate;
} SaggRateTopic;

typedef struct SaggRateReader
{
	SaggReader	base;
	int			ntopics;
	SaggRateTopic *topics;
	int			npartitions;	/* number of partitions that were assigned */
	SaggRatePartition *partitions;
	int			nranges;		/* of the batch */
	SaggRange  *ranges;
	bool		complete;		/* the batch has them */
} SaggRateReader;

#endif							/* SAGG_RATE_INTERNAL_H */
