/*-------------------------------------------------------------------------
 *
 * stream_run.c
 *	  A stream run: what it has open, the settings it runs under, and whether
 *	  the stream is still the one it was opened for.
 *
 * Never: a call of the reader that waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "worker_internal.h"

/* how often an idle stream reads the catalogs */
#define STREAM_CHECK_MS		30000

/*
 * Take the stream's lock, and read its definition into run->stream, in a
 * transaction.  Returns false if this worker has no such stream, and in "how"
 * why.
 */
bool
sagg_run_load(SaggStreamRun *run, SaggExit *how)
{
	LOCKTAG		tag;

	sagg_stream_locktag(&tag, MyDatabaseId, run->slot->view);
	if (!run->locked && LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		ereport(LOG,
				(errmsg("another process holds stream \"%s\"", run->slot->name),
				 errdetail("This worker has not touched the stream's state.")));
		*how = SAGG_EXIT_DIED;
		return false;
	}
	run->locked = true;
	sagg_slot_discard_stale(run->slot);

	*how = SAGG_EXIT_GONE;
	if (!sagg_extension_exists())
		return false;
	MemoryContextSwitchTo(run->memory);
	run->trusted_as_of = 0;
	run->stream = sagg_stream_by_view(run->slot->view, true);
	if (run->stream == NULL)
		return false;
	*how = SAGG_EXIT_CHANGED;
	return run->stream->owner == GetUserId() && run->stream->enabled &&
		run->stream->database == MyDatabaseId;
}

/*
 * Open checkpoint and sink of a run that has been loaded, and read its progress.
 * In the same transaction.  The store is opened by the first batch.
 */
void
sagg_run_open(SaggStreamRun *run)
{
	MemoryContextSwitchTo(run->memory);
	run->checkpoint = sagg_checkpoint_open(run->stream->name,
										   sagg_sources_by_topic(run->stream->sources));
	run->sink = sagg_sink_open(run->stream);
	run->progress = sagg_checkpoint_progress(run->checkpoint);
	sagg_sink_recover(run->sink, run->progress->batch);
}

/*
 * Close all that a run has open; it keeps its slot and its lock.  Also after an
 * error, outside of transactions.
 */
void
sagg_run_close(SaggStreamRun *run)
{
	if (run->sink)
		sagg_sink_close(run->sink);
	if (run->checkpoint)
		sagg_checkpoint_close(run->checkpoint);
	if (run->store)
		sagg_store_close(run->store);
	run->sink = NULL;
	run->checkpoint = NULL;
	run->store = NULL;
	run->store_undoable = false;
	run->query = NULL;
	run->stream = NULL;
	run->progress = NULL;
	run->new_partitions = false;
	run->plan = NULL;
	MemoryContextReset(run->memory);
}

/*
 * Set the role to the user the process has connected as, whatever ALTER ROLE or
 * ALTER DATABASE have set it to.  Outside of transactions.
 */
void
sagg_worker_reset_role(void)
{
	SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
}

/*
 * The name of a worker in pg_stat_activity, in the current context.  Everybody
 * sees it, so it has the OID of the stream's view: names of streams are for their
 * owners.
 */
static char *
run_label(const SaggStreamRun *run)
{
	return psprintf("stream_agg %u", run->slot->view);
}

/*
 * Set what was captured when the stream was created, and what a batch depends on
 * whatever role and database say.  All other settings go back to those at the
 * start of the process: what a user's function has set, the role included, ends
 * with its micro-batch.  To be called before each micro-batch and before the
 * catalogs are read; outside of transactions, as a transaction begins with these
 * defaults.
 */
