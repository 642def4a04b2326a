/*-------------------------------------------------------------------------
 *
 * start_process.c
 *	  Has the postmaster start a process of ours: a worker, a scan of a database or
 *	  an observer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "worker_internal.h"

/*
 * Start a process with a database connection that runs "function" of this library
 * with "arg", once; the latch of this process is set when it starts and ends.
 * "type" is its backend_type, "name" its name in the server log.  Sets "handle",
 * in TopMemoryContext.  Returns false if no background worker slot is free.
 */
bool
sagg_start_process(const char *function, const char *type, const char *name,
				   Datum arg, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, SAGG_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker.bgw_name, name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);
	worker.bgw_main_arg = arg;
	worker.bgw_notify_pid = MyProcPid;
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, handle);
	MemoryContextSwitchTo(old);
	return started;
}
