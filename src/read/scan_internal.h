/*-------------------------------------------------------------------------
 *
 * scan_internal.h
 *	  What the files behind the scan callbacks ask of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SCAN_INTERNAL_H
#define SAGG_SCAN_INTERNAL_H

#include "read/read_internal.h"

/*
 * The part of the source a scan reads; both ends of both ranges belong to it,
 * and of topics those that are in every one of the lists of names.
 */
typedef struct SaggScanLimits
{
	List	   *topics;			/* of lists of strings */
	int64		min_partition;
	int64		max_partition;
	int64		min_offset;
	int64		max_offset;
	const SaggRestriction *restriction; /* or NULL */
} SaggScanLimits;

/* scan_mark.c; the beginning of marks is in read.h */
extern SaggScanMark *sagg_scan_marked;
extern int32 sagg_marked_topic;
extern void sagg_mark_topic(int32 topic);

/*
 * The scan is at this record now.
 */
static inline void
sagg_mark_record(const SaggRecord *record)
{
	if (unlikely(record->topic != sagg_marked_topic))
		sagg_mark_topic(record->topic);
	sagg_scan_marked->partition = record->partition;
	sagg_scan_marked->offset = record->offset;
}

/*
 * It is at none.
 */
static inline void
sagg_mark_no_record(void)
{
	sagg_scan_marked->partition = -1;
}

/* scan_limits.c */
extern bool sagg_scan_limits(List *bounds, List *expressions, ExprContext *context,
							 SaggScanLimits *limits);

/* scan_restriction.c */
extern const SaggRestriction *sagg_scan_restriction(Oid source, uint64 *number);
extern bool sagg_restriction_stands(uint64 number);
extern bool sagg_restrict_range(const SaggRestriction *restriction, SaggRange *range);
extern bool sagg_restriction_skips(const SaggRestriction *restriction,
								   const SaggRecord *record);

/* scan_reader.c */
typedef struct SaggScanReader SaggScanReader;

extern SaggScanReader *sagg_scan_reader_open(Oid source, Oid user,
											 bool want_headers);
extern void sagg_scan_reader_start(SaggScanReader *scan,
								   const SaggScanLimits *limits);
extern bool sagg_scan_reader_next(SaggScanReader *scan, SaggRecord *record);
extern void sagg_scan_reader_close(SaggScanReader *scan);

/* shared_scan.c; the begin and end of sharing are in read.h */
typedef struct SaggSharedScan SaggSharedScan;

extern SaggSharedScan *sagg_shared_scan_begin(Relation rel, const SaggLayout *layout,
											  const Bitmapset *used, SaggDecoder *decoder);
extern bool sagg_shared_seek(SaggSharedScan *scan, int64 number,
							 SaggRecord *record);
extern bool sagg_shared_find(SaggSharedScan *scan, Datum *values, bool *isnull,
							 SaggVerdict *verdict);
extern SaggVerdict sagg_shared_decode(SaggSharedScan *scan, int64 number,
									  const SaggRecord *record, Datum *values,
									  bool *isnull, SaggRecordError *why);
extern void sagg_shared_scan_end(SaggSharedScan *scan);

/* record_metadata.c */
extern Datum sagg_record_metadata(SaggFieldKind kind, Oid type,
								  const SaggRecord *record, bool *isnull);
extern bool sagg_try_metadata(SaggFieldKind kind, Oid type,
							  const SaggRecord *record, Datum *value,
							  bool *isnull, SaggRecordError *why);
extern Datum sagg_record_timestamp(const SaggRecord *record, bool *isnull);
extern bool sagg_headers_fit(const rd_kafka_headers_t *headers);
extern Datum sagg_headers_jsonb(const rd_kafka_headers_t *headers, bool lenient);

#endif							/* SAGG_SCAN_INTERNAL_H */
