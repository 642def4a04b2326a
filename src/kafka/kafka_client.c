/*-------------------------------------------------------------------------
 *
 * kafka_client.c
 *	  The life of a librdkafka client inside a server process.
 *
 * Every client is on a list of the process and is destroyed before the process
 * leaves shared memory, if not earlier; a client left to exit() would race
 * with its own threads.  A process that was forked with the list ignores it,
 * because librdkafka's threads do not exist there.
 *
 * librdkafka's threads run with all signals blocked and never call into the
 * server: logs and errors are events of a queue which this process polls.
 *
 * A broker can send data that a thread of librdkafka never finishes
 * processing.  So a thread destroys the client, and this process waits for it
 * for a limited time.  A client that is not destroyed by then is left behind,
 * and the process ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "kafka_internal.h"

/* how long a process waits for the end of a client, in seconds */
#define DESTROY_TIMEOUT_S	3

static dlist_head clients = DLIST_STATIC_INIT(clients);

/*
 * A client that is being destroyed, shared by both threads; allocated by
 * malloc.
 */
typedef struct Destruction
{
	rd_kafka_t *rk;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool		done;
} Destruction;

static void
close_all_clients(int code, Datum arg)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &clients)
	{
		SaggClient *client = dlist_container(SaggClient, node, iter.cur);

		sagg_client_close(client);
	}
}

/*
 * Does rd_kafka_new, whose threads inherit the current signal mask.
 */
static rd_kafka_t *
new_with_signals_blocked(rd_kafka_type_t type, rd_kafka_conf_t *conf,
						 char *reason, size_t size)
{
	sigset_t	all;
	sigset_t	before;
	rd_kafka_t *rk;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rk = rd_kafka_new(type, conf, reason, size);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rk;
}

/*
 * Make a descriptor by which librdkafka's queues wake this process
 * (rd_kafka_queue_io_event_enable).  Raises insufficient_resources.
 */
int
sagg_event_fd_open(void)
{
	int			fd;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not reserve a file descriptor for a Kafka client"),
				 errhint("Increase max_files_per_process.")));
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fd < 0)
	{
		int			save_errno = errno;

		ReleaseExternalFD();
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create an event descriptor: %m")));
	}
	return fd;
}

/*
 * Close the descriptor.  Raises no error.
 */
void
sagg_event_fd_close(int fd)
{
	close(fd);
	ReleaseExternalFD();
}

/*
 * Add another topic; closes the client if librdkafka rejects it.
 */
static void
add_topic(SaggClient *client, const char *name)
{
	rd_kafka_resp_err_t err;

	client->topics[client->ntopics] = rd_kafka_topic_new(client->rk, name, NULL);
	if (client->topics[client->ntopics] != NULL)
	{
		client->ntopics++;
		return;
	}
	err = rd_kafka_last_error();
	sagg_client_close(client);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid topic \"%s\"", name),
			 errdetail_internal("%s.", rd_kafka_err2str(err))));
}

/*
 * Make a client for these topics; more can be used by name.  Takes over
 * "conf", whether it raises an error or not.  Contacts brokers only in the
 * background.  Close it with sagg_client_close;
 * "release" is called with "owner" then, or at the end of the process.
 */
SaggClient *
sagg_client_open(rd_kafka_type_t type, rd_kafka_conf_t *conf,
				 char *const *topics, int ntopics,
				 void (*release) (void *), void *owner)
{
	static pid_t registered = 0;
	SaggClient *client;
	char		reason[SAGG_TROUBLE_SIZE] = "";

	if (registered != getpid())
	{
		before_shmem_exit(close_all_clients, (Datum) 0);
		registered = getpid();
	}
	client = MemoryContextAllocExtended(TopMemoryContext, sizeof(SaggClient) +
										sizeof(rd_kafka_topic_t *) * ntopics,
										MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);
	if (client && type == RD_KAFKA_CONSUMER)
		client->arrivals = sagg_arrivals_count(conf);
	if (client)
		client->rk = new_with_signals_blocked(type, conf, reason, sizeof(reason));
	if (client == NULL || client->rk == NULL)
	{
		/*
		 * A configuration with an interceptor must not be destroyed when
		 * rd_kafka_new has failed: that has freed the list of interceptors,
		 * which would be freed again.  Its few kB are leaked.
		 */
		if (client == NULL || client->arrivals == NULL)
			rd_kafka_conf_destroy(conf);
		if (client)
		{
			sagg_arrivals_free(client->arrivals);
			pfree(client);
		}
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("could not set up a Kafka client"),
				 reason[0] ? errdetail_internal("%s.", reason) : 0));
	}
	client->pid = getpid();
	dlist_push_tail(&clients, &client->node);

	(void) rd_kafka_set_log_queue(client->rk, NULL);
	client->events = rd_kafka_queue_get_main(client->rk);
	client->topics = (rd_kafka_topic_t **) (client + 1);
	for (int i = 0; i < ntopics; i++)
		add_topic(client, topics[i]);
	client->release = release;
	client->owner = owner;
	return client;
}

