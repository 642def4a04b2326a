/*-------------------------------------------------------------------------
 *
 * sink_kinds.h
 *	  The registered kinds of sinks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SINK_KINDS_H
#define SAGG_SINK_KINDS_H

#include "stream_agg.h"

PGDLLEXPORT extern void stream_agg_register_sink(const SaggSinkKind *kind);

extern const SaggSinkKind *sagg_sink_kind(Oid relid);
extern bool sagg_sink_has(Oid relid, uint32 flag);
extern void sagg_sink_describe(const SaggStream *stream, SaggSinkStream *result);
extern void sagg_sink_describe_rows(const SaggQuery *query, Oid relid,
									SaggSinkRows *result);

extern void *sagg_sink_attached(Oid relid);

#endif							/* SAGG_SINK_KINDS_H */
