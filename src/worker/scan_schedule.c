/*-------------------------------------------------------------------------
 *
 * scan_schedule.c
 *	  Scans of databases (database_scan.c): which are due, which are running, which
 *	  have been given up.
 *
 * The launcher never waits for a scan.  It starts a few at a time, checks which have
 * ended whenever its latch is set, and terminates one that takes too long: a scan may
 * wait for a lock on its database, which the database's owner can hold for hours (ALTER
 * DATABASE ... RENAME in a transaction block).  Such a database is scanned again, later
 * each time.  All such databases share one place, so that they do not take the places of
 * others.
 *
 * The list is in the launcher's own memory: a new launcher scans all databases.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/* scans at a time; each takes one of max_worker_processes */
#define MAX_SCANS			3

/* how long a scan may take */
#define SCAN_TIMEOUT_MS	10000

/* the first pause before another attempt, which doubles up to the last */
#define FIRST_RETRY_MS		10000
#define LAST_RETRY_MS		(5 * 60 * 1000)

typedef struct DatabaseScan
{
	Oid			database;
	TimestampTz due;			/* of a running scan: when it is given up */
	int			failures;		/* attempts in a row without a result */
	bool		slow;			/* a scan was given up */
	bool		terminated;		/* the running scan has been told to end */
	bool		again;			/* the database was marked while the scan ran */
	BackgroundWorkerHandle *process;	/* running, NULL = none */
} DatabaseScan;

static List *scans = NIL;		/* of DatabaseScan; in TopMemoryContext */

static DatabaseScan *
find_scan(Oid database)
{
	ListCell   *lc;

	foreach(lc, scans)
	{
		DatabaseScan *scan = lfirst(lc);

		if (scan->database == database)
			return scan;
	}
	return NULL;
}

/*
 * Schedule a scan of a database: at once, or soon if scans of it have been given up.
 */
void
sagg_scan_schedule_add(Oid database)
{
	MemoryContext old;
	DatabaseScan *scan = find_scan(database);

	if (scan && scan->process)
		scan->again = true;
	else if (scan && scan->slow)
		scan->due = Min(scan->due,
						TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_RETRY_MS));
	else if (scan)
		scan->due = 0;
	if (scan)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	scan = palloc0(sizeof(DatabaseScan));
	scan->database = database;
	scans = lappend(scans, scan);
	MemoryContextSwitchTo(old);
}

/*
 * Forget scheduled scans of databases that are not in the list: they were dropped.
 */
void
sagg_scan_schedule_keep(const List *databases)
{
	ListCell   *lc;

	foreach(lc, scans)
	{
		DatabaseScan *scan = lfirst(lc);

		if (scan->process || list_member_oid(databases, scan->database))
			continue;
		scans = foreach_delete_current(scans, lc);
		pfree(scan);
	}
}

static void
try_later(DatabaseScan *scan, TimestampTz now)
{
	int64		pause_ms = (int64) FIRST_RETRY_MS << Min(scan->failures, 10);

	scan->failures++;
	scan->due = TimestampTzPlusMilliseconds(now, Min(pause_ms, LAST_RETRY_MS));
}

/*
 * A scan has taken too long: terminate it.
 */
static void
give_up(DatabaseScan *scan)
{
	scan->terminated = true;
	TerminateBackgroundWorker(scan->process);
	if (!scan->slow)
		ereport(WARNING,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not look for streams in database %u within %d s",
						scan->database, SCAN_TIMEOUT_MS / 1000),
				 errdetail("Its streams are neither started nor stopped until that succeeds; it is tried again."),
				 errhint("Perhaps a transaction holds a lock on the database.")));
	scan->slow = true;
}

/*
 * Check on a running scan.  Returns false when it is done and not to be repeated.
 */
static bool
check_ended(DatabaseScan *scan, TimestampTz now)
{
	pid_t		pid;

	if (GetBackgroundWorkerPid(scan->process, &pid) != BGWH_STOPPED)
	{
		if (!scan->terminated && now >= scan->due)
			give_up(scan);
		return true;
	}
	pfree(scan->process);
	scan->process = NULL;
	if (scan->terminated)
	{
		scan->terminated = false;
		try_later(scan, now);
		return true;
	}
	scan->due = 0;
	scan->failures = 0;
	scan->slow = false;
	if (!scan->again)
		return false;
	scan->again = false;
	return true;
}

static void
start_scan(DatabaseScan *scan, TimestampTz now)
{
	scan->again = false;
	scan->process = sagg_database_scan_start(scan->database);
	if (scan->process)
		scan->due = TimestampTzPlusMilliseconds(now, SCAN_TIMEOUT_MS);
	else
		try_later(scan, now);
}

/*
 * Start scans that are due, as far as there are places.
 */
static void
start_due_scans(TimestampTz now)
{
	int			places = MAX_SCANS;
	bool		slow_place = true;
	ListCell   *lc;

	foreach(lc, scans)
	{
		DatabaseScan *scan = lfirst(lc);

		if (scan->process == NULL)
			continue;
		places--;
		if (scan->slow && !scan->terminated)
			slow_place = false;
	}
	foreach(lc, scans)
	{
		DatabaseScan *scan = lfirst(lc);

		if (places <= 0)
			break;
		if (scan->process || scan->due > now || (scan->slow && !slow_place))
			continue;
		start_scan(scan, now);
		if (scan->process == NULL)
			continue;
		places--;
		if (scan->slow)
			slow_place = false;
	}
}

/*
 * Check on running scans and start due ones.  Returns when to call again, 0 = when the
 * latch is set, which happens too when a scan ends.
 */
TimestampTz
sagg_scan_schedule_tend(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz again = 0;
	ListCell   *lc;

	foreach(lc, scans)
	{
		DatabaseScan *scan = lfirst(lc);

		if (scan->process == NULL || check_ended(scan, now))
			continue;
		scans = foreach_delete_current(scans, lc);
		pfree(scan);
	}
	start_due_scans(now);
	foreach(lc, scans)
	{
		DatabaseScan *scan = lfirst(lc);

		/* scans that wait for a place are started when another one ends */
		if (scan->due > now && !scan->terminated && (again == 0 || scan->due < again))
			again = scan->due;
	}
	return again;
}
