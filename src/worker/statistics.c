/*-------------------------------------------------------------------------
 *
 * statistics.c
 *	  What pg_stat_stream_agg and pg_stat_stream_agg_partitions show: the
 *	  worker's side that writes slots, and the functions that read them.
 *
 * Counters since a stream's first batch come from stream_agg.commits, where they
 * survive every crash; slots hold what only the running worker knows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "common/int.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "worker_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_stat_streams);
PG_FUNCTION_INFO_V1(stream_agg_stat_partitions);

#define STAT_STREAMS_COLUMNS	19
#define STAT_PARTITIONS_COLUMNS 8

/* older ends of partitions are not shown, unless the stream runs */
#define ENDS_VALID_MS			60000

/* how old ends have to be before a worker without news publishes that they hold */
#define NO_NEWS_MS				1000

/* a worker that waits longer for a lock is blocked */
#define BLOCKED_MS				1000

/*
 * Set the times of a partition to those of the last commit.
 */
static void
set_times(SaggSlotPartition *partition, const SaggProgress *progress,
		  const SaggRange *position)
{
	const SaggRange *last = sagg_partition_find(progress->last, progress->nlast, position);
	int64		time;

	partition->last_time = DT_NOBEGIN;
	if (last && !pg_mul_s64_overflow(last->end, 1000, &time) &&
		!pg_add_s64_overflow(time, SAGG_EPOCH, &time))
		partition->last_time = time;
	partition->event_time = DT_NOBEGIN;
	for (int i = 0; i < progress->ntimes; i++)
	{
		if (progress->times[i].topic == position->topic &&
			progress->times[i].partition == position->partition)
		{
			partition->event_time = progress->times[i].time;
			break;
		}
	}
}

/*
 * After a commit, and when a run opens: publish positions, counters, state.
 */
void
sagg_publish_statistics(SaggStreamRun *run)
{
	SaggSlot   *slot = run->slot;
	const SaggProgress *progress = run->progress;
	SaggStateSize size = {0};
	Size		memory = 0;

	if (run->store)
	{
		sagg_store_statistics(run->store, &size);
		memory = sagg_store_size(run->store);
	}

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->state = SAGG_RUNNING;
	/* opening a run proves nothing, a finished batch does */
	if (slot->known && slot->tally.batches != progress->batch + 1)
		slot->crashes = 0;
	slot->tally.batches = progress->batch + 1;
	slot->tally.rows_in = progress->totals.delivered;
	slot->tally.rows_out = progress->totals.rows_out;
	if (!slot->known)
		slot->first = slot->tally;
	slot->known = true;
	slot->state_rows = size.groups;
	slot->state_bytes = size.bytes;
	slot->state_bytes_out = size.bytes_out;
	slot->state_units = size.units;
	slot->state_units_out = size.units_out;
	slot->state_memory = memory;
	slot->npartitions = Min(progress->npositions, sagg_max_partitions);
	for (int i = 0; i < slot->npartitions; i++)
	{
		SaggSlotPartition *partition = &slot->partitions[i];
		const SaggRange *position = &progress->positions[i];
		const char *name = sagg_topic_name(position->topic);

		if (partition->partition != position->partition ||
			strcmp(partition->topic_name, name) != 0)
			partition->end = 0;
		partition->topic = position->topic;
		strlcpy(partition->topic_name, name, SAGG_TOPIC_SIZE);
		partition->partition = position->partition;
		partition->committed = position->start;
		partition->end = Max(partition->end, partition->committed);
		set_times(partition, progress, position);
	}
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&slot->changed);
}

/*
 * Put the ends of partitions into a slot, whichever process has numbered its topics.
 * The caller holds the lock.
 */
void
sagg_slot_set_ends(SaggSlot *slot, const SaggRange *bounds, int nbounds)
{
	for (int i = 0; i < slot->npartitions; i++)
	{
		for (int j = 0; j < nbounds; j++)
		{
			if (bounds[j].partition == slot->partitions[i].partition &&
				strcmp(sagg_topic_name(bounds[j].topic), slot->partitions[i].topic_name) == 0)
				slot->partitions[i].end = bounds[j].end;
		}
	}
	slot->ends_as_of = GetCurrentTimestamp();
}

