/*-------------------------------------------------------------------------
 *
 * batch_timeout.c
 *	  statement_timeout of a stream's owner, for its micro-batches.
 *
 * What ALTER ROLE or ALTER DATABASE says of statement_timeout is for a worker too:
 * EXECUTE, WRITE and CHECKPOINT of a micro-batch together are one statement.  One
 * that takes longer is rolled back, and retried like one that was cancelled.
 *
 * A timeout for the whole server, in postgresql.conf, is not: it is meant for
 * clients, and would keep a stream that has to catch up from ever doing so.  The
 * server does not tell where a value comes from, but a worker sees it change when
 * it connects to the database as the owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/timeout.h"

#include "worker_internal.h"

/* in ms; 0 = none */
static int	timeout_of_server = 0;
static int	timeout_of_owner = 0;

/*
 * Before the worker connects to the database.
 */
void
sagg_batch_timeout_connecting(void)
{
	timeout_of_server = StatementTimeout;
}

/*
 * And after that.
 */
void
sagg_batch_timeout_connected(void)
{
	if (StatementTimeout != timeout_of_server)
		timeout_of_owner = StatementTimeout;
}

/*
 * The transaction of a micro-batch has begun.
 */
void
sagg_batch_timeout_begin(void)
{
	if (timeout_of_owner > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, timeout_of_owner);
}

/*
 * It is about to be committed, or has failed.  A timeout that comes at this very
 * moment is forgotten.
 */
void
sagg_batch_timeout_end(void)
{
	if (timeout_of_owner == 0)
		return;
	disable_timeout(STATEMENT_TIMEOUT, true);
	if (get_timeout_indicator(STATEMENT_TIMEOUT, true))
		QueryCancelPending = false;
}
