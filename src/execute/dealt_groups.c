/*-------------------------------------------------------------------------
 *
 * dealt_groups.c
 *	  Hands over what one execution has made of its share of a batch's records
 *	  to the execution of the same batch in another process.
 *
 * An executor (worker/executor_process.c) runs the inner query over its share,
 * against an empty store: its groups hold only what its own records have
 * brought.  It gives them as entries, the bytes that a store has of a group.
 * The stream's worker takes them: it finds each group in its batch, in the store
 * or nowhere, and combines the states.  Kept inputs are appended, so they are in
 * the order in which executors are taken, and of one partition in the order of
 * its records.
 *
 * Bytes come from a process of the same stream, with the same definition of the
 * query, and are trusted as those of the store are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "event_times.h"
#include "execute/window/session_windows.h"

/* types of messages */
#define DEALT_COUNTS	'c'
#define DEALT_GROUPS	'g'
#define DEALT_ROWS		't'

/* groups, or rows, of a message: it ends when it has so many bytes */
#define MESSAGE_BYTES	(32 * 1024)

/* what an execution has counted */
typedef struct DealtCounts
{
	int64		rows[SAGG_CLASSES];
	int64		late_windows;
	int64		max_time;
	bool		any_time;
} DealtCounts;

/* a message being filled */
typedef struct Giving
{
	SaggGiveFn	give;
	void	   *arg;
	char		type;
	StringInfoData message;
} Giving;

static void
begin_giving(Giving *giving, char type, SaggGiveFn give, void *arg)
{
	giving->give = give;
	giving->arg = arg;
	giving->type = type;
	initStringInfo(&giving->message);
}

static void
send_message(Giving *giving)
{
	if (giving->message.len > 0)
		giving->give(giving->arg, giving->type, giving->message.data, giving->message.len);
	resetStringInfo(&giving->message);
}

/*
 * Add a group or a row to the message: a length word and its bytes.
 */
static void
add_item(Giving *giving, const char *data, Size len)
{
	int32		size = (int32) len;

	appendBinaryStringInfo(&giving->message, (char *) &size, sizeof(size));
	appendBinaryStringInfo(&giving->message, data, len);
	if (giving->message.len >= MESSAGE_BYTES)
		send_message(giving);
}

static void
give_group(SaggExecution *ex, Giving *giving, const SaggGroup *group)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	CHECK_FOR_INTERRUPTS();
	sagg_entry_write(ex, &ex->entry, group);
	MemoryContextSwitchTo(old);
	add_item(giving, ex->entry.data, ex->entry.len);
	ResetExprContext(ex->tmpcontext);
}

static void
give_sessions(SaggExecution *ex, Giving *giving)
{
	for (SaggSessionKey *key = sagg_sessions_next(ex, true); key;
		 key = sagg_sessions_next(ex, false))
	{
		SaggSessionPlace place = sagg_session_first(&key->sessions);
		SaggSessionWindow *session;

		while ((session = sagg_session_at(&key->sessions, place)) != NULL)
		{
			give_group(ex, giving, &session->group);
			place = sagg_session_next(&key->sessions, place);
		}
	}
}

static void
give_groups(SaggExecution *ex, SaggGiveFn give, void *arg)
{
	Giving		giving;

	begin_giving(&giving, DEALT_GROUPS, give, arg);
	if (SAGG_HAS_SESSIONS(ex))
		give_sessions(ex, &giving);
	else
	{
		for (SaggGroup *group = sagg_groups_next(ex, true); group;
			 group = sagg_groups_next(ex, false))
			give_group(ex, &giving, group);
	}
	send_message(&giving);
}

static void
give_rows(SaggExecution *ex, SaggGiveFn give, void *arg)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(ex->query->output_desc,
													&TTSOpsMinimalTuple);
	Giving		giving;

	begin_giving(&giving, DEALT_ROWS, give, arg);
	while (tuplestore_gettupleslot(ex->fresh, true, false, slot))
	{
		bool		shouldfree;
		MinimalTuple tuple = ExecFetchSlotMinimalTuple(slot, &shouldfree);

		CHECK_FOR_INTERRUPTS();
		add_item(&giving, (char *) tuple, tuple->t_len);
		if (shouldfree)
			pfree(tuple);
	}
	send_message(&giving);
	ExecDropSingleTupleTableSlot(slot);
}

