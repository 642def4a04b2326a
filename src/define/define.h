/*-------------------------------------------------------------------------
 *
 * define.h
 *	  What a source and a stream are: catalog rows, analysis of the query.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_DEFINE_H
#define SAGG_DEFINE_H

#include "stream_agg.h"

#include "fmgr.h"
#include "utils/jsonb.h"

/* stream_catalog.c */
extern void sagg_stream_update(const SaggStream *stream, const char *assignments,
							   int nargs, Oid *types, Datum *values);
extern SaggStream *sagg_stream_by_name(const char *name, bool missing_ok);
extern SaggStream *sagg_stream_by_view(Oid view, bool missing_ok);
extern SaggStream *sagg_stream_of_sink(Oid sink);

/* dead_letters_delete.c */
extern void sagg_tell_none_kept(const SaggStream *stream, const char *table);

extern void sagg_stream_check_can_run(Oid owner);

/* stream_trust.c */
extern void sagg_stream_check_owner(const SaggStream *stream);
extern SaggStream *sagg_own_stream_now(Oid view);
extern void sagg_stream_lock_sink(const SaggStream *stream);
extern bool sagg_stream_trust_lasts(const SaggStream *stream);
extern void sagg_trust_init(void);

/* live_view.c */
extern Oid	sagg_live_view(const SaggStream *stream);
extern bool sagg_live_view_shows(const SaggStream *stream, Oid role,
								 TupleDesc output);

/* source_def.c, tumble.c, starting_offsets.c: arguments of SQL functions */
extern char *sagg_text_argument(FunctionCallInfo fcinfo, int n);
extern char *sagg_required_argument(FunctionCallInfo fcinfo, int n,
									const char *name);
extern int64 sagg_interval_length(const Interval *interval, const char *what);
extern char *sagg_starting_offsets_check(const char *text, const char *what);
extern char *sagg_offsets_argument(FunctionCallInfo fcinfo, int n, const char *what);

/* starting_offsets.c: where a stream begins to read */
typedef enum SaggStartKind
{
	SAGG_START_EARLIEST,
	SAGG_START_LATEST,
	SAGG_START_OFFSETS,			/* offsets of some partitions; others:
								 * earliest */
	SAGG_START_TIME				/* the first records of that time or later */
} SaggStartKind;

/* offsets that stand for others, as in Spark and librdkafka */
#define SAGG_OFFSET_EARLIEST	(-2)
#define SAGG_OFFSET_LATEST		(-1)

typedef struct SaggStart
{
	SaggStartKind kind;
	TimestampTz time;
	int			noffsets;
	SaggRange  *offsets;		/* offset in "start", or one of the above */
} SaggStart;

extern SaggStart *sagg_starting_offsets(const char *text);

/* first_offsets.c */
struct SaggReader;
extern SaggRange *sagg_first_ranges(struct SaggReader *reader,
									const char *starting_offsets, int *n);

/* query_analyze.c */
extern SaggQuery *sagg_query_analyze(Query *query, const char *event_time,
									 SaggOutputMode mode, bool has_watermark,
									 const SaggStreamOptions *options);
extern SaggQuery *sagg_query_of_view(const SaggStream *stream);

/* query_dealing.c */
extern char *sagg_query_undealt(const SaggQuery *query, const char *reader);

/* kept_query.c */
typedef struct SaggKeptQuery SaggKeptQuery;
extern SaggQuery *sagg_kept_query(SaggKeptQuery **kept, const SaggStream *stream,
								  MemoryContext memory);

/* stream_options.c: of a stream that is only tried */
extern void sagg_stream_options_of_json(Jsonb *json, SaggStreamOptions *options);
extern void sagg_stream_options_check(const SaggStream *stream,
									  const SaggQuery *query);

/* query_text.c: a query that has no stream */
extern SaggQuery *sagg_query_of_text(const char *text, bool any_mode,
									 SaggStream *stream);
extern bool sagg_is_name(const char *text);

#endif							/* SAGG_DEFINE_H */
