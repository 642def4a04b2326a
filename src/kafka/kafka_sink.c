/*-------------------------------------------------------------------------
 *
 * kafka_sink.c
 *	  The sink kind kafka: sources of Kafka as sinks of streams.
 *
 * read/delivery.c handles rows, for all kinds of sources; producer.c sends
 * records.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka.h"

static bool
is_topic(Oid relid)
{
	return sagg_source_kind(relid) == &sagg_kafka_source;
}

const SaggSinkKind sagg_kafka_sink = {
	.api_version = SAGG_SINK_API_VERSION,
	.name = "kafka",
	.title = "a Kafka topic",
	.noun = "topic",
	.rows = "records of a topic",
	.not_exactly_once = "Kafka commits apart from the server: a micro-batch that is retried sends its rows again, with the same headers.",
	.is_it = is_topic,
	.check = sagg_delivery_check,
	.open = sagg_delivery_open,
	.begin = sagg_delivery_begin,
	.close = sagg_delivery_close
};
