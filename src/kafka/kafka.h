/*-------------------------------------------------------------------------
 *
 * kafka.h
 *	  The source kind kafka: topics of Kafka clusters.
 *
 * The only room that includes librdkafka.  It is registered by stream_agg.c, and
 * no other room includes this header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_KAFKA_H
#define SAGG_KAFKA_H

#include "source.h"

extern const SaggSourceKind sagg_kafka_source;

#endif							/* SAGG_KAFKA_H */
