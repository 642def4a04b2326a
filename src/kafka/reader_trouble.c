/*-------------------------------------------------------------------------
 *
 * reader_trouble.c
 *	  Reports connections that do not work.
 *
 * librdkafka reconnects by itself, so a broken connection is not an error, and
 * it does not report that a connection works again.  Only an answer proves
 * that Kafka is there: an idle stream sends a query when its connections have
 * been in trouble for a while (sagg_kafka_in_trouble), and while it waits,
 * sagg_kafka_silence returns what to report.
 *
 * Nothing here waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "kafka_internal.h"

/* shorter trouble is not reported */
#define PATIENCE_MS		1500

/* how long a statement waits when no broker can be reached */
#define DOWN_MS			3000

/*
 * Returns whether a statement should stop waiting for an answer to "client":
 * no broker has been reachable for a while.  Workers, which set a check, wait
 * for brokers that are restarted.
 */
bool
sagg_kafka_is_hopeless(const SaggKafkaReader *reader, const SaggClient *client)
{
	return reader->base.check == NULL && client->down_since != 0 &&
		TimestampDifferenceExceeds(client->down_since, GetCurrentTimestamp(), DOWN_MS);
}

/*
 * Raise the error that Kafka has rejected the credentials, cannot be reached,
 * or has not answered in time; the reason is what "client" has reported or,
 * without that, "err".
 */
void
sagg_kafka_raise_no_answer(SaggKafkaReader *reader, const SaggClient *client,
						   rd_kafka_resp_err_t err)
{
	const char *trouble = client->trouble;

	if (client->rejected)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("Kafka has rejected the credentials for %s",
						reader->base.topics->subject),
				 errdetail_internal("%s.", trouble)));
	if (GetCurrentTimestamp() <
		TimestampTzPlusMilliseconds(reader->waiting_since, sagg_kafka_timeout_ms))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("no broker of Kafka can be reached for %s", reader->base.topics->subject),
				 errdetail_internal("%s.", trouble[0] ? trouble : rd_kafka_err2str(err)),
				 errhint("Check the brokers of the foreign server.")));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("no answer from Kafka about %s within %d ms",
					reader->base.topics->subject, sagg_kafka_timeout_ms),
			 errdetail_internal("%s.", trouble[0] ? trouble : rd_kafka_err2str(err)),
			 errhint("Check the brokers of the foreign server, and stream_agg.kafka_timeout.")));
}

/*
 * Note errors.  Raises connection_failure if Kafka rejects the credentials: a
 * new reader may have others.
 */
void
sagg_kafka_check_rejected(SaggKafkaReader *reader)
{
	SaggClient *clients[2] = {reader->fetch, reader->query_client};

	for (int i = 0; i < 2; i++)
	{
		if (clients[i] == NULL)
			continue;
		sagg_client_serve(clients[i]);
		if (clients[i]->rejected)
			sagg_kafka_raise_no_answer(reader, clients[i],
									   RD_KAFKA_RESP_ERR__AUTHENTICATION);
	}
}

/*
 * Returns the last error of a broker connection since records or an answer
 * came, or NULL.  In the reader's memory, until the next call.
 */
const char *
sagg_kafka_trouble(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	SaggClient *clients[2] = {reader->fetch, reader->query_client};

	for (int i = 0; i < 2; i++)
	{
		if (clients[i] == NULL)
			continue;
		sagg_client_serve(clients[i]);
		if (clients[i]->trouble[0] != '\0')
			return clients[i]->trouble;
	}
	return NULL;
}

/*
 * Returns whether fetching has been in trouble for so long that Kafka should
 * be asked whether it is there.  If that may happen soon, shortens
 * "timeout_ms" to that time.
 */
bool
sagg_kafka_in_trouble(SaggReader *base, long *timeout_ms)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	TimestampTz due;
	TimestampTz now;

	if (reader->fetch == NULL || reader->fetch->trouble[0] == '\0')
		return false;
	due = TimestampTzPlusMilliseconds(reader->fetch->trouble_since, PATIENCE_MS);
	now = GetCurrentTimestamp();
	if (now >= due)
		return true;
	*timeout_ms = Min(*timeout_ms, Max(1, TimestampDifferenceMilliseconds(now, due)));
	return false;
}

/*
 * Returns what to report about Kafka's silence: NULL if it has not lasted long
 * enough.  The reader waits for records of a batch since "since"; 0: not for
 * records, but perhaps for an answer.  Allocated in the current context.
 */
char *
sagg_kafka_silence(SaggReader *base, TimestampTz since)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	const char *trouble = sagg_kafka_trouble(&reader->base);
	bool		records = since != 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!records)
		since = reader->waiting_since;
	if (since == 0 || !TimestampDifferenceExceeds(since, now, PATIENCE_MS))
		return NULL;

	/* a slow network is worth a message only if it is rather slow */
	if (trouble == NULL && records &&
		!TimestampDifferenceExceeds(since, now, sagg_kafka_timeout_ms / 2))
		return NULL;
	return psprintf("%s Kafka about %s yet\n"
					"DETAIL:  %s.\n"
					"HINT:  The stream waits and continues by itself. Check the brokers of the foreign server.",
					records ? "no records from" : "no answer from",
					reader->base.topics->subject,
					trouble ? trouble : "The brokers are silent; no connection has reported an error");
}
