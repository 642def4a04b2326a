/*-------------------------------------------------------------------------
 *
 * scan_schedule.c
 *	  Scouts in their databases: which are due, which are under way, which
 *	  have been given up.
 *
 * The launcher never waits for a scout.  It sends a few at a time, looks who is
 * back whenever its latch is set, and ends one that takes too long: a scout may
 * wait for a lock on its database, which the owner of that can hold for hours
 * (ALTER DATABASE ... RENAME in a transaction block).  Such a database is visited
 * again, later each time, and all of those share one place, so they do not take
 * the places of others.
 *
 * The list is in the launcher's own memory: a new launcher visits all databases.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/* scouts at a time; each takes one of max_worker_processes */
#define MOST_SCOUTS			3

/* how long a scout may take */
#define SCOUT_TIMEOUT_MS	10000

/* the first pause before another attempt, which doubles up to the last */
#define FIRST_RETRY_MS		10000
#define LAST_RETRY_MS		(5 * 60 * 1000)

typedef struct Visit
{
	Oid			database;
	TimestampTz due;			/* of a scout under way: when it is given up */
	int			failures;		/* attempts in a row that came to nothing */
	bool		slow;			/* a scout was given up */
	bool		ended;			/* the scout under way has been told to end */
	bool		again;			/* marked while the scout was there */
	BackgroundWorkerHandle *scout;	/* under way, NULL = none */
} Visit;

static List *visits = NIL;		/* of Visit; in TopMemoryContext */

static Visit *
find_visit(Oid database)
{
	ListCell   *lc;

	foreach(lc, visits)
	{
		Visit	   *visit = lfirst(lc);

		if (visit->database == database)
			return visit;
	}
	return NULL;
}

/*
 * A database is to be visited: at once, or soon if scouts have been given up there.
 */
void
sagg_scan_schedule_add(Oid database)
{
	MemoryContext old;
	Visit	   *visit = find_visit(database);

	if (visit && visit->scout)
		visit->again = true;
	else if (visit && visit->slow)
		visit->due = Min(visit->due,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_RETRY_MS));
	else if (visit)
		visit->due = 0;
	if (visit)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	visit = palloc0(sizeof(Visit));
	visit->database = database;
	visits = lappend(visits, visit);
	MemoryContextSwitchTo(old);
}

/*
 * Forget visits to come of databases that are not among these: they are gone.
 */
void
sagg_scan_schedule_keep(const List *databases)
{
	ListCell   *lc;

	foreach(lc, visits)
	{
		Visit	   *visit = lfirst(lc);

		if (visit->scout || list_member_oid(databases, visit->database))
			continue;
		visits = foreach_delete_current(visits, lc);
		pfree(visit);
	}
}

static void
try_later(Visit *visit, TimestampTz now)
{
	int64		pause_ms = (int64) FIRST_RETRY_MS << Min(visit->failures, 10);

	visit->failures++;
	visit->due = TimestampTzPlusMilliseconds(now, Min(pause_ms, LAST_RETRY_MS));
}

/*
 * A scout has taken too long: end it.
 */
static void
give_up(Visit *visit)
{
	visit->ended = true;
	TerminateBackgroundWorker(visit->scout);
	if (!visit->slow)
		ereport(WARNING,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not look for streams in database %u within %d s",
						visit->database, SCOUT_TIMEOUT_MS / 1000),
				 errdetail("Its streams are neither started nor stopped until that succeeds; it is tried again."),
				 errhint("Perhaps a transaction holds a lock on the database.")));
	visit->slow = true;
}

/*
 * What has become of a scout under way?  Returns false when the visit is over.
 */
static bool
look_after(Visit *visit, TimestampTz now)
{
	pid_t		pid;

	if (GetBackgroundWorkerPid(visit->scout, &pid) != BGWH_STOPPED)
	{
		if (!visit->ended && now >= visit->due)
			give_up(visit);
		return true;
	}
	pfree(visit->scout);
	visit->scout = NULL;
	if (visit->ended)
	{
		visit->ended = false;
		try_later(visit, now);
		return true;
	}
	visit->due = 0;
	visit->failures = 0;
	visit->slow = false;
	if (!visit->again)
		return false;
	visit->again = false;
	return true;
}

static void
send_scout(Visit *visit, TimestampTz now)
{
	visit->again = false;
	visit->scout = sagg_database_scan_start(visit->database);
	if (visit->scout)
		visit->due = TimestampTzPlusMilliseconds(now, SCOUT_TIMEOUT_MS);
	else
		try_later(visit, now);
}

/*
 * Send scouts that are due as far as there are places.
 */
static void
send_scouts(TimestampTz now)
{
	int			places = MOST_SCOUTS;
	bool		slow_place = true;
	ListCell   *lc;

	foreach(lc, visits)
	{
		Visit	   *visit = lfirst(lc);

		if (visit->scout == NULL)
			continue;
		places--;
		if (visit->slow && !visit->ended)
			slow_place = false;
	}
	foreach(lc, visits)
	{
		Visit	   *visit = lfirst(lc);

		if (places <= 0)
			break;
		if (visit->scout || visit->due > now || (visit->slow && !slow_place))
			continue;
		send_scout(visit, now);
		if (visit->scout == NULL)
			continue;
		places--;
		if (visit->slow)
			slow_place = false;
	}
}

/*
 * Go on with all visits.  Returns when to look again, 0 = when the latch is set.
 * That happens too when a scout has come back.
 */
TimestampTz
sagg_scan_schedule_tend(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz again = 0;
	ListCell   *lc;

	foreach(lc, visits)
	{
		Visit	   *visit = lfirst(lc);

		if (visit->scout == NULL || look_after(visit, now))
			continue;
		visits = foreach_delete_current(visits, lc);
		pfree(visit);
	}
	send_scouts(now);
	foreach(lc, visits)
	{
		Visit	   *visit = lfirst(lc);

		/* those that wait for a place are sent when a scout comes back */
		if (visit->due > now && !visit->ended && (again == 0 || visit->due < again))
			again = visit->due;
	}
	return again;
}
