/*-------------------------------------------------------------------------
 *
 * kafka.h
 *	  The source kind and the sink kind kafka: topics of Kafka clusters.
 *
 * The only room that includes librdkafka.  They are registered by stream_agg.c, and
 * no other room includes this header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_KAFKA_H
#define SAGG_KAFKA_H

#include "source_kinds.h"

extern const SaggSourceKind sagg_kafka_source;
extern const SaggSinkKind sagg_kafka_sink;

#endif							/* SAGG_KAFKA_H */
