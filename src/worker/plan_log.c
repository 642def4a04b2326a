/*-------------------------------------------------------------------------
 *
 * plan_log.c
 *	  The transactions that write plans into the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "worker_internal.h"

/*
 * Returns whether the next batch of the reading replaces the rows of a sink.
 * Such a batch is one commit or none, of all that there is to read.
 */
bool
sagg_reading_replaces(const SaggReading *reading)
{
	ListCell   *lc;

	foreach(lc, reading->runs)
	{
		if (((SaggStreamRun *) lfirst(lc))->progress->replace)
			return true;
	}
	return false;
}

/*
 * Begin a transaction that writes plans of the reading that "run" belongs to.
 * "durable": they survive a crash of the server as soon as they are committed, and
 * not only a little later.
 */
void
sagg_plan_transaction(SaggStreamRun *run, bool durable)
{
	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", durable ? "local" : "off",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	sagg_run_check_stream(run);
}

void
sagg_plan_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}
