/*-------------------------------------------------------------------------
 *
 * source_kinds.h
 *	  The registered kinds of sources, and functions that kinds of this library call
 *	  directly: the services of source.h, and more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SOURCE_KINDS_H
#define SAGG_SOURCE_KINDS_H

#include "stream_agg.h"

#include "foreign/fdwapi.h"

/* read/source_services.c */
PGDLLEXPORT extern const SaggSourceServices *stream_agg_register_source(const SaggSourceKind *kind);

/* read/source_kinds.c */
extern const SaggSourceKind *sagg_source_kind(Oid relid);
extern char *sagg_source_wrapper(Oid relid);

/*
 * Functions of a kind of sink (sink.h) whose sinks are sources (read/delivery.c).
 */
extern void sagg_delivery_check(const SaggSinkStream *stream, const SaggSinkRows *rows);
extern void *sagg_delivery_open(const SaggSinkStream *stream);
extern void sagg_delivery_begin(void *sink, const SaggSinkRows *rows, int64 batch);
extern void sagg_delivery_close(void *sink);

/* read/scan/fdw.c */
extern FdwRoutine *sagg_source_routine(const SaggSourceKind *kind);

/*
 * Options of foreign tables (read/scan/source_info.c), and those of sources whose
 * records have a format (read/scan/source_options.c).
 */
extern char *sagg_find_option(List *options, const char *name);
extern List *sagg_mapping_options(Oid server, Oid user);
extern bool sagg_source_takes_option(Oid catalog, const char *name, const char *value);
extern void sagg_source_options_fit(Oid catalog, List *options);
extern void sagg_check_source_option(const char *name, const char *value);
extern bool sagg_value_has_userinfo(const char *value);

/* read/source_topics.c */
extern bool sagg_topic_matches(const char *name, const char *pattern);
extern bool sagg_topics_include(const SaggTopics *topics, const char *name);

#endif							/* SAGG_SOURCE_KINDS_H */
