/*-------------------------------------------------------------------------
 *
 * define_internal.h
 *	  What the files of define/ share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_DEFINE_INTERNAL_H
#define SAGG_DEFINE_INTERNAL_H

#include "checkpoint/checkpoint.h"
#include "control/control.h"
#include "define/define.h"
#include "event_time/event_time.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "utils/jsonb.h"

/* tumble.c */
extern int64 sagg_window_size(const Interval *size);
extern int64 sagg_tumble_size(const Interval *size);
extern void sagg_check_window_time(TimestampTz ts, TimestampTz origin);
pg_noreturn extern void sagg_window_out_of_range(void);
extern Datum sagg_make_window(FunctionCallInfo fcinfo, TimestampTz start,
							  TimestampTz end);
extern int64 sagg_window_slide(const Interval *slide);

/* session_window.c */
extern int64 sagg_session_gap(const Interval *gap);

/* query_lasting.c */
extern void sagg_check_lasting(Oid view);

/* query_checks.c: rejections by the shape of the query */
extern void sagg_check_query_shape(const Query *query, SaggQueryKind kind);
extern void sagg_check_no_temporary(const Query *query);
extern void sagg_check_query_mode(const SaggQuery *result, SaggOutputMode mode,
								  bool has_watermark);
extern void sagg_check_rows_options(const SaggStreamOptions *options);
extern void sagg_check_key(const SortGroupClause *clause, Oid type,
						   const char *name);
extern void sagg_check_direct_arguments(const Aggref *aggref);

/* query_source.c */
extern int	sagg_count_sources(Node *node);
extern void sagg_leave_children_out(Query *query);
extern List *sagg_find_sources(Query *query, bool always, bool ordered,
							   Var **record, bool *reordered);

/* query_record.c */
extern Var *sagg_carry_record(Query *query);
extern Node *sagg_event_time_column(Query *query, const char *name);

/* query_analyze.c */
extern void sagg_flatten_aliases(Query *query);
extern char *sagg_expression_name(const Query *query, const TargetEntry *tle,
								  char *unnamed);

/* query_rows.c: queries that do not aggregate */
extern SaggQueryKind sagg_query_kind(const Query *query);
extern void sagg_take_rows(SaggQuery *result, const Query *query, List *inner,
						   const Var *record);

/* query_hop.c */
extern FuncExpr *sagg_hop_of_rte(const RangeTblEntry *rte);
extern void sagg_take_hop_from_lateral(Query *query);
extern void sagg_check_select_list_srfs(const Query *query);
extern void sagg_settle_panes(SaggQuery *result, bool per_partition);

/* query_reads.c: what a query reads besides its source */
extern void sagg_check_reads(const SaggQuery *query);
extern void sagg_check_sink_not_read(const SaggQuery *query, Oid sink);

/* what row_number() in a query is usually for */
#define HINT_ONE_ROW_OF_EACH_KEY \
	"For the first row of each key, as by row_number() and WHERE rn = 1, use DISTINCT ON (key) with event_time and watermark; for the last, GROUP BY key and stream_agg.last(value, time)."

/* query_window.c */
extern bool sagg_is_hop(Oid funcid);
extern bool sagg_match_window(Node *groupexpr, SaggWindow *window,
							  Node **windowexpr, Node **eventtime);
extern void sagg_spell_out_bounds(Query *query);

/* query_trunc.c */
extern bool sagg_match_truncation(const Query *query, Node *groupexpr, SaggWindow *window,
								  Node **eventtime, char **hint);

/*
 * query_groups.c: what an expression of the stream's query becomes over the
 * rows of SAGG_ENR_GROUPS.
 */
typedef struct SaggGroupColumn
{
	Node	   *expr;			/* of the stream's query, level 0 */
	char	   *name;			/* for messages, and as column name */
	int			keyno;			/* 0 = window, 1.. = keys, -1 = aggregate */
} SaggGroupColumn;

extern List *sagg_collect_aggregates(const Query *query);
extern Node *sagg_over_groups(const Query *query, List *columns, Node *node);

/* query_outer.c */
extern void sagg_build_outer(SaggQuery *result, const Query *query,
							 List *columns);

/* query_fingerprint.c */
extern uint64 sagg_query_fingerprint(const SaggQuery *query);
extern void sagg_query_identify(SaggQuery *query);

/* the arguments of create_stream */
typedef struct SaggStreamArguments
{
	RangeVar   *name;
	char	   *query;
	bool		has_watermark;
	int64		watermark_delay;	/* microseconds */
	char	   *event_time;		/* or NULL */
	SaggOutputMode mode;
	int64		trigger;		/* microseconds */
	RangeVar   *sink;			/* or NULL */
	char	   *starting_offsets;
	int64		max_offsets;	/* 0 = none */
	bool		start;
	bool		if_not_exists;
	SaggStreamOptions options;
	char	   *reader;			/* or NULL */
} SaggStreamArguments;

/* stream_arguments.c */
extern SaggStreamArguments *sagg_stream_arguments(FunctionCallInfo fcinfo);
extern int64 sagg_duration_argument(FunctionCallInfo fcinfo, int n,
									const char *name);
extern Datum sagg_interval_datum(int64 length);

/* stream_create.c */
extern RawStmt *sagg_parse_query(const char *text);
extern Oid	sagg_make_query_view(const char *stream, char *schema, char *name,
								 const char *text, List *options);
extern void sagg_check_query(const SaggStream *stream, const SaggQuery *query);

/* stream_options.c */
extern void sagg_stream_options_read(List *list, SaggStreamOptions *options);
extern void sagg_check_option_name(const char *name);
extern Datum sagg_stream_options_jsonb(const SaggStreamOptions *options);
extern void sagg_check_max_future(const SaggStream *stream,
								  const SaggQuery *query);
