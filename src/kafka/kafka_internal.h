/*-------------------------------------------------------------------------
 *
 * kafka_internal.h
 *	  Internals of the source kind kafka: clients, partitions, and who frees
 *	  what.
 *
 * A reader has two librdkafka clients. "query_client" answers queries
 * (metadata, watermarks) and never fetches, because on a fetching connection a
 * query waits behind the fetch in flight.  It exists while queries are sent;
 * after a rest a new one is made for the next query. "fetch" reads the
 * assigned partitions, one queue each; it is made at the first assignment,
 * when the number of partitions, and with it the size of a queue, is known.
 *
 * librdkafka's threads run no code of ours except the interceptor of arrivals.c,
 * which counts.  All else comes by queues that this process polls: its main
 * thread and, while that executes a batch, the prefetch thread (prefetch.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_KAFKA_INTERNAL_H
#define SAGG_KAFKA_INTERNAL_H

#include <pthread.h>
#include <librdkafka/rdkafka.h>

#include "lib/ilist.h"
#include "read/batch/batch.h"

/* a call into librdkafka blocks at most this long at once */
#define SAGG_KAFKA_SLICE_MS		500

#define SAGG_TROUBLE_SIZE		512

/*
 * The part of stream_agg.fetch_memory that is for queues of librdkafka, whose
 * messages take two or three times the bytes of their records.  Queues are short,
 * because the prefetch thread empties them.  The rest is for what it collects.
 */
#define SAGG_QUEUES_SHARE		8

/*
 * A live rd_kafka_t.  Lives in TopMemoryContext; "release" is called with
 * "owner" right before rd_kafka_destroy to give back messages and queues,
 * without which librdkafka would wait forever.
 */
typedef struct SaggClient
{
	dlist_node	node;
	rd_kafka_t *rk;
	rd_kafka_queue_t *events;	/* logs and errors */
	struct SaggArrivals *arrivals;	/* counter of responses with records, NULL
									 * = not counted */
	int			ntopics;
	rd_kafka_topic_t **topics;	/* topics it was opened for */
	pid_t		pid;			/* process id of the process that made it */
	void		(*release) (void *owner);
	void	   *owner;
	bool		rejected;		/* the broker rejects our credentials */
	bool		broken;			/* a connection has broken since the last
								 * check; see last_record.c */
	TimestampTz trouble_since;
	TimestampTz down_since;		/* since when no broker can be reached, 0 =
								 * one may be */
	char		trouble[SAGG_TROUBLE_SIZE]; /* last error, "" = none */
} SaggClient;

/* arrivals.c */
extern struct SaggArrivals *sagg_arrivals_count(rd_kafka_conf_t *conf);
extern void sagg_arrivals_expect(struct SaggArrivals *arrivals, int npartitions);
extern uint64 sagg_arrivals_answers(struct SaggArrivals *arrivals);
extern void sagg_arrivals_free(struct SaggArrivals *arrivals);

/* kafka_client.c */
extern int	sagg_event_fd_open(void);
extern void sagg_event_fd_close(int fd);
extern SaggClient *sagg_client_open(rd_kafka_type_t type, rd_kafka_conf_t *conf,
									char *const *topics, int ntopics,
									void (*release) (void *), void *owner);
extern void sagg_client_close(SaggClient *client);
extern int	sagg_thread_start(pthread_t *thread, void *(*main) (void *), void *arg);
extern void sagg_client_serve(SaggClient *client);
extern void sagg_client_note_trouble(SaggClient *client, const char *text);
extern void sagg_client_note_event(SaggClient *client, rd_kafka_event_t *event);

/* client_tuning.c */
extern void sagg_conf_set(rd_kafka_conf_t *conf, const char *name,
						  const char *value);
extern void sagg_conf_prepare(rd_kafka_conf_t *conf);
extern void sagg_conf_for_fetch(rd_kafka_conf_t *conf, int npartitions,
								int64 *queue_bytes, int64 *queue_records);

/* messages taken from a partition's queue at once */
#define SAGG_TAKE_AT_ONCE		256

/*
 * How often to unassign and drain before a client is destroyed.  Errors in the
 * queue of a partition whose topic is gone would keep librdkafka 2.0 from ever
 * ending a thread.  An unassignment passes through its main thread, so after a
 * few of them no more errors come.
 */
#define SAGG_DRAIN_ROUNDS		4

/*
 * An assigned partition.  Everything before "position" has been handed over;
 * records from there on are in "prefetched", messages behind those in "taken"
 * and, behind those, in "queue".  While the prefetch thread works, it owns
 * everything behind "position".
 */
