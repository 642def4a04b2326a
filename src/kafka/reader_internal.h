/*-------------------------------------------------------------------------
 *
 * reader_internal.h
 *	  The reader's insides: clients, partitions, and who frees what.
 *
 * A reader has two librdkafka clients.  "asks" answers questions (metadata,
 * watermarks) and never fetches: on a fetching connection a question waits
 * behind the fetch in flight.  It is there while questions are asked, and made
 * anew for the next after a rest.  "fetch" reads the assigned partitions, one
 * queue each; it is made at the first assignment, when the number of
 * partitions, and with it the size of a queue, is known.
 *
 * librdkafka's threads never run our code: there is no callback in either
 * direction, only queues polled by this process: by its main thread and, while
 * that executes a batch, by the collector (collector.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_READER_INTERNAL_H
#define SAGG_READER_INTERNAL_H

#include <pthread.h>

#include "lib/ilist.h"
#include "read/read_internal.h"

/* a call into librdkafka blocks no longer than this at once */
#define SAGG_KAFKA_SLICE_MS		500

#define SAGG_TROUBLE_SIZE		512

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
	struct SaggArrivals *arrivals;	/* of what it fetches, NULL = not counted */
	int			ntopics;
	rd_kafka_topic_t **topics;	/* those it was opened for */
	pid_t		pid;			/* of the process that made it */
	void		(*release) (void *owner);
	void	   *owner;
	bool		refused;		/* the broker rejects our credentials */
	bool		broken;			/* a connection has, since anybody asked */
	TimestampTz trouble_since;
	TimestampTz down_since;		/* no broker can be reached, 0 = one may be */
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
 * Before a client is destroyed: how often to unassign and drain.  Errors in the
 * queue of a partition whose topic is gone would keep librdkafka 2.0 from ever
 * ending a thread.  An unassignment passes through its main thread, so after a
 * few of them no more errors come.
 */
#define SAGG_DRAIN_ROUNDS		4

/*
 * An assigned partition.  Everything before "position" has been handed over;
 * records from there on stand in "portions", messages behind those in "taken" and,
 * behind those, in "queue".  While the collector works, what is behind "position"
 * is its own.
 */
typedef struct SaggPartition
{
	int32		topic;
	const char *topic_name;
	int32		partition;
	int64		position;
	int64		eof;			/* last end of the partition seen, -1 = none */
	int64		range_start;	/* of the batch */
	int64		range_end;		/* -1 = not part of it */
	bool		complete;		/* all of the batch's range handed over */
	bool		lost;			/* Kafka does not have the position; nothing
								 * more comes until it is assigned anew */
	bool		unreadable;		/* nor here, where records cannot be unpacked */
	int64		readable_at;	/* where they could, nevertheless; -1 = nowhere */
	int64		last_offset;	/* of the last record handed over, -1 = none */
	int64		last_timestamp; /* its timestamp, milliseconds; -1 = none */
	dlist_head	portions;		/* see portions.c */
	rd_kafka_queue_t *queue;
	int			next;			/* into taken */
	int			ntaken;
	rd_kafka_message_t *taken[SAGG_TAKE_AT_ONCE];
} SaggPartition;

/* A topic of the source, as Kafka last described it. */
typedef struct SaggKnownTopic
{
	int32		topic;
	int			npartitions;
} SaggKnownTopic;

struct SaggReader
{
	MemoryContext memory;
	SaggTopics *topics;
	char	   *cluster_id;
	int			fd;				/* eventfd of all partition queues */
	rd_kafka_conf_t *conf;		/* of both clients */
	struct SaggRegistry *registry;	/* of the records' schemas, or NULL */
	SaggClient *asks;			/* NULL while nothing is asked */
	TimestampTz asked;			/* when it was last needed */
	TimestampTz suspected;		/* see sagg_reader_suspects */
	TimestampTz waiting_since;	/* for an answer; 0 = for none */
	SaggClient *fetch;
	void		(*check) (void *arg);	/* while waiting; NULL = none */
	void	   *check_arg;
	int64		queue_bytes;	/* of a partition's queue, when full */
	int64		queue_records;
	int			sized_for;		/* partitions that "fetch" has memory for */
	int			npartitions;
	SaggPartition **partitions;
	bool		asked_topics;	/* what follows is known */
	int			nknown;
	SaggKnownTopic *known;		/* by name */
	bool		other_partitions;	/* seen since then */
	TimestampTz partitions_checked;
	TimestampTz prodded;		/* see sagg_reader_prod */
	uint64		answers;		/* see sagg_reader_hears */
	int			nranges;		/* of the batch */
	SaggRange  *ranges;
	SaggBatch  *batch;
	struct SaggCollector *collector;	/* NULL = none yet */
	bool		skips_lost;		/* else offsets that are gone are an error */
	bool		skips_unreadable;	/* so are records that cannot be unpacked */
	int			nlosses;		/* of the batch */
	SaggRange  *losses;
	struct SaggGroupOffsets *group; /* NULL = no offsets are committed to Kafka */
};

