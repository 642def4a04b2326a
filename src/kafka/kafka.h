/*-------------------------------------------------------------------------
 *
 * kafka.h
 *	  The source kind and the sink kind kafka: topics of Kafka clusters.
 *
 * This is the only room that includes librdkafka. stream_agg.c registers the
 * kinds, and no other room includes this header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_KAFKA_H
#define SAGG_KAFKA_H

#include "source_kinds.h"

extern const SaggSourceKind sagg_kafka_source;
extern const SaggSinkKind sagg_kafka_sink;

#endif							/* SAGG_KAFKA_H */
