/*-------------------------------------------------------------------------
 *
 * role_limit.c
 *	  Limits the streams of one role: stream_agg.max_streams_per_role.
 *
 * Streams of all databases share the slots, the background workers and the
 * shared memory of a server.  A role that is no superuser has no more of them
 * than its limit: create_stream and start_stream reject one more, and a stream
 * that exceeds it otherwise (concurrent transactions, a lower limit, a new
 * owner) gets no slot and waits.  The limit is that of the stream's owner,
 * regardless of who calls: the setting by ALTER ROLE, otherwise by the
 * configuration, never the one of a session.
 *
 * Databases with streams that wait for a slot are remembered; scouts visit
 * them when a slot becomes free.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "control.h"

#define SETTING			"stream_agg.max_streams_per_role"

/*
 * workers that the server and stream_agg need for themselves: the launcher of
 * logical replication, and that of streams
 */
#define OTHER_WORKERS	2

/* how often the log reports that streams wait */
#define WARNING_INTERVAL_MS	60000

PG_FUNCTION_INFO_V1(stream_agg_waiting_reason);

/*
 * Returns what a row of pg_db_role_setting says about the setting; false if
 * nothing.
 */
static bool
setting_in(Datum settings, int *value)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	bool		found = false;

	deconstruct_array(DatumGetArrayTypeP(settings), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *item = nulls[i] ? NULL : TextDatumGetCString(elements[i]);

		if (item && pg_strncasecmp(item, SETTING "=", strlen(SETTING "=")) == 0)
			found = parse_int(item + strlen(SETTING "="), value, 0, NULL);
	}
	return found;
}

/*
 * Returns what ALTER ROLE or ALTER DATABASE says about the setting for
 * sessions of "role" in this database.
 */
static bool
role_setting(Oid role, int *value)
{
	const Oid	keys[][2] = {{MyDatabaseId, role}, {InvalidOid, role},
	{MyDatabaseId, InvalidOid}, {InvalidOid, InvalidOid}};
	Relation	catalog = table_open(DbRoleSettingRelationId, AccessShareLock);
	bool		found = false;

	for (int i = 0; i < lengthof(keys) && !found; i++)
	{
		ScanKeyData key[2];
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(keys[i][0]));
		ScanKeyInit(&key[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(keys[i][1]));
		scan = systable_beginscan(catalog, DbRoleSettingDatidRolidIndexId, true, NULL, 2, key);
		while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			bool		isnull;
			Datum		settings = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
												RelationGetDescr(catalog), &isnull);

			found = !isnull && setting_in(settings, value);
		}
		systable_endscan(scan);
	}
	table_close(catalog, AccessShareLock);
	return found;
}

/*
 * Returns the default: three quarters of the streams that can run at once,
 * counting only those for which there are background workers; at least 1.
 */
static int
automatic_limit(void)
{
	int			all = Min(sagg_max_streams, max_worker_processes - OTHER_WORKERS);

	return Max(1, (all * 3 + 3) / 4);
}

/*
 * Returns how many streams of a role can have a slot, in all databases
 * together; INT_MAX for superusers.  Runs in a transaction, connected to the
 * database whose streams are concerned.
 */
int
sagg_role_limit(Oid role)
{
	int			limit;

	if (superuser_arg(role))
		return INT_MAX;
	if (!role_setting(role, &limit))
	{
		SpinLockAcquire(&sagg_shared->mutex);
		limit = sagg_shared->streams_per_role;
		SpinLockRelease(&sagg_shared->mutex);
	}
	return limit < 0 ? automatic_limit() : limit;
}

/*
 * Returns whether a slot is taken without a stream that shall run: a session holds
 * the stream, so that the slot is not used again.
 */
static bool
is_only_held(const SaggSlot *slot)
{
	return !slot->wanted && slot->stop_holds > 0;
}

/*
 * Returns how many slots the streams of a role take: those that shall run,
 * including those that have failed, and those that are held.  The caller holds
 * the lock.
 */
int
sagg_role_streams(Oid role)
{
	int			n = 0;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		if (slot->in_use && slot->owner == role &&
			(slot->wanted || is_only_held(slot)))
			n++;
	}
	return n;
}

/*
 * Have a slot's worker start up to "wanted" executors.  Returns how many it may
 * start: with the streams of its owner and their executors no more than "limit", that
 * of the role's streams, with all streams and their executors no more than there are
 * background workers.  Sets "limited" to which of them allows the least.
 */
