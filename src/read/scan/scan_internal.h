/*-------------------------------------------------------------------------
 *
 * scan_internal.h
 *	  What the files behind the scan callbacks share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SCAN_INTERNAL_H
#define SAGG_SCAN_INTERNAL_H

#include "nodes/execnodes.h"
#include "read/read_internal.h"

/*
 * The part of the source that a scan reads; both ends of both ranges are
 * included, and topics must be in every one of the lists of names.
 */
typedef struct SaggScanLimits
{
	List	   *topics;			/* list of lists of strings */
	int64		min_partition;
	int64		max_partition;
	int64		min_offset;
	int64		max_offset;
	bool		has_time;
	TimestampTz min_time;		/* least timestamp of the record, if
								 * "has_time" */
	const SaggRestriction *restriction; /* or NULL */
	bool		lenient;		/* records that cannot be decompressed are
								 * left out */
} SaggScanLimits;

/* scan_mark.c; the beginning of marks is in read.h */
extern SaggScanMark *sagg_scan_marked;
extern int32 sagg_marked_topic;
extern void sagg_mark_topic(int32 topic);

/*
 * The scan is reading this record now.
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
 * The scan is reading no record.
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
typedef struct SaggMetadataColumn
{
	int			index;			/* index into the slot's values */
	SaggFieldKind kind;
	Oid			type;			/* type below domains */
	Oid			domain;			/* InvalidOid if the column has none */
	void	   *domain_cache;	/* in context */
	MemoryContext context;
	bool		early;			/* conditions tested before decoding need it */
} SaggMetadataColumn;

extern void sagg_metadata_column_init(SaggMetadataColumn *column, int index,
									  SaggFieldKind kind, Oid type);
extern void sagg_fill_metadata(SaggMetadataColumn *columns, int n, bool early,
							   const SaggRecord *record, Datum *values, bool *isnull);
extern bool sagg_try_fill_metadata(SaggMetadataColumn *columns, int n,
								   bool early, const SaggRecord *record,
								   Datum *values, bool *isnull,
								   SaggRecordError *why);
extern Datum sagg_record_timestamp(const SaggRecord *record, bool *isnull);
extern bool sagg_headers_fit(const SaggRecord *record);
extern Datum sagg_headers_jsonb(const SaggRecord *record, bool lenient);

typedef struct SaggNullWatch SaggNullWatch;

/* A scan of a source, for fdw_scan.c and scan_record.c. */
typedef struct SaggSourceScan
{
	Oid			source;
	uint64		attachment;		/* number of the attachment of its batch, 0 =
								 * none */
	SaggDecoder *decoder;
	SaggSharedScan *shared;		/* rows shared with other streams of the
								 * batch, or NULL */
	int			nmetadata;
	SaggMetadataColumn *metadata;
	int			error;			/* the column "error", -1 = it is not read */
	SaggScanErrors on_error;	/* option of a query; fail for batches and
								 * repairs */
	bool		decodes;		/* false: columns only need metadata */
	bool		ignores_tombstones;
	SaggNullWatch *watch;		/* of a batch, NULL = nothing to watch */
	bool		want_headers;
	bool		want_record;	/* metadata other than the position is needed */
	List	   *bounds;			/* see SAGG_SCAN_BOUNDS */
	List	   *expressions;	/* their ExprStates, in the same order */
	bool		started;
	bool		empty;			/* a condition is NULL, so there are no rows */
	SaggRecordId base;			/* id of record number 0 */
	int64		next;			/* number of the next record */
	SaggRecord	record;			/* the current record */
	SaggBatchCursor *cursor;	/* cursor of the attached batch, or NULL */
	int64		loaded;			/* number of records it has returned */
	SaggRejections *rejections; /* for records that do not decode, or NULL */
	const SaggTopics *topics;	/* topics of the source, if the batch has
								 * those of others, too; or NULL */
	int32		topic;			/* the topic last looked up, -1 = none */
	bool		topic_is_ours;
	SaggScanReader *reader;		/* reader of this scan, or NULL */
	const SaggRestriction *restriction; /* restriction of what that reads, or
										 * NULL */
	uint64		restriction_number;
} SaggSourceScan;

/* null_columns.c */
extern SaggNullWatch *sagg_null_watch(Relation rel, const SaggLayout *layout,
									  const Bitmapset *used);
extern bool sagg_null_watch_row(SaggNullWatch *watch, SaggSourceScan *scan,
								const bool *isnull);

/*
 * Read all of the current record of a batch.  Returns false if there is none.
 */
static inline bool
sagg_scan_load_record(SaggSourceScan *state)
{
	while (state->loaded <= state->next)
	{
		if (!sagg_batch_next(state->cursor, &state->record))
			return false;
		state->loaded++;
	}
	return true;
}

/* scan_record.c */
extern bool sagg_scan_take_record(ForeignScanState *node, SaggSourceScan *state,
								  TupleTableSlot *slot);

#endif							/* SAGG_SCAN_INTERNAL_H */
