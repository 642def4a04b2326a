/*-------------------------------------------------------------------------
 *
 * executor_link.c
 *	  The link between a stream's worker and one of its executors: a segment of
 *	  dynamic shared memory with two queues.
 *
 * The segment lives as long as one of the two processes has it.  A process that
 * ends, however it does, detaches from its queues, and the other one learns that
 * when it sends or receives.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#include "executors.h"

/* messages may be longer: they are sent piece by piece */
#define COMMANDS_SIZE	(32 * 1024)
#define REPLIES_SIZE	(1024 * 1024)

#define HEAD_SIZE		MAXALIGN(sizeof(SaggLinkHead))

static shm_mq *
queue_of_commands(const SaggLink *link)
{
	return (shm_mq *) ((char *) dsm_segment_address(link->segment) + HEAD_SIZE);
}

static shm_mq *
queue_of_replies(const SaggLink *link)
{
	return (shm_mq *) ((char *) queue_of_commands(link) + COMMANDS_SIZE);
}

/*
 * Make the leader's end of a link to executor "number" of the stream in a slot;
 * allocates in the current context, which lives until sagg_link_close.  Returns false
 * if the server has too many segments.
 */
bool
sagg_link_make(SaggLink *link, int slot, int number)
{
	link->segment = dsm_create(HEAD_SIZE + COMMANDS_SIZE + REPLIES_SIZE,
							   DSM_CREATE_NULL_IF_MAXSEGMENTS);
	if (link->segment == NULL)
		return false;
	dsm_pin_mapping(link->segment);
	link->head = dsm_segment_address(link->segment);
	link->head->leader = MyProc;
	link->head->leader_pid = MyProcPid;
	link->head->leader_latch = MyLatch;
	link->head->slot = slot;
	link->head->number = number;
	pg_atomic_init_u32(&link->head->has_records, 0);
	pg_atomic_init_u32(&link->head->failed, 0);
	pg_atomic_init_u32(&link->head->busy, 1);
	pg_atomic_init_u32(&link->head->closing, 0);
	shm_mq_set_sender(shm_mq_create(queue_of_commands(link), COMMANDS_SIZE), MyProc);
	shm_mq_set_receiver(shm_mq_create(queue_of_replies(link), REPLIES_SIZE), MyProc);
	link->out = shm_mq_attach(queue_of_commands(link), link->segment, NULL);
	link->in = shm_mq_attach(queue_of_replies(link), link->segment, NULL);
	return true;
}

/*
 * The process at the other end has been registered: a leader does not wait for one
 * that ends before it attaches.
 */
void
sagg_link_set_process(SaggLink *link, BackgroundWorkerHandle *handle)
{
	shm_mq_set_handle(link->out, handle);
	shm_mq_set_handle(link->in, handle);
}

/*
 * Make the executor's end, in the current context.  Returns false if the leader is
 * gone.
 */
bool
sagg_link_attach(SaggLink *link, dsm_handle handle)
{
	link->segment = dsm_attach(handle);
	if (link->segment == NULL)
		return false;
	dsm_pin_mapping(link->segment);
	link->head = dsm_segment_address(link->segment);
	shm_mq_set_receiver(queue_of_commands(link), MyProc);
	shm_mq_set_sender(queue_of_replies(link), MyProc);
	link->in = shm_mq_attach(queue_of_commands(link), link->segment, NULL);
	link->out = shm_mq_attach(queue_of_replies(link), link->segment, NULL);
	return true;
}

/*
 * Close the leader's end.  Returns whether the executor is busy, so that it has to be
 * told to end; otherwise it ends by itself.  Raises no error.
 */
bool
sagg_link_close(SaggLink *link)
{
	bool		busy;

	if (link->segment == NULL)
		return false;
	(void) pg_atomic_exchange_u32(&link->head->closing, 1);
	busy = pg_atomic_read_u32(&link->head->busy) != 0;
	shm_mq_detach(link->in);
	shm_mq_detach(link->out);
	dsm_detach(link->segment);
	link->segment = NULL;
	return busy;
}

/*
 * The executor is about to do what a command says.  Returns false if the leader has
 * gone.
 */
bool
sagg_link_begin(SaggLink *link)
{
	(void) pg_atomic_exchange_u32(&link->head->busy, 1);
	return pg_atomic_read_u32(&link->head->closing) == 0;
}

/*
 * The executor has done it.
 */
void
sagg_link_end(SaggLink *link)
{
	(void) pg_atomic_exchange_u32(&link->head->busy, 0);
}

/*
 * Send a message, and wait until it is in the queue.  Returns false if the other
 * process has gone.
 */
bool
sagg_link_send(SaggLink *link, char type, const char *data, Size len)
{
	shm_mq_iovec parts[2];

	parts[0].data = &type;
	parts[0].len = 1;
	parts[1].data = data;
	parts[1].len = len;
	return shm_mq_sendv(link->out, parts, len > 0 ? 2 : 1, false, true) == SHM_MQ_SUCCESS;
}

/*
 * Receive a message: sets its type, and "message" to its bytes, which belong to the
 * queue and stay until the next call.  Returns false if there is none; with "wait"
 * only if the other process has gone, as "ended" says.
 */
bool
sagg_link_receive(SaggLink *link, bool wait, char *type, StringInfo message, bool *ended)
{
	Size		len;
	void	   *data;
	shm_mq_result result = shm_mq_receive(link->in, &len, &data, !wait);

	*ended = result == SHM_MQ_DETACHED;
	if (result != SHM_MQ_SUCCESS)
		return false;
	if (len < 1)
		elog(ERROR, "a message of an executor is empty");
	*type = *(char *) data;
	message->data = (char *) data + 1;
	message->len = len - 1;
	message->maxlen = -1;
	message->cursor = 0;
	return true;
}