static void
give_counts(const SaggExecution *ex, SaggGiveFn give, void *arg)
{
	DealtCounts counts;

	memset(&counts, 0, sizeof(counts));
	memcpy(counts.rows, ex->rows, sizeof(counts.rows));
	for (int64 i = 0; i < ex->nclasses; i++)
		counts.rows[ex->classes[i]]++;
	counts.late_windows = ex->late_windows;
	counts.any_time = ex->any_time;
	counts.max_time = ex->max_time;
	give(arg, DEALT_COUNTS, (char *) &counts, sizeof(counts));
}

/*
 * Hand over what an execution, which has run and is not closed, has made of its
 * records: calls "give" with messages, whose bytes live until it returns.  Event
 * times by partition are complete afterwards.
 */
void
sagg_execution_give(SaggExecution *ex, SaggGiveFn give, void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	sagg_partitions_end(ex);
	give_counts(ex, give, arg);
	if (ex->query->kind == SAGG_AGGREGATION)
		give_groups(ex, give, arg);
	else
		give_rows(ex, give, arg);
	MemoryContextSwitchTo(old);
}

static void
take_counts(SaggExecution *ex, const char *data, Size len)
{
	DealtCounts counts;

	if (len != sizeof(counts))
		elog(ERROR, "the counts of an executor have %zu bytes", len);
	memcpy(&counts, data, len);
	for (int i = 0; i < SAGG_CLASSES; i++)
		ex->rows[i] += counts.rows[i];
	ex->late_windows += counts.late_windows;
	if (counts.any_time && (!ex->any_time || counts.max_time > ex->max_time))
		ex->max_time = counts.max_time;
	ex->any_time = ex->any_time || counts.any_time;
}

/*
 * Combine an entry into its group.  "part" is scratch.
 */
static void
take_group(SaggExecution *ex, SaggGroup *part, const char *data, Size len)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	SaggGroup  *group;

	sagg_entry_read(ex, part, data, len, true);
	MemoryContextSwitchTo(old);
	if (SAGG_HAS_SESSIONS(ex))
		group = sagg_sessions_require(ex, (SaggSessionWindow *) part);
	else
	{
		part->hash = sagg_keys_hash(ex, part->start, part->keys, part->keynulls);
		group = sagg_groups_require(ex, part);
	}
	if (group == NULL)
		elog(ERROR, "an executor has taken keys that are too long");
	group->changed = true;
	sagg_states_combine(ex, group->states, part->states);
	ResetExprContext(ex->tmpcontext);
	sagg_group_memory_check(ex, 1);
}

static void
take_rows(SaggExecution *ex, SaggBytes *bytes)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(ex->query->output_desc,
													&TTSOpsMinimalTuple);

	while (bytes->data < bytes->end)
	{
		int32		size = sagg_bytes_take_length(bytes);
		MinimalTuple tuple = palloc(size);

		CHECK_FOR_INTERRUPTS();
		memcpy(tuple, sagg_bytes_take(bytes, size), size);
		ExecStoreMinimalTuple(tuple, slot, true);
		tuplestore_puttupleslot(ex->fresh, slot);
		sagg_count_row_bytes(ex, size);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Take a message of sagg_execution_give, of an execution of the same batch and
 * query in another process.  Returns false for a type that is not one of those.
 * Called after sagg_execution_run, and before sagg_execution_close.
 */
bool
sagg_execution_take(SaggExecution *ex, char type, const char *data, Size len)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);
	SaggBytes	bytes = {data, data + len};
	SaggGroup  *part;

	if (type == DEALT_COUNTS)
		take_counts(ex, data, len);
	else if (type == DEALT_GROUPS)
	{
		part = sagg_groups_allocate(ex);
		while (bytes.data < bytes.end)
		{
			int32		size = sagg_bytes_take_length(&bytes);

			CHECK_FOR_INTERRUPTS();
			take_group(ex, part, sagg_bytes_take(&bytes, size), size);
		}
		pfree(part);
	}
	else if (type == DEALT_ROWS)
		take_rows(ex, &bytes);
	MemoryContextSwitchTo(old);
	return type == DEALT_COUNTS || type == DEALT_GROUPS || type == DEALT_ROWS;
}