/* group_offsets.c */
extern void sagg_group_attach(SaggReader *reader);
extern void sagg_group_detach(SaggReader *reader);

/* consumer.c */
extern void sagg_reader_assign_all(SaggReader *reader);

/* collect.c */
extern bool sagg_reader_prod(SaggReader *reader, bool at_once);
extern bool sagg_queue_was_full(const SaggReader *reader,
								const SaggPartition *part,
								int64 records, int64 bytes);

/* data_loss.c */
extern void sagg_reader_add_loss(SaggReader *reader, const SaggPartition *part,
								 int64 start, int64 end);
extern void sagg_reader_skip_lost(SaggReader *reader);
extern void sagg_reader_forget_losses(SaggReader *reader);

/* unreadable.c */
extern bool sagg_is_unreadable(const rd_kafka_message_t *message);
extern void sagg_reader_skip_unreadable(SaggReader *reader);

/* topic_query.c */
extern void sagg_reader_open_asks(SaggReader *reader);
extern void sagg_reader_before_attempt(SaggReader *reader, SaggClient *client,
									   TimestampTz until,
									   rd_kafka_resp_err_t err);
extern TimestampTz sagg_reader_deadline(SaggReader *reader);
extern int	sagg_reader_slice(TimestampTz until);

/* reader_trouble.c */
extern void sagg_reader_check_refused(SaggReader *reader);
extern bool sagg_reader_is_hopeless(const SaggReader *reader, const SaggClient *client);
pg_noreturn extern void sagg_reader_raise_no_answer(SaggReader *reader,
													const SaggClient *client,
													rd_kafka_resp_err_t err);

/* partition_queue.c */
extern void sagg_partition_attach(SaggReader *reader, SaggPartition *part);
extern void sagg_partition_restart(SaggReader *reader, SaggPartition *part,
								   int64 position);
extern void sagg_queue_drain(rd_kafka_queue_t *queue);
extern void sagg_partition_detach(SaggReader *reader, SaggPartition *part);
extern rd_kafka_message_t *sagg_partition_peek(SaggReader *reader,
											   SaggPartition *part);
extern rd_kafka_message_t *sagg_partition_take(SaggPartition *part);

/* portions.c */
extern void sagg_portions_drop(SaggReader *reader, SaggPartition *part);
extern int64 sagg_portions_first(SaggPartition *part);
extern int64 sagg_portions_end(SaggPartition *part);
extern Size sagg_portions_bytes(SaggPartition *part);
extern bool sagg_portions_lack_headers(SaggPartition *part);
extern int64 sagg_portion_take(SaggReader *reader, SaggPartition *part,
							   int64 end, int64 *bytes);

/* collector.c */
extern void sagg_collector_halt(SaggReader *reader);
extern void sagg_collector_end(SaggReader *reader);

/* spill_file.c */
#define SAGG_SPILL_BUFFER		65536

typedef struct SaggSpill SaggSpill;

typedef struct SaggReadAhead
{
	int64		start;			/* place in the file */
	int64		len;			/* bytes in data */
	char		data[SAGG_SPILL_BUFFER];
} SaggReadAhead;

extern SaggSpill *sagg_spill_create(void);
extern void sagg_spill_close(SaggSpill *spill);
extern int64 sagg_spill_size(const SaggSpill *spill);
extern void sagg_spill_write(SaggSpill *spill, const void *data, Size len);
extern void sagg_spill_read(SaggSpill *spill, SaggReadAhead *ahead,
							int64 offset, void *data, Size len);

#endif							/* SAGG_READER_INTERNAL_H */
