/*-------------------------------------------------------------------------
 *
 * delivery.c
 *	  Sinks that are sources: delivers a stream's results as records, when a
 *	  micro-batch inserts into a source.
 *
 * Rows that a micro-batch inserts into its source become records that say
 * where they come from, by three headers:
 *
 *		stream_agg.stream	name of the stream
 *		stream_agg.batch	number of the micro-batch
 *		stream_agg.row		window and keys of the row, as a JSON array, or its
 *							number in the micro-batch where it has none
 *
 * A micro-batch that is retried sends its rows again, and the topic keeps
 * both: these headers let a reader remove duplicates.  A record without a key
 * gets the row's identity as its key, so that all versions of one row go to
 * one partition, in order.
 *
 * The producer is kept from batch to batch.  Every INSERT ends only when the
 * source's kind has acknowledged all of its records, so before the batch's
 * COMMIT; it waits within the transaction, for at most
 * stream_agg.kafka_timeout.
 *
 * One INSERT has the producer at a time.  Another one that begins meanwhile, in a
 * trigger of the source for example, has a producer of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "read/scan/insert_internal.h"
#include "read/format/payload_encode.h"
#include "sink_kinds.h"

#define OWN_HEADERS		3

/* in place of a number of columns: rows are identified by their order */
#define NUMBERED		(-1)

/* an INSERT that has the producer, in the INSERT's memory */
typedef struct SaggProducerUse
{
	MemoryContextCallback callback;
	SaggDelivery *delivery;		/* NULL: it has finished, or the producer is
								 * closed */
} SaggProducerUse;

struct SaggDelivery
{
	MemoryContext memory;		/* memory of all of it */
	MemoryContextCallback callback;
	Oid			source;			/* the foreign table */
	char	   *stream;			/* name in UTF-8 */
	const SaggSourceProducer *kind; /* functions to write to the source */
	SaggProducer *producer;		/* NULL until the first record */
	SaggProducerUse *use;		/* the INSERT that has it now, NULL = none */
	char		batch[32];
	int			nidentity;		/* or NUMBERED */
	int64		rows;			/* rows of the batch so far */
	AttrNumber *identity;		/* columns of the source that are the identity */
	SaggValueEncoder *encoders; /* encoders of these columns */
	bool		needs_settings;
};

/*
 * Check what readers of the topic need.  This function, and others here, are
 * described in sink.h.
 */
void
sagg_delivery_check(const SaggSinkStream *stream, const SaggSinkRows *rows)
{
	if (rows->missing_key)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the select list omits %s, by which the query groups",
						rows->missing_key),
				 errdetail("Window and keys tell readers of the topic which row a record is."),
				 errhint("Add it to the select list.")));
}

/*
 * The delivery goes, or its producer, before an INSERT that has failed.  Also a memory
 * context callback.
 */
static void
forget_use(void *arg)
{
	SaggDelivery *delivery = (SaggDelivery *) arg;

	if (delivery->use)
		delivery->use->delivery = NULL;
	delivery->use = NULL;
}

/*
 * Prepare to deliver results, in the current context, which frees it.
 * Contacts nobody yet.
 */
void *
sagg_delivery_open(const SaggSinkStream *stream)
{
	SaggDelivery *delivery = palloc0(sizeof(SaggDelivery));

	delivery->memory = CurrentMemoryContext;
	delivery->callback.func = forget_use;
	delivery->callback.arg = delivery;
	MemoryContextRegisterResetCallback(delivery->memory, &delivery->callback);
	delivery->source = stream->sink;
	delivery->kind = sagg_source_producer(stream->sink);
	delivery->stream = pg_server_to_any(stream->name, strlen(stream->name), PG_UTF8);
	if (delivery->stream == stream->name)
		delivery->stream = pstrdup(stream->name);
	return delivery;
}

/*
 * Close the producer; its memory is freed with the context.  Raises no error.
 */
void
sagg_delivery_close(void *sink)
{
	SaggDelivery *delivery = sink;

	forget_use(delivery);
	if (delivery->producer)
		delivery->kind->close(delivery->producer);
	delivery->producer = NULL;
}

/*
 * Memory context callback: an INSERT has ended.  If it has failed, some of its
 * records are not acknowledged, so nobody uses the producer again.
 */
static void
end_use(void *arg)
{
	SaggProducerUse *use = (SaggProducerUse *) arg;

	if (use->delivery)
		sagg_delivery_close(use->delivery);
}

/*
 * Set what identifies rows: the columns of the source that are the identity,
 * or the number of the row in the batch if there are none.  The current
 * context must live until the batch has written.
 */
