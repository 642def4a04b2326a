/*-------------------------------------------------------------------------
 *
 * delivery.c
 *	  A stream's results as records of a topic: what INSERT does beyond the
 *	  ordinary when a micro-batch writes to a source.
 *
 * While a delivery is attached, rows that this process inserts into its source
 * become records that tell where they come from, by three headers:
 *
 *		stream_agg.stream	name of the stream
 *		stream_agg.batch	number of the micro-batch
 *		stream_agg.row		window and keys of the row, as a JSON array, or its
 *							number in the micro-batch where it has none
 *
 * A micro-batch that is retried sends its rows again, and Kafka keeps both: by
 * these headers a reader can tell.  A record without a key gets the row's
 * identity as its key, so that all of one row go to one partition, in order.
 *
 * The producer is kept from batch to batch.  Every INSERT ends only when Kafka
 * has acknowledged all of its records, so before the batch's COMMIT; it waits
 * within the transaction, for which stream_agg.kafka_timeout is the bound.
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

#define OWN_HEADERS		3

struct SaggDelivery
{
	MemoryContext memory;		/* of all of it */
	Oid			source;			/* the foreign table */
	char	   *stream;			/* in UTF-8 */
	const SaggSourceProducer *kind; /* how the source is written to */
	SaggProducer *producer;		/* NULL until the first record */
	char		batch[32];
	int			nidentity;		/* or SAGG_DELIVERY_NUMBERED */
	int64		rows;			/* of the batch so far */
	AttrNumber *identity;		/* columns of the source */
	SaggValueEncoder *encoders; /* of them */
	bool		needs_settings;
};

static SaggDelivery *attached = NULL;

/*
 * Prepare to deliver results of "stream" to "source", in the current context,
 * with which it goes.  Contacts nobody yet.
 */
SaggDelivery *
sagg_delivery_open(Oid source, const char *stream)
{
	SaggDelivery *delivery = palloc0(sizeof(SaggDelivery));

	delivery->memory = CurrentMemoryContext;
	delivery->source = source;
	delivery->kind = sagg_source_producer(source);
	delivery->stream = pg_server_to_any(stream, strlen(stream), PG_UTF8);
	if (delivery->stream == stream)
		delivery->stream = pstrdup(stream);
	return delivery;
}

/*
 * Close the producer; memory goes with the context.  Raises no error.
 */
void
sagg_delivery_close(SaggDelivery *delivery)
{
	if (attached == delivery)
		attached = NULL;
	if (delivery->producer)
		delivery->kind->close(delivery->producer);
	delivery->producer = NULL;
}

/*
 * From now on what this process inserts into the source is the output of
 * micro-batch "batch", whose rows are identified by the columns "identity" of
 * the source, of which there are "nidentity"; or by their number in the batch
 * with SAGG_DELIVERY_NUMBERED.  That array, and the current context, must live
 * until the end.
 */
void
sagg_delivery_begin(SaggDelivery *delivery, int64 batch,
					AttrNumber *identity, int nidentity)
{
	snprintf(delivery->batch, sizeof(delivery->batch), INT64_FORMAT, batch);
	delivery->nidentity = nidentity;
	delivery->rows = 0;
	delivery->identity = identity;
	delivery->encoders = palloc0(sizeof(SaggValueEncoder) * Max(nidentity, 1));
	delivery->needs_settings = false;
	for (int i = 0; i < nidentity; i++)
	{
		/* gone: WRITE will say so */
		if (identity[i] == InvalidAttrNumber)
			continue;
		sagg_value_encoder_init(&delivery->encoders[i],
								get_atttype(delivery->source, identity[i]),
								SAGG_UNIT_DEFAULT);
		delivery->needs_settings |=
			sagg_value_encoder_needs_settings(&delivery->encoders[i]);
	}
	attached = delivery;
}

/*
 * End it.  Also when nothing is attached.
 */
void
sagg_delivery_end(void)
{
	attached = NULL;
}

/*
 * The delivery that rows inserted into "source" belong to, or NULL.
 */
SaggDelivery *
sagg_delivery_of(Oid source)
{
	return attached && attached->source == source ? attached : NULL;
}

/*
 * Its producer, ready for a statement.  Made with the options of the source's
 * server and of the mapping of "user" when there is none.
 */
SaggProducer *
sagg_delivery_producer(SaggDelivery *delivery, Oid user)
{
	MemoryContext old = MemoryContextSwitchTo(delivery->memory);

	if (delivery->producer == NULL)
		delivery->producer = delivery->kind->open(delivery->source, user);
	else
		delivery->kind->restart(delivery->producer);
	MemoryContextSwitchTo(old);
	return delivery->producer;
}

/*
 * The identity of a row as a JSON array in UTF-8.
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
set_header(SaggOutHeader *header, const char *name, const char *value)
{
	header->name = name;
	header->value = value;
	header->len = strlen(value);
}

/*
 * Add to a record what tells where it comes from, in the current context.
 */
void
sagg_delivery_mark(SaggDelivery *delivery, TupleTableSlot *slot,
				   SaggOutRecord *record)
{
	bool		numbered = delivery->nidentity == SAGG_DELIVERY_NUMBERED;
	char	   *row = numbered ? psprintf("[" INT64_FORMAT "]", delivery->rows++) :
		row_text(delivery, slot);
	SaggOutHeader *headers = palloc(sizeof(SaggOutHeader) * (record->nheaders + OWN_HEADERS));

	if (record->nheaders > 0)
		memcpy(headers, record->headers, sizeof(SaggOutHeader) * record->nheaders);
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
