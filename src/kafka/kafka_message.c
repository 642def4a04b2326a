/*-------------------------------------------------------------------------
 *
 * kafka_message.c
 *	  Converts a message of librdkafka to a record of a micro-batch, as stored.
 *
 * Messages are returned to librdkafka at once: a message takes twice the
 * memory, keeps the whole response it came with, and is no longer in any CPU
 * cache when it is used later.
 *
 * Only sagg_message_add uses memory of PostgreSQL or raises errors.  The other
 * functions run in the prefetch thread, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_internal.h"

/*
 * Returns the bytes of the message's headers as stored; with "to", writes them
 * there.
 */
static int64
store_headers(char *to, rd_kafka_headers_t *headers)
{
	int64		bytes = 0;
	const char *name;
	const void *value;
	size_t		len;

	for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value,
											   &len) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		SaggStoredHeader stored;

		stored.name_len = strlen(name) + 1;
		stored.value_len = value ? (int64) len : -1;
		if (to)
		{
			memcpy(to + bytes, &stored, sizeof(stored));
			memcpy(to + bytes + sizeof(stored), name, stored.name_len);
			if (stored.value_len > 0)
				memcpy(to + bytes + sizeof(stored) + stored.name_len, value, stored.value_len);
		}
		bytes += sizeof(stored) + stored.name_len + Max(stored.value_len, 0);
	}
	return bytes;
}

static int64
message_timestamp(const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	int64		timestamp = rd_kafka_message_timestamp(message, &type);

	return type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : timestamp;
}

/*
 * Read the message's headers, and set what "stored" says about them.
 * librdkafka cannot parse everything that a producer can write, such as
 * headers without end, and millions of headers would take gigabytes.
 */
static void
measure_headers(const rd_kafka_message_t *message, SaggStoredRecord *stored,
				rd_kafka_headers_t **headers)
{
	rd_kafka_resp_err_t err = rd_kafka_message_headers(message, headers);
	int64		bytes;

	if (err == RD_KAFKA_RESP_ERR__NOENT)
		return;
	bytes = err == RD_KAFKA_RESP_ERR_NO_ERROR ? store_headers(NULL, *headers) : -1;
	if (bytes < 0 || bytes > MaxAllocSize)
	{
		*headers = NULL;
		stored->nheaders = -1;
		return;
	}
	stored->nheaders = rd_kafka_header_cnt(*headers);
	stored->headers_len = (int32) bytes;
}

/*
 * Fill in all of "stored"; returns the size of the record as stored, in bytes.
 * "headers" are the message's headers if they are kept, or NULL.
 */
Size
sagg_message_measure(const rd_kafka_message_t *message,
					 bool keep_headers, SaggStoredRecord *stored,
					 rd_kafka_headers_t **headers)
{
	*headers = NULL;
	memset(stored, 0, sizeof(*stored));
	if (keep_headers)
		measure_headers(message, stored, headers);
	stored->offset = message->offset;
	stored->timestamp_ms = message_timestamp(message);
	stored->key_len = message->key ? (int32) message->key_len : -1;
	stored->payload_len = message->payload ? (int32) message->len : -1;
	return sagg_record_size(stored);
}

/*
 * Write a record, as measured, to "to".
 */
void
sagg_message_copy(char *to, const rd_kafka_message_t *message,
				  const SaggStoredRecord *stored, rd_kafka_headers_t *headers)
{
	memcpy(to, stored, sizeof(*stored));
	to += sizeof(*stored);
	if (stored->key_len > 0)
	{
		memcpy(to, message->key, stored->key_len);
		to += stored->key_len;
	}
	if (stored->payload_len > 0)
	{
		memcpy(to, message->payload, stored->payload_len);
		to += stored->payload_len;
	}
	if (stored->headers_len > 0)
		(void) store_headers(to, headers);
}

/*
 * Copy a message of "topic" to the batch.  The caller still owns the message.
 */
void
sagg_message_add(SaggBatch *batch, int32 topic, const rd_kafka_message_t *message)
{
	SaggStoredRecord stored;
	rd_kafka_headers_t *headers;
	Size		size = sagg_message_measure(message, batch->keep_headers, &stored, &headers);
	char	   *room = sagg_batch_room(batch, size);

	sagg_message_copy(room, message, &stored, headers);
	sagg_batch_put(batch, topic, message->partition, &stored, room, size);
}
