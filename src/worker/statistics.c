/*-------------------------------------------------------------------------
 *
 * statistics.c
 *	  What pg_stat_stream_agg and pg_stat_stream_agg_partitions show: the
 *	  worker's side that writes slots, and the functions that read them.
 *
 * Counters since a stream's first batch come from stream_agg.commits, where
 * they survive every crash; slots hold what only the running worker knows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_stat_streams);
PG_FUNCTION_INFO_V1(stream_agg_stat_partitions);

#define STAT_STREAMS_COLUMNS	9
#define STAT_PARTITIONS_COLUMNS 5

/*
 * After a commit, and when a session opens: positions, counters, state.
 */
void
sagg_publish_statistics(SaggSession *session)
{
	SaggSlot   *slot = session->slot;
	const SaggProgress *progress = session->progress;
	int64		rows = 0;
	int64		bytes = 0;
	Size		memory = 0;

	if (session->store)
	{
		sagg_store_statistics(session->store, &rows, &bytes);
		memory = sagg_store_size(session->store);
	}

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->state = SAGG_RUNNING;
	/* that a session opens proves nothing; that a batch is done does */
	if (slot->known && slot->tally.batches != progress->batch + 1)
		slot->deaths = 0;
	slot->tally.batches = progress->batch + 1;
	slot->tally.rows_in = progress->totals.delivered;
	slot->tally.rows_out = progress->total_rows_out;
	if (!slot->known)
		slot->first = slot->tally;
	slot->known = true;
	slot->state_rows = rows;
	slot->state_bytes = bytes;
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
	}
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&slot->changed);
}

static void
set_ends(SaggSlot *slot, const SaggRange *bounds, int nbounds)
{
	for (int i = 0; i < slot->npartitions; i++)
	{
		for (int j = 0; j < nbounds; j++)
		{
			if (bounds[j].partition == slot->partitions[i].partition &&
				bounds[j].topic == slot->partitions[i].topic)
				slot->partitions[i].end = bounds[j].end;
		}
	}
}

/*
 * High watermarks as Kafka just told them.
 */
void
sagg_publish_ends(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	ListCell   *lc;

	session->silence_logged = false;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, session->sessions)
		set_ends(((SaggSession *) lfirst(lc))->slot, bounds, nbounds);
	LWLockRelease(sagg_shared->lock);
}

static const char *
state_name(SaggRunState state)
{
	switch (state)
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
 * Whether the current user may see what a slot says: the stream's owner, and
 * monitoring roles.
 */
static bool
may_see(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
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
	values[2] = CStringGetTextDatum(state_name(slot->state));
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
		int			n = 0;

		LWLockAcquire(sagg_shared->lock, LW_SHARED);
		if (slot->in_use && slot->database == MyDatabaseId)
		{
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
			/* whatever a broker has said: the difference of two such does not
			 * overflow */
			values[3] = Int64GetDatum(Max(partitions[j].committed, 0));
			values[4] = Int64GetDatum(Max(partitions[j].end, 0));
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	PG_RETURN_VOID();
}