typedef struct SaggPartition
{
	int32		topic;
	const char *topic_name;
	int32		partition;
	int64		position;
	int64		eof;			/* last end of the partition seen, -1 = none */
	int64		range_start;	/* start of the range of the batch */
	int64		range_end;		/* its end; -1 = not part of the batch */
	bool		complete;		/* everything in the batch's range was handed
								 * over */
	bool		lost;			/* Kafka does not have the position; nothing
								 * more comes until it is assigned again */
	bool		unreadable;		/* records at the position cannot be
								 * decompressed */
	int64		readable_at;	/* offset where they could, nevertheless; -1 =
								 * none */
	int64		last_offset;	/* offset of the last record handed over, -1 =
								 * none */
	int64		last_timestamp; /* its timestamp, milliseconds; -1 = none */
	dlist_head	prefetched;		/* see prefetched_runs.c */
	rd_kafka_queue_t *queue;
	int			next;			/* next message in taken */
	int			ntaken;
	rd_kafka_message_t *taken[SAGG_TAKE_AT_ONCE];
} SaggPartition;

/*
 * A run of records of one partition, collected before their batch was planned
 * (prefetched_runs.c).
 */
typedef struct SaggPrefetchedRun
{
	dlist_node	node;
	SaggStretch records;
	int64		last_offset;	/* offset of the last record */
	int64		last_timestamp;
	bool		headers;		/* headers of the records are stored */
} SaggPrefetchedRun;

/* A topic of the source, as Kafka last described it. */
typedef struct SaggKnownTopic
{
	int32		topic;
	int			npartitions;
} SaggKnownTopic;

typedef struct SaggKafkaReader
{
	SaggReader	base;
	char	   *cluster_id;
	int			fd;				/* eventfd of all partition queues */
	rd_kafka_conf_t *conf;		/* configuration of both clients */
	SaggClient *query_client;	/* NULL while no queries are sent */
	TimestampTz asked;			/* when it was last needed */
	TimestampTz suspected;		/* see sagg_kafka_suspects */
	TimestampTz waiting_since;	/* waiting for an answer since; 0 = for none */
	SaggClient *fetch;
	int64		queue_bytes;	/* size of a partition's queue, when full */
	int64		queue_records;
	int			sized_for;		/* partitions that "fetch" has memory for */
	int			npartitions;
	SaggPartition **partitions;
	bool		asked_topics;	/* the following is known */
	int			nknown;
	SaggKnownTopic *known;		/* by name */
	bool		other_partitions;	/* seen since then */
	TimestampTz partitions_checked;
	TimestampTz woken;			/* see sagg_kafka_wake_fetcher */
	uint64		answers;		/* see sagg_kafka_hears */
	uint64		positions_sum;	/* sum of the partitions' positions */
	int			nranges;		/* of the batch */
	struct SaggPrefetch *prefetch;	/* NULL = none yet */
	int			nlosses;		/* of the batch */
	SaggRange  *losses;
	struct SaggGroupOffsets *group; /* NULL = no offsets are committed to
									 * Kafka */
} SaggKafkaReader;

/* client_conf.c */
extern rd_kafka_conf_t *sagg_client_conf(Oid source);

/* topic_options.c */
extern SaggTopics *sagg_kafka_topics(Oid source);
extern void sagg_topics_check(List *options);
extern void sagg_check_cluster_id(const char *id);
extern void sagg_check_topic_name(const char *name);

/* group_rights.c */
extern bool sagg_kafka_group_allowed(Oid source, Oid owner, const char *group,
									 const char *stream);
extern void sagg_kafka_group_check(Oid source, Oid owner, const char *group,
								   const char *stream);

/* producer.c */
extern const SaggSourceProducer sagg_kafka_producer;

/* kafka_message.c */
extern Size sagg_message_measure(const rd_kafka_message_t *message,
								 bool keep_headers, SaggStoredRecord *stored,
								 rd_kafka_headers_t **headers);
extern void sagg_message_copy(char *to, const rd_kafka_message_t *message,
							  const SaggStoredRecord *stored,
							  rd_kafka_headers_t *headers);
extern void sagg_message_add(SaggBatch *batch, int32 topic,
							 const rd_kafka_message_t *message);

/*
 * The functions of the kind, see source.h: kafka_reader.c, batch_fill.c, prefetch.c,
 * topic_query.c, reader_trouble.c, last_record.c, data_loss.c, group_offsets.c.
 */
extern void sagg_kafka_open(SaggReader *base, List *sources);
extern void sagg_kafka_close(SaggReader *base);
extern int	sagg_kafka_fd(SaggReader *base);
extern void sagg_kafka_assign(SaggReader *base, const SaggRange *positions,
							  int npositions);
extern void sagg_kafka_begin(SaggReader *base, const SaggRange *ranges, int nranges);
extern int64 sagg_kafka_gap_end(SaggReader *base, const SaggRange *range, bool pass);
extern void sagg_kafka_release(SaggReader *base);
extern bool sagg_kafka_has_records(SaggReader *base);
extern bool sagg_kafka_collect(SaggReader *base);
extern bool sagg_kafka_hears(SaggReader *base);
extern void sagg_kafka_collect_ahead(SaggReader *base);
extern const char *sagg_kafka_cluster_id(SaggReader *base);
extern SaggRange *sagg_kafka_bounds(SaggReader *base, int *npartitions);
extern void sagg_kafka_offsets_at(SaggReader *base, TimestampTz time,
								  SaggRange *bounds, int nbounds);
