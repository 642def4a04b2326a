/*-------------------------------------------------------------------------
 *
 * arrivals.c
 *	  Detects whether a client fetches records, by librdkafka's interceptor of
 *	  responses.
 *
 * librdkafka does not report the records that it fetches and leaves out: those
 * of aborted transactions, which may be many gigabytes.  Only its fetch
 * responses show that it makes progress.
 *
 * The interceptor runs in threads of librdkafka.  So it never uses memory,
 * errors, settings, locks or signals of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"

#include "kafka_internal.h"

/* number of the request in Kafka's protocol */
#define FETCH_REQUEST			1

#define INTERCEPTOR				"stream_agg"

/*
 * most bytes of a response without records: of the response, and for each
 * partition
 */
#define EMPTY_ANSWER			1024
#define EMPTY_PARTITION			300

/*
 * Allocated by malloc: it belongs to the threads, which may outlive the
 * client.
 */
typedef struct SaggArrivals
{
	pg_atomic_uint64 answers;	/* responses larger than an empty one */
	pg_atomic_uint64 empty;		/* size of an empty one */
} SaggArrivals;

static rd_kafka_resp_err_t
on_response(rd_kafka_t *rk, int socket, const char *broker, int32_t broker_id,
			int16_t request, int16_t version, int32_t id, size_t size,
			int64_t round_trip, rd_kafka_resp_err_t err, void *arg)
{
	SaggArrivals *arrivals = arg;

	if (request == FETCH_REQUEST && err == RD_KAFKA_RESP_ERR_NO_ERROR &&
		size > pg_atomic_read_u64(&arrivals->empty))
		pg_atomic_fetch_add_u64(&arrivals->answers, 1);
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t
on_new(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *arg, char *reason, size_t size)
{
	return rd_kafka_interceptor_add_on_response_received(rk, INTERCEPTOR, on_response, arg);
}

/*
 * Count the responses to the client that is made of "conf".  Returns the
 * counter, which the caller frees when the client's threads have ended, or
 * NULL if responses are not counted.
 */
SaggArrivals *
sagg_arrivals_count(rd_kafka_conf_t *conf)
{
	SaggArrivals *arrivals = malloc(sizeof(SaggArrivals));

	if (arrivals == NULL)
		return NULL;
	pg_atomic_init_u64(&arrivals->answers, 0);
	pg_atomic_init_u64(&arrivals->empty, EMPTY_ANSWER);
	if (rd_kafka_conf_interceptor_add_on_new(conf, INTERCEPTOR, on_new, arrivals) ==
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return arrivals;
	free(arrivals);
	return NULL;
}

/*
 * The client fetches at most this many partitions.
 */
void
sagg_arrivals_expect(SaggArrivals *arrivals, int npartitions)
{
	if (arrivals)
		pg_atomic_write_u64(&arrivals->empty,
							EMPTY_ANSWER + (uint64) EMPTY_PARTITION * npartitions);
}

/*
 * Returns how many responses have had records; 0 if they are not counted.
 */
uint64
sagg_arrivals_answers(SaggArrivals *arrivals)
{
	return arrivals ? pg_atomic_read_u64(&arrivals->answers) : 0;
}

/*
 * Free a counter, or NULL.
 */
void
sagg_arrivals_free(SaggArrivals *arrivals)
{
	free(arrivals);
}