void
sagg_delivery_begin(void *sink, const SaggSinkRows *rows, int64 batch)
{
	SaggDelivery *delivery = sink;
	int			nidentity = rows->groups ? rows->nidentity : 0;

	snprintf(delivery->batch, sizeof(delivery->batch), INT64_FORMAT, batch);
	delivery->nidentity = rows->groups ? nidentity : NUMBERED;
	delivery->rows = 0;
	delivery->identity = palloc(sizeof(AttrNumber) * Max(nidentity, 1));
	delivery->encoders = palloc0(sizeof(SaggValueEncoder) * Max(nidentity, 1));
	delivery->needs_settings = false;
	for (int i = 0; i < nidentity; i++)
	{
		AttrNumber	column = rows->columns[rows->identity[i] - 1];

		delivery->identity[i] = column;
		/* the column is gone: WRITE will raise an error */
		if (column == InvalidAttrNumber)
			continue;
		sagg_value_encoder_init(&delivery->encoders[i],
								get_atttype(delivery->source, column),
								SAGG_UNIT_DEFAULT);
		delivery->needs_settings |=
			sagg_value_encoder_needs_settings(&delivery->encoders[i]);
	}
}

/*
 * Returns the delivery that rows inserted into "source" belong to, or NULL.
 */
SaggDelivery *
sagg_delivery_of(Oid source)
{
	return sagg_sink_attached(source);
}

/*
 * Returns its producer, ready for an INSERT, which has it until
 * sagg_delivery_finished or until "memory", the INSERT's, is freed; NULL if another
 * INSERT has it.  If there is none, makes one with the options of the source's server
 * and of the mapping of "user".
 */
SaggProducer *
sagg_delivery_producer(SaggDelivery *delivery, Oid user, MemoryContext memory)
{
	MemoryContext old;
	SaggProducerUse *use;

	if (delivery->use)
		return NULL;
	use = MemoryContextAllocZero(memory, sizeof(SaggProducerUse));
	old = MemoryContextSwitchTo(delivery->memory);
	if (delivery->producer == NULL)
		delivery->producer = delivery->kind->open(delivery->source, user);
	else
		delivery->kind->restart(delivery->producer);
	MemoryContextSwitchTo(old);
	use->delivery = delivery;
	use->callback.func = end_use;
	use->callback.arg = use;
	MemoryContextRegisterResetCallback(memory, &use->callback);
	delivery->use = use;
	return delivery->producer;
}

/*
 * The INSERT that has the producer has finished: all of its records are
 * acknowledged.
 */
void
sagg_delivery_finished(SaggDelivery *delivery)
{
	delivery->use->delivery = NULL;
	delivery->use = NULL;
}

/*
 * Returns the identity of a row as a JSON array in UTF-8.
 */
static char *
row_text(SaggDelivery *delivery, TupleTableSlot *slot)
{
	StringInfoData json;
	int			level = 0;

	initStringInfo(&json);
	if (delivery->needs_settings)
		level = sagg_output_settings();
	appendStringInfoChar(&json, '[');
	for (int i = 0; i < delivery->nidentity; i++)
	{
		int			index = delivery->identity[i] - 1;

		if (i > 0)
			appendStringInfoChar(&json, ',');
		if (slot->tts_isnull[index])
			appendStringInfoString(&json, "null");
		else
			sagg_value_encode(&delivery->encoders[i], slot->tts_values[index], &json);
	}
	appendStringInfoChar(&json, ']');
	if (delivery->needs_settings)
		AtEOXact_GUC(true, level);
	return pg_server_to_any(json.data, json.len, PG_UTF8);
}

static void
set_header(SaggHeader *header, const char *name, const char *value)
{
	header->name = name;
	header->value = value;
	header->len = strlen(value);
}

/*
 * Add the headers that say where it comes from to a record, in the current
 * context.
 */
void
sagg_delivery_mark(SaggDelivery *delivery, TupleTableSlot *slot,
				   SaggOutRecord *record)
{
	bool		numbered = delivery->nidentity == NUMBERED;
	char	   *row = numbered ? psprintf("[" INT64_FORMAT "]", delivery->rows++) :
	row_text(delivery, slot);
	SaggHeader *headers = palloc(sizeof(SaggHeader) * (record->nheaders + OWN_HEADERS));

	if (record->nheaders > 0)
		memcpy(headers, record->headers, sizeof(SaggHeader) * record->nheaders);
	set_header(&headers[record->nheaders++], "stream_agg.stream", delivery->stream);
	set_header(&headers[record->nheaders++], "stream_agg.batch", delivery->batch);
	set_header(&headers[record->nheaders++], "stream_agg.row", row);
	record->headers = headers;
	if (record->key == NULL && !numbered)
	{
		record->key = row;
		record->key_len = strlen(row);
	}
}