extern void sagg_check_watermark_options(const SaggStream *stream,
										 const SaggQuery *query);
extern void sagg_check_group(const SaggStream *stream, const SaggQuery *query);
extern void sagg_check_min_offsets(const SaggStreamOptions *options,
								   int64 max_offsets);

/* stream_start_stop.c */
extern void sagg_tell_if_failed(const SaggStream *stream);
extern void sagg_retry_now(Oid view);

/* stream_delivery.c */
extern void sagg_check_delivery(const SaggStream *stream, const SaggQuery *query);

/* stream_catalog.c */
extern RangeVar *sagg_parse_name(const char *name, const char *what);
extern char *sagg_stream_key(const RangeVar *name);
extern char *sagg_stream_view_name(const RangeVar *name);
extern bool sagg_stream_has_name(const SaggStream *stream, const RangeVar *name);
extern SaggStream *sagg_stream_by_key(const char *key);
extern SaggStream *sagg_stream_of_source(Oid source);
extern SaggStream *sagg_stream_beside(const SaggStream *stream);
extern List *sagg_views_beside(const SaggStream *stream);
extern void sagg_execute_latest(const char *command, int nargs, Oid *types,
								Datum *values, int result);
extern SaggStream *sagg_stream_of_sink_now(Oid sink);
extern bool sagg_may_see_streams(Oid owner);

/* stream_reader.c */
extern void sagg_check_reader(const SaggStream *stream);
extern bool sagg_take_reader_settings(SaggStream *stream, const SaggStream *from);

/* source_change.c */
extern void sagg_tell_source_change(const Node *command);

/* stream_trust.c */
extern ArrayType *sagg_stream_trusted_owners(Oid view);
extern void sagg_stream_lock_owners(const SaggStream *stream);

/* stream_drop.c */
extern void sagg_drop_relation(Oid relid, ObjectType type);
extern bool sagg_delete_orphan(const char *stream);
extern void sagg_delete_leftovers(const char *stream);

/* stream_requery.c */
extern List *sagg_view_options(Oid view);

/* live_view.c */
extern void sagg_drop_live_view(const SaggStream *stream);
extern void sagg_refresh_live_view(const SaggStream *stream, TupleDesc before,
								   List *added);

/* query_change.c: from one query of a stream to another */
typedef struct SaggQueryChange
{
	List	   *added;			/* columns of the new query, by number */
	List	   *removed;		/* names of columns of the old one */
	List	   *old_names;		/* names of columns of the old one that
								 * continue */
	List	   *renamed;		/* as these columns of the new one, by number */
	int		   *origins;		/* by aggregate of the new query, the
								 * aggregate of the old one whose state it
								 * continues; -1 = none */
	int			new_aggregates; /* aggregates that are not in the old one */
	List	   *filled;			/* columns among "added" that were filled from
								 * the state */
	int64		rows_filled;	/* how many rows were filled */
} SaggQueryChange;

extern SaggQueryChange *sagg_compare_queries(const SaggStream *stream,
											 const SaggQuery *old, Oid new_view,
											 const SaggQuery *new);

/* column_fill.c */
struct SaggExecution;
extern bool sagg_may_fill_columns(const SaggStream *stream, const SaggQuery *query);
extern List *sagg_fill_columns(const SaggStream *stream, const SaggQuery *query,
							   const SaggQueryChange *change,
							   struct SaggExecution *execution, int64 *rows);
extern void sagg_tell_filled_columns(const SaggStream *stream, const SaggQuery *query,
									 const SaggQueryChange *change);

/* reset_range.c: what a reset computes again */
typedef struct SaggResetRange
{
	SaggReadBefore before;
	bool		by_window;		/* rows of earlier windows are kept */
	bool		force;			/* rows may be lost */
	bool		dry_run;		/* nothing is reset: what would be rejected is
								 * only reported, and "windows" is filled */
	TimestampTz passed;			/* the watermark that the reset leaves;
								 * DT_NOBEGIN = that of a new stream */
	int64		start;			/* start of the first window, if "passed" is a
								 * time */
	const char *start_text;		/* that start for messages; NULL = all windows */
	int64		rows;			/* number of rows of the sink that it
								 * overwrites */
	int64		lost;			/* those of them that may have records before
								 * the offsets */
	int64		from;			/* value that identifies the first window of
								 * "rows", and */
	int64		from_whole;		/* of the first window without records before
								 * the offsets */
	struct Tuplestorestate *windows;	/* rows with the columns
										 * "windows_desc": what reset_stream
										 * returns */
	TupleDesc	windows_desc;
} SaggResetRange;

extern void sagg_reset_range(const SaggStream *stream, SaggCheckpoint *checkpoint,
							 const TimestampTz *results_from,
							 SaggResetRange *range);

/* reset_windows.c */
extern void sagg_reset_windows(const SaggStream *stream, const SaggQuery *query,
							   const SaggResetRange *range);

/* stream_requery.c */
extern void sagg_change_query(SaggStream *stream, const char *text, bool drop_columns);

/* parse_text.c */
extern void sagg_text_errors_begin(ErrorContextCallback *callback,
								   const char *text);
extern void sagg_text_errors_end(ErrorContextCallback *callback);
extern List *sagg_parse_text(const char *text);

/* source_columns.c */
extern List *sagg_parse_columns(const char *columns, bool by_name, bool any_case,
								char **text);

/* source_server.c */
extern char *sagg_server_of_brokers(const char *brokers, List *options);
extern void sagg_check_server_of_brokers(const char *name);
extern List *sagg_options_from_json(Jsonb *json, bool nulls);

#endif							/* SAGG_DEFINE_INTERNAL_H */