extern bool sagg_kafka_partitions_changed(SaggReader *base);
extern long sagg_kafka_rest(SaggReader *base, long interval_ms, long timeout_ms);
extern const char *sagg_kafka_trouble(SaggReader *base);
extern bool sagg_kafka_in_trouble(SaggReader *base, long *timeout_ms);
extern char *sagg_kafka_silence(SaggReader *base, TimestampTz since);
extern bool sagg_kafka_last_record(SaggReader *base, const SaggRange *range,
								   SaggRange *last);
extern bool sagg_kafka_was_broken(SaggReader *base);
extern bool sagg_kafka_suspects(SaggReader *base, const SaggRange *last, int nlast);
extern void sagg_kafka_verify(SaggReader *base, SaggRange *last, int nlast);
extern const SaggRange *sagg_kafka_losses(SaggReader *base, int *nlosses);
extern void sagg_kafka_set_group(SaggReader *base, const char *group,
								 const char *stream);
extern void sagg_kafka_commit(SaggReader *base, const SaggRange *positions,
							  int npositions);
extern long sagg_kafka_tend_group(SaggReader *base, long timeout_ms);

/* group_offsets.c */
extern void sagg_group_attach(SaggKafkaReader *reader);
extern void sagg_group_detach(SaggKafkaReader *reader);

/* kafka_reader.c */
extern void sagg_kafka_assign_all(SaggKafkaReader *reader);

/* batch_fill.c */
extern bool sagg_kafka_wake_fetcher(SaggKafkaReader *reader, bool at_once);
extern bool sagg_queue_was_full(const SaggKafkaReader *reader,
								const SaggPartition *part,
								int64 records, int64 bytes);

/* data_loss.c */
extern void sagg_kafka_add_loss(SaggKafkaReader *reader, const SaggPartition *part,
								int64 start, int64 end);
extern void sagg_kafka_skip_lost(SaggKafkaReader *reader);
extern void sagg_kafka_forget_losses(SaggKafkaReader *reader);

/* unreadable.c */
extern bool sagg_is_unreadable(const rd_kafka_message_t *message);
extern void sagg_kafka_skip_unreadable(SaggKafkaReader *reader);

/* topic_query.c */
extern void sagg_kafka_open_query_client(SaggKafkaReader *reader);
extern void sagg_kafka_before_attempt(SaggKafkaReader *reader, SaggClient *client,
									  TimestampTz until,
									  rd_kafka_resp_err_t err);
extern TimestampTz sagg_kafka_deadline(SaggKafkaReader *reader);
extern int	sagg_kafka_slice(TimestampTz until);

/* reader_trouble.c */
extern void sagg_kafka_check_rejected(SaggKafkaReader *reader);
extern bool sagg_kafka_is_hopeless(const SaggKafkaReader *reader, const SaggClient *client);
pg_noreturn extern void sagg_kafka_raise_no_answer(SaggKafkaReader *reader,
												   const SaggClient *client,
												   rd_kafka_resp_err_t err);

/* partition_queue.c */
extern void sagg_partition_attach(SaggKafkaReader *reader, SaggPartition *part);
extern void sagg_partition_restart(SaggKafkaReader *reader, SaggPartition *part,
								   int64 position);
extern void sagg_queue_drain(rd_kafka_queue_t *queue);
extern void sagg_queue_release(const SaggClient *client, rd_kafka_queue_t **queue);
extern void sagg_partition_detach(SaggKafkaReader *reader, SaggPartition *part);
extern rd_kafka_message_t *sagg_partition_peek(SaggKafkaReader *reader,
											   SaggPartition *part);
extern rd_kafka_message_t *sagg_partition_take(SaggPartition *part);

/* prefetched_runs.c */
extern void sagg_prefetched_add(SaggKafkaReader *reader, SaggPartition *part,
								const SaggPrefetchedRun *found);
extern void sagg_prefetched_drop(SaggKafkaReader *reader, SaggPartition *part);
extern int64 sagg_prefetched_first(SaggPartition *part);
extern int64 sagg_prefetched_end(SaggPartition *part);
extern Size sagg_prefetched_bytes(SaggPartition *part);
extern bool sagg_prefetched_lack_headers(SaggPartition *part);
extern int64 sagg_prefetched_take(SaggKafkaReader *reader, SaggPartition *part,
								  int64 end, int64 *bytes);

/* prefetch.c */
extern void sagg_prefetch_halt(SaggKafkaReader *reader);
extern void sagg_prefetch_end(SaggKafkaReader *reader);

#endif							/* SAGG_KAFKA_INTERNAL_H */