/*
 * Does pthread_create, for a thread that runs with all signals blocked.
 * Returns 0, or an errno when resources are exhausted.
 */
int
sagg_thread_start(pthread_t *thread, void *(*main) (void *), void *arg)
{
	sigset_t	all;
	sigset_t	before;
	int			error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, NULL, main, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

/*
 * The thread that destroys a client: it only calls librdkafka.
 */
static void *
destroy_main(void *arg)
{
	Destruction *destruction = arg;

	rd_kafka_destroy_flags(destruction->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	pthread_mutex_lock(&destruction->lock);
	destruction->done = true;
	pthread_cond_signal(&destruction->changed);
	pthread_mutex_unlock(&destruction->lock);
	return NULL;
}

/*
 * Start that thread, with all signals blocked.  Returns NULL when resources
 * are exhausted.
 */
static Destruction *
begin_destruction(rd_kafka_t *rk, pthread_t *thread)
{
	Destruction *destruction = malloc(sizeof(Destruction));
	pthread_condattr_t attributes;

	if (destruction == NULL)
		return NULL;
	destruction->rk = rk;
	destruction->done = false;
	pthread_mutex_init(&destruction->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&destruction->changed, &attributes);
	pthread_condattr_destroy(&attributes);

	if (sagg_thread_start(thread, destroy_main, destruction) == 0)
		return destruction;
	pthread_cond_destroy(&destruction->changed);
	pthread_mutex_destroy(&destruction->lock);
	free(destruction);
	return NULL;
}

/*
 * Returns whether the thread has ended in time, and frees what it used if so.
 */
static bool
await_destruction(Destruction *destruction, pthread_t thread)
{
	struct timespec until;
	bool		done;
	int			error = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += DESTROY_TIMEOUT_S;
	pthread_mutex_lock(&destruction->lock);
	while (!destruction->done && error == 0)
		error = pthread_cond_timedwait(&destruction->changed, &destruction->lock, &until);
	done = destruction->done;
	pthread_mutex_unlock(&destruction->lock);
	if (!done)
		return false;
	pthread_join(thread, NULL);
	pthread_cond_destroy(&destruction->changed);
	pthread_mutex_destroy(&destruction->lock);
	free(destruction);
	return true;
}

/*
 * Exit the process without exit(), which would race with the threads of a
 * client that was left behind.
 */
static void
leave_at_once(int code, Datum arg)
{
	_exit(code);
}

/*
 * A client was left behind: this process ends as soon as it can.
 */
static void
end_process(void)
{
	static bool ending = false;

	if (ending)
		return;
	ending = true;
	on_proc_exit(leave_at_once, (Datum) 0);
	ereport(LOG,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("a Kafka client has not ended within %d s, so this process ends", DESTROY_TIMEOUT_S),
			 errdetail("A broker has sent data that librdkafka cannot finish processing.")));
	if (!proc_exit_inprogress)
	{
		ProcDiePending = InterruptPending = true;
		SetLatch(MyLatch);
	}
}

/*
 * Does rd_kafka_destroy, for a limited time.  Returns whether the client's
 * threads have ended.
 */
static bool
destroy_client(rd_kafka_t *rk)
{
	pthread_t	thread;
	Destruction *destruction = begin_destruction(rk, &thread);

	if (destruction == NULL)
		rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	else if (!await_destruction(destruction, thread))
	{
		end_process();
		return false;
	}
	return true;
}

/*
 * Destroy a client and everything that belongs to it.  Raises no error, and
 * waits for no broker.
 */
void
sagg_client_close(SaggClient *client)
{
	dlist_delete(&client->node);
	if (client->pid == getpid())
	{
		if (client->release)
			client->release(client->owner);
		for (int i = 0; i < client->ntopics; i++)
			rd_kafka_topic_destroy(client->topics[i]);
		rd_kafka_queue_io_event_enable(client->events, -1, NULL, 0);
		rd_kafka_queue_destroy(client->events);
		if (destroy_client(client->rk))
			sagg_arrivals_free(client->arrivals);
	}
	pfree(client);
}

/*
 * Cut what librdkafka says about its own state at the end of an error, such as
 * "(after 0ms in state CONNECT, 1 identical error(s) suppressed)".
 */
static void
cut_state(char *text)
{
	char	   *open = NULL;

	for (char *next = strstr(text, " (after "); next; next = strstr(next + 1, " (after "))
		open = next;
	if (open && strstr(open, "ms in state ") != NULL)
		*open = '\0';
}

/*
 * Note an error of a connection.  librdkafka puts its own name for the place
 * in front of most texts; the line breaks and the final period are cut so that
 * the text fits into a sentence.
 */
void
sagg_client_note_trouble(SaggClient *client, const char *text)
{
	size_t		len;

	client->broken = true;
	if (client->trouble[0] == '\0')
		client->trouble_since = GetCurrentTimestamp();
	strlcpy(client->trouble, text, sizeof(client->trouble));
	cut_state(client->trouble);
	len = strlen(client->trouble);
	while (len > 0 && strchr(". \r\n", client->trouble[len - 1]) != NULL)
		client->trouble[--len] = '\0';
	sagg_foreign_text_clean(client->trouble);
}

/*
 * Returns the text of a log without the names of thread and client in front of
 * it.
 */
static const char *
without_origin(const char *text)
{
	static const char *const origins[] = {"[thrd:", "rdkafka#"};

	for (int i = 0; i < lengthof(origins); i++)
	{
		const char *colon = strstr(text, ": ");

		if (strncmp(text, origins[i], strlen(origins[i])) == 0 && colon)
			text = colon + 2;
	}
	return text;
}

/*
 * Note one event, if it is an error or a log; the caller destroys it.
 */
void
sagg_client_note_event(SaggClient *client, rd_kafka_event_t *event)
{
	const char *facility;
	const char *text;
	int			level;

	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_ERROR:
			switch (rd_kafka_event_error(event))
			{
				case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
					if (client->down_since == 0)
						client->down_since = GetCurrentTimestamp();
					/* says less than what came before */
					if (client->trouble[0] != '\0')
						break;
					/* FALLTHROUGH */
				default:
					sagg_client_note_trouble(client, rd_kafka_event_error_string(event));
					break;
				case RD_KAFKA_RESP_ERR__AUTHENTICATION:
				case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
					sagg_client_note_trouble(client, rd_kafka_event_error_string(event));
					client->rejected = true;
					break;
			}
			break;
		case RD_KAFKA_EVENT_LOG:
			if (rd_kafka_event_log(event, &facility, &text, &level) == 0 &&
				message_level_is_interesting(DEBUG1))
				elog(DEBUG1, "librdkafka: %s: %s", facility, sagg_foreign_text(text));

			/*
			 * Errors of a partition whose topic is gone appear only in the
			 * log, which also is the only place that says that partitions
			 * came or went.
			 */
			if (strcmp(facility, "ERROR") == 0)
				sagg_client_note_trouble(client, without_origin(text));
			else if (strcmp(facility, "PARTCNT") == 0)
				client->broken = true;
			break;
		default:
			break;
	}
}

/*
 * Note the client's logs and errors.  Never waits.
 */
void
sagg_client_serve(SaggClient *client)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(client->events, 0)) != NULL)
	{
		sagg_client_note_event(client, event);
		rd_kafka_event_destroy(event);
	}
}