/*
 * Publish the ends of partitions that the source has just reported.
 */
void
sagg_publish_ends(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	ListCell   *lc;

	reading->silence_logged = false;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, reading->runs)
		sagg_slot_set_ends(((SaggStreamRun *) lfirst(lc))->slot, bounds, nbounds);
	LWLockRelease(sagg_shared->lock);
}

/*
 * Publish that the known ends of partitions still hold: the reader would know of
 * records beyond them.
 */
void
sagg_publish_no_news(SaggReading *reading)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	/* only the worker writes it */
	if (!TimestampDifferenceExceeds(reading->leader->slot->ends_as_of, now, NO_NEWS_MS))
		return;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, reading->runs)
		((SaggStreamRun *) lfirst(lc))->slot->ends_as_of = now;
	LWLockRelease(sagg_shared->lock);
}

static bool
is_retrying(const SaggSlot *slot)
{
	return slot->attempts > 0 &&
		(slot->state == SAGG_STARTING || slot->state == SAGG_RUNNING);
}

static const char *
state_name(const SaggSlot *slot)
{
	if (is_retrying(slot))
		return "retrying";
	switch (slot->state)
	{
		case SAGG_STARTING:
			return "starting";
		case SAGG_RUNNING:
			return "running";
		case SAGG_FAILED:
			return "failed";
		case SAGG_STOPPED:
			break;
	}
	return "stopped";
}

static const char *
stage_name(SaggStage stage)
{
	static const char *const names[SAGG_STAGES] =
	{"read", "execute", "write", "checkpoint"};

	return stage < SAGG_STAGES ? names[stage] : NULL;
}

/*
 * Returns whether the current user may see a slot: the stream's owner, and
 * monitoring roles.
 */
static bool
may_see(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/*
 * Returns whether a process has waited for a lock for longer than BLOCKED_MS; "since"
 * is when it began to wait.
 */
static bool
is_blocked(pid_t pid, TimestampTz *since)
{
	PGPROC	   *proc = BackendPidGetProc(pid);

	if (proc == NULL || proc->waitStatus != PROC_WAIT_STATUS_WAITING)
		return false;
	*since = (TimestampTz) pg_atomic_read_u64(&proc->waitStart);
	return *since != 0 &&
		TimestampDifferenceExceeds(*since, GetCurrentTimestamp(), BLOCKED_MS);
}

/*
 * Fill the columns about what keeps the stream from going on, from "values" on.
 */
static void
put_troubles(const SaggSlot *slot, Datum *values, bool *nulls)
{
	bool		retrying = is_retrying(slot);
	TimestampTz since = 0;
	bool		blocked = slot->pid != 0 && is_blocked(slot->pid, &since);

	values[0] = Int32GetDatum(slot->attempts);
	nulls[1] = !retrying;
	values[1] = TimestampTzGetDatum(slot->retrying_since);
	nulls[2] = !retrying || slot->next_attempt < GetCurrentTimestamp();
	values[2] = TimestampTzGetDatum(slot->next_attempt);
	nulls[3] = nulls[4] = !blocked;
	if (blocked)
		values[3] = DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(slot->pid));
	values[4] = TimestampTzGetDatum(since);
	nulls[5] = slot->ends_as_of == 0;
	values[5] = TimestampTzGetDatum(slot->ends_as_of);
}

