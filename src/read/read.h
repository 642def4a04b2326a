/*-------------------------------------------------------------------------
 *
 * read.h
 *	  Stage 1, READ: bounded ranges of the records of one or more topics.
 *
 * A reader reads sources of one kind (source.h) and has the records of at most
 * one batch.  It lives outside of transactions and memory contexts, and is
 * closed at process exit at the latest.  None of its functions takes a
 * snapshot or needs a transaction except sagg_reader_open, which reads
 * catalogs and contacts nobody. "waits" in a comment means: on the process
 * latch and Kafka, up to stream_agg.kafka_timeout, with interrupts served.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_READ_H
#define SAGG_READ_H

#include "batch_context.h"
#include "source_kinds.h"

#include "foreign/foreign.h"

#define SAGG_TOPIC_SIZE			(SAGG_MAX_TOPIC_NAME + 1)

/*
 * The record that a scan of the attached batch is reading, for inspection
 * after the process has crashed.
 */
typedef struct SaggScanMark
{
	char		topic[SAGG_TOPIC_SIZE];
	volatile int32 partition;	/* -1 = none */
	volatile int64 offset;
} SaggScanMark;

/*
 * source_kinds.c: kinds of sources, and functions that call the kind of a
 * reader.  The comment of a function says whether it may wait.
 */
extern const SaggSourceKind *sagg_source_kind_of_brokers(void);
extern const SaggSourceKind *sagg_source_kind_of_wrapper(const ForeignDataWrapper *wrapper);
extern bool sagg_is_source(Oid relid);
extern SaggReader *sagg_reader_open(List *sources, bool want_headers);
extern void sagg_reader_close(SaggReader *reader);
extern pgsocket sagg_reader_fd(SaggReader *reader);
extern const char *sagg_reader_subject(SaggReader *reader);
extern const char *sagg_reader_title(SaggReader *reader);
extern const char *sagg_reader_one_topic(SaggReader *reader);
extern const char *sagg_reader_topic_option(SaggReader *reader);
extern bool sagg_reader_loses_nothing(SaggReader *reader);
extern bool sagg_reader_sources_changed(SaggReader *reader, List *sources);
extern bool sagg_reader_has_topic(SaggReader *reader, int32 topic);
extern void sagg_reader_on_wait(SaggReader *reader, void (*check) (void *arg),
								void *arg);

extern const char *sagg_reader_trouble(SaggReader *reader);
extern bool sagg_reader_in_trouble(SaggReader *reader, long *timeout_ms);
extern char *sagg_reader_silence(SaggReader *reader, TimestampTz since);

/* the first two never wait, the last may */
extern bool sagg_reader_last_record(SaggReader *reader, const SaggRange *range,
									SaggRange *last);
extern bool sagg_reader_was_broken(SaggReader *reader);
extern bool sagg_reader_suspects(SaggReader *reader, const SaggRange *last,
								 int nlast);
extern void sagg_reader_verify(SaggReader *reader, SaggRange *last, int nlast);

/*
 * wait: cluster id; low and high watermark of every partition; the first
 * offsets of a time
 */
extern const char *sagg_reader_cluster_id(SaggReader *reader);
extern SaggRange *sagg_reader_bounds(SaggReader *reader, int *npartitions);
extern void sagg_reader_offsets_at(SaggReader *reader, TimestampTz time,
								   SaggRange *bounds, int nbounds);

/* never wait */
extern void sagg_reader_assign(SaggReader *reader, const SaggRange *positions,
							   int npositions);
extern bool sagg_reader_has_records(SaggReader *reader);
extern long sagg_reader_rest(SaggReader *reader, long interval_ms,
							 long timeout_ms);
extern bool sagg_reader_partitions_changed(SaggReader *reader);
extern void sagg_reader_begin(SaggReader *reader, const SaggRange *ranges,
							  int nranges);
