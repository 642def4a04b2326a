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

/* stream_catalog.c */
extern void sagg_stream_update(const SaggStream *stream, const char *assignments,
							   int nargs, Oid *types, Datum *values);
extern SaggStream *sagg_stream_by_name(const char *name, bool missing_ok);
extern SaggStream *sagg_stream_by_view(Oid view, bool missing_ok);

extern void sagg_stream_check_owner(const SaggStream *stream);
extern void sagg_stream_check_can_run(Oid owner);

/* query_analyze.c */
extern SaggQuery *sagg_query_analyze(Query *query, const char *event_time,
									 SaggOutputMode mode, bool has_watermark,
									 bool name_records);
extern SaggQuery *sagg_query_of_view(const SaggStream *stream);

#endif							/* SAGG_DEFINE_H */