int
sagg_slot_reserve_executors(SaggSlot *slot, int wanted, int limit,
							SaggExecutorLimit *limited)
{
	int64		of_owner = 0;
	int64		of_all = 0;
	int64		by_role;
	int64		by_processes;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->executors = 0;
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *other = &sagg_shared->slots[i];
		int			processes = 1 + other->executors;

		if (!other->in_use || !other->wanted)
			continue;
		of_all += processes;
		if (other->owner == slot->owner)
			of_owner += processes;
	}
	by_role = Max(0, limit - of_owner);
	by_processes = Max(0, max_worker_processes - OTHER_WORKERS - of_all);
	slot->executors = (int) Min(wanted, Min(by_role, by_processes));
	LWLockRelease(sagg_shared->lock);
	*limited = slot->executors == wanted ? SAGG_LIMITED_BY_NOTHING :
		by_role < by_processes ? SAGG_LIMITED_BY_ROLE : SAGG_LIMITED_BY_PROCESSES;
	return slot->executors;
}

/*
 * A slot's worker has so many executors.
 */
void
sagg_slot_has_executors(SaggSlot *slot, int n)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->executors = n;
	LWLockRelease(sagg_shared->lock);
}

/*
 * Returns whether a stream waits for a process.
 */
bool
sagg_stream_lacks_process(void)
{
	bool		waiting = false;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	for (int i = 0; i < sagg_shared->nslots; i++)
		waiting |= sagg_shared->slots[i].in_use && sagg_shared->slots[i].waiting_for_process;
	LWLockRelease(sagg_shared->lock);
	return waiting;
}

/*
 * A process that is no stream's worker ends: a stream that waits for one can have
 * it.
 */
void
sagg_process_freed(void)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		if (sagg_shared->slots[i].waiting_for_process)
			sagg_shared->slots[i].next_start = 0;
	}
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&sagg_shared->slots_changed);
}

/*
 * Returns the slot of a stream that shall run, made if there is none; NULL if
 * the limit of its owner or the number of slots leaves no place.  In that case
 * a slot that the stream still had becomes free.  The caller holds the lock.
 */
SaggSlot *
sagg_role_slot(Oid view, Oid owner, int limit)
{
	SaggSlot   *slot = sagg_slot_find(MyDatabaseId, view);

	if (slot != NULL && slot->wanted)
		return slot;
	if (sagg_role_streams(owner) - (slot && is_only_held(slot) ? 1 : 0) < limit)
		return slot ? slot : sagg_slot_allocate(MyDatabaseId, view);
	if (slot != NULL && slot->pid == 0 && !slot->launching && slot->stop_holds == 0)
		sagg_slot_free(slot);
	return NULL;
}

/*
 * Raise configuration_limit_exceeded if a role has "n" streams that shall run,
 * and its limit allows no more.
 */
void
sagg_role_check(Oid role, int n, int limit)
{
	char	   *name;

	if (n < limit)
		return;
	name = GetUserNameFromId(role, false);
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("role \"%s\" cannot run more than %d streams", name, limit),
			 errdetail("It has %d streams that run, are about to run or have failed, in all databases of the server.", n),
			 errhint("Stop another one by stream_agg.stop_stream, or have a superuser raise the limit: ALTER ROLE %s SET %s = %d.",
					 quote_identifier(name), SETTING, n + 1)));
}

/*
 * Publish the setting as the configuration has it.  Only the launcher sees
 * that for certain, because it is nobody's session.  A change may make room
 * for streams that wait.
 */
void
sagg_role_limit_configured(void)
{
	bool		changed;

	SpinLockAcquire(&sagg_shared->mutex);
	changed = sagg_shared->streams_per_role != sagg_max_streams_per_role;
	sagg_shared->streams_per_role = sagg_max_streams_per_role;
	SpinLockRelease(&sagg_shared->mutex);
	if (changed)
		sagg_slot_freed();
}

/*
 * Remember that a stream of this database waits for a slot.  Cannot fail:
 * transaction callbacks use it.
 */
