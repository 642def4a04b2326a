/*-------------------------------------------------------------------------
 *
 * define_internal.h
 *	  What the files of define/ ask of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_DEFINE_INTERNAL_H
#define SAGG_DEFINE_INTERNAL_H

#include "define/define.h"

#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"

/* 1970-01-01 00:00 UTC as a TimestampTz */
#define SAGG_EPOCH \
	((TimestampTz) (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)

/* tumble.c */
extern int64 sagg_interval_length(const Interval *interval, const char *what);
extern int64 sagg_window_size(const Interval *size);

/* query_checks.c: refusals by the shape of the query */
extern void sagg_check_query_shape(const Query *query);
extern void sagg_check_query_mode(const SaggQuery *result, SaggOutputMode mode,
								  bool has_watermark);

/* query_source.c */
extern Oid	sagg_find_source(Query *query, bool *joined);
extern Var *sagg_source_record(Query *query);
extern Node *sagg_event_time_column(Query *query, const char *name);

/* query_window.c */
extern bool sagg_match_window(Node *groupexpr, SaggWindow *window,
							  Node **windowexpr, Node **eventtime);

/* query_outer.c */
typedef struct SaggGroupColumn
{
	Node	   *expr;			/* of the stream's query, level 0 */
	Var		   *var;			/* column of SAGG_ENR_GROUPS */
} SaggGroupColumn;

extern void sagg_build_outer(SaggQuery *result, const Query *query,
							 List *columns);
extern List *sagg_collect_aggregates(const Query *query);

#endif							/* SAGG_DEFINE_INTERNAL_H */