extern int64 sagg_reader_gap_end(SaggReader *reader, const SaggRange *range);
extern int64 sagg_reader_pass_gap(SaggReader *reader, const SaggRange *range);
extern bool sagg_reader_collect(SaggReader *reader);
extern bool sagg_reader_hears(SaggReader *reader);
extern void sagg_reader_collect_ahead(SaggReader *reader);
extern SaggBatch *sagg_reader_batch(SaggReader *reader);
extern void sagg_reader_release(SaggReader *reader);
extern void sagg_reader_give_back(SaggReader *reader);
extern void sagg_reader_keep_headers(SaggReader *reader);

/* scan_reader.c */
extern void sagg_reader_await(SaggReader *reader);

extern void sagg_reader_skips_lost(SaggReader *reader);
extern const SaggRange *sagg_reader_losses(SaggReader *reader, int *nlosses);

extern void sagg_reader_skips_unreadable(SaggReader *reader, bool skips);

/* schema_registry.c: waits, for the registry of the records' schemas */
extern int	sagg_reader_look_up_schemas(SaggReader *reader, bool whole);

/* consumer groups: never wait, and raise no error */
extern bool sagg_group_allowed(Oid source, Oid owner, const char *group,
							   const char *stream);
extern void sagg_group_check(Oid source, Oid owner, const char *group,
							 const char *stream);
extern void sagg_reader_set_group(SaggReader *reader, const char *group,
								  const char *stream);
extern void sagg_reader_commit(SaggReader *reader, const SaggRange *positions,
							   int npositions);
extern long sagg_reader_tend_group(SaggReader *reader, long timeout_ms);

/* batch.c */
extern int64 sagg_batch_records(const SaggBatch *batch);
extern const SaggRange *sagg_batch_runs(SaggBatch *batch, int *nruns);

/* fdw_scan.c: scans of an attached batch, see batch_context.h */
extern bool sagg_scan_last_record(SaggPlace *place);
extern void sagg_scan_error_context(void *arg);

/* scan_mark.c */
extern void sagg_scan_mark(SaggScanMark *mark);
extern void sagg_scan_mark_select(bool own);
extern void sagg_scan_marks_none(void);

/* null_columns.c */
extern char *sagg_null_columns(List *sources);

/*
 * shared_rows.c: such scans, of several streams or of one query, decode each
 * record once
 */
extern void sagg_shared_rows_begin(const SaggBatch *batch, List *streams);
extern void sagg_shared_rows_end(void);

/* scan_restriction.c: what scans of a source read, instead of all of it */
typedef struct SaggRestriction
{
	List	   *sources;
	int			nranges;
	SaggRange  *ranges;
	int			nleft_out;		/* records within them, sorted */
	SaggPlace  *left_out;
	bool		lenient;		/* records that do not decode are left out,
								 * too */
} SaggRestriction;

extern void sagg_restriction_sort(SaggPlace *places, int nplaces);

/* rejected_reader.c */
typedef struct SaggRejectedReader SaggRejectedReader;

extern SaggRejectedReader *sagg_rejected_open(SaggBatch *batch, SaggRejection *list,
											  int64 count);
extern bool sagg_rejected_next(void *reader, SaggDivertedRecord *letter);
extern void sagg_rejected_close(SaggRejectedReader *reader);
extern void sagg_batch_locate(SaggBatch *batch, SaggRecordId record, SaggPlace *place);

/* ranges.c */
extern void sagg_ranges_share(SaggRange *ranges, int nranges, int64 limit,
							  int64 rotation);

/* delivery.c: results of a stream that go to a source */

/* topic_sample.c: describes records of a topic */
typedef struct SaggSample SaggSample;

extern SaggSample *sagg_sample_make(void);
extern void sagg_sample_add(SaggSample *sample, const char *value, Size len,
							const char *key, Size key_len);
extern int64 sagg_sample_records(const SaggSample *sample);
extern int64 sagg_sample_tombstones(const SaggSample *sample);
extern const char *sagg_sample_format(const SaggSample *sample);
extern char *sagg_sample_summary(const SaggSample *sample);
extern char *sagg_sample_columns(SaggSample *sample);

/* source_topics.c */
extern bool sagg_sources_by_topic(List *sources);

/* source_layout.c */
extern void sagg_source_check(Oid relid);

/* source_options.c */
extern bool sagg_format_has_names(const char *format);
extern bool sagg_format_any_case(const char *format);

#endif							/* SAGG_READ_H */