static void
put_stream(ReturnSetInfo *rsinfo, const SaggSlot *slot, Oid read_by)
{
	Datum		values[STAT_STREAMS_COLUMNS] = {0};
	bool		nulls[STAT_STREAMS_COLUMNS] = {0};
	const char *stage = stage_name(slot->stage);

	values[0] = ObjectIdGetDatum(slot->view);
	values[1] = Int32GetDatum(slot->pid);
	nulls[1] = slot->pid == 0;
	values[2] = CStringGetTextDatum(state_name(slot));
	nulls[3] = slot->pid == 0 || slot->state != SAGG_RUNNING || stage == NULL;
	if (!nulls[3])
		values[3] = CStringGetTextDatum(stage);
	values[4] = Int64GetDatum(slot->state_rows);
	values[5] = Int64GetDatum(slot->state_bytes);
	nulls[6] = nulls[7] = slot->last_error[0] == '\0';
	if (!nulls[6])
	{
		values[6] = CStringGetTextDatum(slot->last_error);
		values[7] = TimestampTzGetDatum(slot->last_error_time);
	}
	values[8] = ObjectIdGetDatum(read_by);
	nulls[8] = !OidIsValid(read_by);
	put_troubles(slot, values + 9, nulls + 9);
	values[15] = Int64GetDatum(slot->state_bytes_out);
	values[16] = Int64GetDatum(slot->state_units);
	values[17] = Int64GetDatum(slot->state_units_out);
	values[18] = Int32GetDatum(slot->executors + 1);
	nulls[18] = slot->pid == 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * stat_streams(): one row for each slot of this database that the user may see.
 */
Datum
stream_agg_stat_streams(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SaggSlot   *copy;

	InitMaterializedSRF(fcinfo, 0);
	if (sagg_shared == NULL)
		PG_RETURN_VOID();

	copy = palloc(sizeof(SaggSlot));
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		bool		ours;
		Oid			read_by;

		LWLockAcquire(sagg_shared->lock, LW_SHARED);
		*copy = sagg_shared->slots[i];
		read_by = copy->lead ? copy->lead->view : copy->pid != 0 ? copy->view : InvalidOid;
		LWLockRelease(sagg_shared->lock);
		ours = copy->in_use && copy->database == MyDatabaseId;
		if (ours && may_see(copy->owner))
			put_stream(rsinfo, copy, read_by);
	}
	PG_RETURN_VOID();
}

/*
 * Returns whether the known ends of partitions may be shown as current.
 */
static bool
ends_are_valid(const SaggSlot *slot)
{
	return slot->ends_as_of != 0 &&
		((slot->pid != 0 && slot->state == SAGG_RUNNING && slot->attempts == 0) ||
		 !TimestampDifferenceExceeds(slot->ends_as_of, GetCurrentTimestamp(), ENDS_VALID_MS));
}

static void
put_time(TimestampTz time, Datum *value, bool *isnull)
{
	*isnull = !IS_VALID_TIMESTAMP(time);
	*value = TimestampTzGetDatum(time);
}

/*
 * stat_partitions(): one row for each partition that a stream of this database
 * reads.
 */
Datum
stream_agg_stat_partitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SaggSlotPartition *partitions;

	InitMaterializedSRF(fcinfo, 0);
	if (sagg_shared == NULL)
		PG_RETURN_VOID();

	partitions = palloc(sizeof(SaggSlotPartition) * sagg_max_partitions);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];
		Oid			view = InvalidOid;
		Oid			owner = InvalidOid;
		TimestampTz as_of = 0;
		bool		valid = false;
		int			n = 0;

		LWLockAcquire(sagg_shared->lock, LW_SHARED);
		if (slot->in_use && slot->database == MyDatabaseId)
		{
			as_of = slot->ends_as_of;
			valid = ends_are_valid(slot);
			view = slot->view;
			owner = slot->owner;
			n = slot->npartitions;
			memcpy(partitions, slot->partitions, sizeof(SaggSlotPartition) * n);
		}
		LWLockRelease(sagg_shared->lock);

		if (n > 0 && !may_see(owner))
			continue;
		for (int j = 0; j < n; j++)
		{
			Datum		values[STAT_PARTITIONS_COLUMNS];
			bool		nulls[STAT_PARTITIONS_COLUMNS] = {0};

			values[0] = ObjectIdGetDatum(view);
			values[1] = CStringGetTextDatum(partitions[j].topic_name);
			values[2] = Int32GetDatum(partitions[j].partition);
			/* a broker may say anything: no difference of two overflows then */
			values[3] = Int64GetDatum(Max(partitions[j].committed, 0));
			values[4] = Int64GetDatum(Max(partitions[j].end, 0));
			nulls[4] = !valid;
			values[5] = TimestampTzGetDatum(as_of);
			nulls[5] = as_of == 0;
			put_time(partitions[j].last_time, &values[6], &nulls[6]);
			put_time(partitions[j].event_time, &values[7], &nulls[7]);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	PG_RETURN_VOID();
}
