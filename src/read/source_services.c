/*-------------------------------------------------------------------------
 *
 * source_services.c
 *	  What a kind of sources may call, as a table of functions that it gets when it
 *	  is registered (source.h): a library outside of this one is not linked with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "read_internal.h"

static int
timeout_ms(void)
{
	return sagg_kafka_timeout_ms;
}

/* The number of a topic that a kind outside of this library names. */
static int32
topic_number(const char *name)
{
	if (!sagg_is_topic_name(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a topic: \"%s\"", name),
				 errdetail("It has 1 to %d ASCII letters, digits, \".\", \"_\" and \"-\".",
						   SAGG_MAX_TOPIC_NAME)));
	return sagg_topic_number(name);
}

static void
add(SaggReader *reader, const SaggSourceRecord *records, int n)
{
	sagg_batch_add(reader->batch, records, n);
}

static void
reset(SaggReader *reader)
{
	sagg_batch_reset(reader->batch);
}

static const SaggSourceServices services = {
	.routine = sagg_source_routine,
	.takes_option = sagg_source_takes_option,
	.options_fit = sagg_source_options_fit,
	.topic_number = topic_number,
	.topic_name = sagg_topic_name,
	.topics_include = sagg_topics_include,
	.timeout_ms = timeout_ms,
	.add = add,
	.reset = reset
};

/*
 * Register a kind; see sagg_source_register in source.h.
 */
const SaggSourceServices *
stream_agg_register_source(const SaggSourceKind *kind)
{
	sagg_source_kind_add(kind);
	return &services;
}