void
sagg_run_settings(const SaggStreamRun *run)
{
	const SaggStream *stream = run->stream;
	MemoryContext memory = AllocSetContextCreate(run->memory, "stream_agg settings",
												 ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);

	sagg_worker_reset_role();
	ResetAllOptions();
	SetConfigOption("timezone", stream->timezone, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("datestyle", stream->datestyle, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("intervalstyle", stream->intervalstyle, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("search_path", stream->search_path, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_deferrable", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_SESSION);
	/* each micro-batch would compile its expressions again */
	SetConfigOption("jit", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("deadlock_timeout", SAGG_WORKER_DEADLOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("application_name", run_label(run), PGC_USERSET, PGC_S_SESSION);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
}

/*
 * Set what was captured when the stream was created for its part of a transaction
 * that several runs share.  Returns a nest level for AtEOXact_GUC, which takes
 * back these settings and what functions of the user have set since.
 */
int
sagg_run_settings_begin(const SaggStreamRun *run)
{
	const SaggStream *stream = run->stream;
	const char *const settings[][2] = {
		{"timezone", stream->timezone},
		{"datestyle", stream->datestyle},
		{"intervalstyle", stream->intervalstyle},
		{"search_path", stream->search_path},
		{"application_name", run_label(run)}
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/*
 * Show a stage in pg_stat_stream_agg and pg_stat_activity.  All runs of the
 * reading are in READ together.
 */
void
sagg_run_stage(SaggStreamRun *run, SaggStage stage)
{
	static const char *const names[SAGG_STAGES] =
	{"READ", "EXECUTE", "WRITE", "CHECKPOINT"};
	char		activity[SAGG_NAME_SIZE + 64];
	ListCell   *lc;

	run->slot->stage = stage;
	if (stage == SAGG_READ)
	{
		foreach(lc, run->reading->runs)
			((SaggStreamRun *) lfirst(lc))->slot->stage = stage;
	}
	snprintf(activity, sizeof(activity), "stream \"%s\", batch " INT64_FORMAT ": %s",
			 run->slot->name, run->plan->batch, names[stage]);
	pgstat_report_activity(STATE_RUNNING, activity);
}

/*
 * End the process if the stream's query, sink or sources belong to others than
 * those the stream was started for, or have done so since then.  In a transaction,
 * as the stream's owner; to be called again when they are locked.
 */
void
sagg_run_check_owners(SaggStreamRun *run)
{
	const SaggStream *stream = run->stream;
	uint64		changes = sagg_catalog_changes();

	if (sagg_relation_owner(run->slot->view) != GetUserId() ||
		!sagg_stream_has_owners(stream->owners, stream->view, stream->sink, stream->sources))
		sagg_worker_leave(run, SAGG_EXIT_CHANGED);

	/* one of them may have had another owner since the last check */
	if (changes != run->trusted_as_of && !sagg_stream_trust_lasts(stream))
		sagg_worker_leave(run, SAGG_EXIT_CHANGED);
	run->trusted_as_of = changes;
}

/*
 * Check, in a batch's transaction, that the stream exists, belongs to this worker
 * and to the owners it was started for, and that its sources have the topics that
 * the reader knows.  Ends the process if not; the next one follows the catalogs.
 */
void
sagg_run_check_stream(SaggStreamRun *run)
{
	if (!sagg_extension_exists() || !OidIsValid(sagg_relation_owner(run->slot->view)))
		sagg_worker_leave(run, SAGG_EXIT_GONE);
	sagg_run_check_owners(run);
	if (sagg_reader_sources_changed(run->reading->reader, run->stream->sources))
		sagg_worker_leave(run, SAGG_EXIT_CHANGED);
	run->checked = GetCurrentTimestamp();
}

/*
 * Check the stream outside of batches, in a transaction of its own, as the
 * stream's owner whatever role the last batch has left.
 */
void
sagg_run_check_now(SaggStreamRun *run)
{
	sagg_run_settings(run);
	StartTransactionCommand();
	sagg_run_check_stream(run);
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->reading->memory);
}

/*
 * Check a stream without batches, which would not notice otherwise, every
 * STREAM_CHECK_MS.
 */
void
sagg_run_check_idle(SaggStreamRun *run)
{
	if (TimestampDifferenceExceeds(run->checked, GetCurrentTimestamp(),
								   STREAM_CHECK_MS))
		sagg_run_check_now(run);
}