void
sagg_slot_missing(void)
{
	bool		known = false;

	SpinLockAcquire(&sagg_shared->mutex);
	for (int i = 0; i < Min(sagg_shared->nwaiting, SAGG_DIRTY_DATABASES); i++)
		known = known || sagg_shared->waiting[i] == MyDatabaseId;
	if (!known && sagg_shared->nwaiting < SAGG_DIRTY_DATABASES)
		sagg_shared->waiting[sagg_shared->nwaiting++] = MyDatabaseId;
	else if (!known)
		sagg_shared->nwaiting = SAGG_DIRTY_DATABASES + 1;
	SpinLockRelease(&sagg_shared->mutex);
}

/*
 * A slot has become free, or a stream no longer wants its own: have scouts
 * visit the databases where streams wait for one.  Cannot fail.
 */
void
sagg_slot_freed(void)
{
	Oid			waiting[SAGG_DIRTY_DATABASES];
	int			n;

	SpinLockAcquire(&sagg_shared->mutex);
	n = sagg_shared->nwaiting;
	memcpy(waiting, sagg_shared->waiting, sizeof(waiting));
	sagg_shared->nwaiting = 0;
	if (n > SAGG_DIRTY_DATABASES)
		sagg_shared->ndirty = SAGG_DIRTY_DATABASES + 1;
	SpinLockRelease(&sagg_shared->mutex);

	for (int i = 0; i < Min(n, SAGG_DIRTY_DATABASES); i++)
		sagg_mark_database(waiting[i]);
}

/*
 * A stream that has waited for a worker has one: clear the error that said so.
 * The caller holds the lock.
 */
void
sagg_slot_placed(SaggSlot *slot)
{
	if (slot->last_sqlstate != ERRCODE_CONFIGURATION_LIMIT_EXCEEDED)
		return;
	slot->last_error[0] = '\0';
	slot->last_sqlstate = 0;
	slot->last_error_time = 0;
}

/*
 * Of a scout's streams, "crowded" found no free slot, and "limited" were over
 * the limit of their owner.  The log reports it from time to time, and when
 * the number has doubled; pg_stat_stream_agg shows it for each stream.
 */
void
sagg_warn_of_missing_slots(int crowded, int limited)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		due;
	char	   *database;

	if (crowded + limited == 0)
		return;
	sagg_slot_missing();
	SpinLockAcquire(&sagg_shared->mutex);
	due = sagg_shared->missing_warned == 0 ||
		now - sagg_shared->missing_warned >= WARNING_INTERVAL_MS * INT64CONST(1000) ||
		crowded + limited >= 2 * sagg_shared->missing_count;
	if (due)
	{
		sagg_shared->missing_warned = now;
		sagg_shared->missing_count = crowded + limited;
	}
	SpinLockRelease(&sagg_shared->mutex);
	if (!due)
		return;
	database = get_database_name(MyDatabaseId);
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("streams of database \"%s\" wait for a free slot: %d",
					database ? database : "", crowded + limited),
			 errdetail("Those that wait because their owner has as many streams as stream_agg.max_streams_per_role allows: %d.",
					   limited),
			 errhint("Consider stopping streams, or increasing %s.",
					 crowded > 0 ? "stream_agg.max_streams" : SETTING)));
}

static bool
has_free_slot(void)
{
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		if (!slot->in_use ||
			(!slot->wanted && slot->pid == 0 && !slot->launching && slot->stop_holds == 0))
			return true;
	}
	return false;
}

/*
 * waiting_reason(owner oid): why a stream of this owner that shall run has no
 * slot.  NULL if there is room, which means that a scout has not been there
 * yet; NULL also for those who may not see the owner's streams.
 */
Datum
stream_agg_waiting_reason(PG_FUNCTION_ARGS)
{
	Oid			owner = PG_GETARG_OID(0);
	int			limit;
	int			n;
	bool		room;

	if (sagg_shared == NULL || RecoveryInProgress() ||
		!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner)) ||
		!(has_privs_of_role(GetUserId(), owner) ||
		  has_privs_of_role(GetUserId(), ROLE_PG_MONITOR)))
		PG_RETURN_NULL();
	limit = sagg_role_limit(owner);
	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	n = sagg_role_streams(owner);
	room = has_free_slot();
	LWLockRelease(sagg_shared->lock);
	if (n >= limit)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("waiting for a free worker slot: role \"%s\" has %d streams that run or have failed, as many as %s allows",
												  GetUserNameFromId(owner, false), n, SETTING)));
	if (!room)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("waiting for a free worker slot: all %d are taken by streams that run, wait or have failed; stream_agg.max_streams is %d",
												  sagg_shared->nslots, sagg_max_streams)));
	PG_RETURN_NULL();
}
