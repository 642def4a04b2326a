/*-------------------------------------------------------------------------
 *
 * sink_partitions.c
 *	  Option "retention" where the sink is range-partitioned by the window's time:
 *	  whole partitions are dropped when they are old, and made ahead.
 *
 * A micro-batch never waits for a lock here, and nobody waits behind it:
 * dropping a partition takes ACCESS EXCLUSIVE on the sink, attaching one SHARE
 * UPDATE EXCLUSIVE, and if a lock is not available at once, the work is left
 * to the next batch.  Partitions are dropped at the end of the transaction,
 * after all streams that share a reader have written: readers of the sink wait
 * from then on.  Each attempt runs in a subtransaction; if it fails, the batch
 * continues without it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rangetypes.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "streams/streams.h"
#include "write_internal.h"

/* most attempts of a micro-batch */
#define MAX_DROPPED		10
#define MAX_MADE		100

/* how many partitions, of days or more, a row's may be from the one before it */
#define MAX_STEPS		10000

/* locks besides those that are requested without waiting */
#define LOCK_TIMEOUT	"10ms"

/* A partition; bounds are DT_NOBEGIN and DT_NOEND if it has none. */
typedef struct WindowPartition
{
	Oid			relid;
	int64		lower;
	int64		upper;
} WindowPartition;

/* what one subtransaction does */
typedef struct Attempt
{
	const SinkBatch *batch;
	WindowPartition partition;
	char	   *name;			/* name of the partition, qualified and quoted */
	bool		zoned;			/* whether its bounds are timestamptz */
} Attempt;

/*
 * Returns whether the sink is range-partitioned by the time that identifies
 * the window of a row, or by a bound of the window.  Only then bounds of partitions
 * are times, and those of the query's windows: "column", which has the window, has
 * its type.
 */
static bool
partitioned_by_window(Relation rel, const SaggQuery *query, AttrNumber column)
{
	PartitionKey key = RelationGetPartitionKey(rel);
	FuncExpr   *func;

	if (query->window.kind == SAGG_WINDOW_SESSION ||
		key->strategy != PARTITION_STRATEGY_RANGE || key->partnatts != 1 ||
		(key->parttypid[0] != TIMESTAMPTZOID && key->parttypid[0] != TIMESTAMPOID))
		return false;
	if (key->partattrs[0] != 0)
		return key->partattrs[0] == column;
	func = (FuncExpr *) linitial(key->partexprs);
	return IsA(func, FuncExpr) &&
		(func->funcid == F_LOWER_ANYRANGE || func->funcid == F_UPPER_ANYRANGE) &&
		IsA(linitial(func->args), Var) && ((Var *) linitial(func->args))->varattno == column;
}

/*
 * Raise an error with this code unless partitioned_by_window.
 */
static void
check_key(Relation rel, const SaggQuery *query, AttrNumber column, int code)
{
	if (!partitioned_by_window(rel, query, column))
		ereport(ERROR,
				(errcode(code),
				 errmsg("retention cannot be used for sink \"%s\", which is not partitioned by the time of windows",
						RelationGetRelationName(rel)),
				 errdetail("Whole partitions are dropped, so it must be partitioned by range of the one column that identifies the window, or of lower() or upper() of it; windows that are sessions have no fixed place."),
				 errhint("Name such a table, or one without partitions.")));
}

/*
 * Returns the partitions in order, of a sink that check_key has accepted; sets *n
 * to their number.
 */
static WindowPartition *
list_partitions(Relation rel, int *n)
{
	PartitionDesc desc = RelationGetPartitionDesc(rel, true);
	PartitionBoundInfo info = desc->boundinfo;
	WindowPartition *partitions = palloc(sizeof(WindowPartition) * Max(desc->nparts, 1));

	*n = 0;
	for (int i = 0; info && i < info->ndatums; i++)
	{
		WindowPartition *partition = &partitions[*n];

		if (info->indexes[i] < 0)
			continue;
		partition->relid = desc->oids[info->indexes[i]];
		partition->lower = i == 0 || info->kind[i - 1][0] != PARTITION_RANGE_DATUM_VALUE ?
			DT_NOBEGIN : DatumGetTimestampTz(info->datums[i - 1][0]);
		partition->upper = info->kind[i][0] != PARTITION_RANGE_DATUM_VALUE ?
			DT_NOEND : DatumGetTimestampTz(info->datums[i][0]);
		(*n)++;
	}
	return partitions;
}

/*
 * Raise an error that says what is missing if old partitions of the sink, which is
 * open, cannot be dropped and new ones made by the current user.
 */
void
sagg_sink_check_partitions(Relation rel, const SaggQuery *query, AttrNumber column)
{
	char	   *name = RelationGetRelationName(rel);
	WindowPartition *partitions;
	int			n;

	sagg_sink_check_windows(rel, query, column, false, ERRCODE_DATATYPE_MISMATCH);
	check_key(rel, query, column, ERRCODE_FEATURE_NOT_SUPPORTED);
	if (!SAGG_OWNS_RELATION(RelationGetRelid(rel), GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of sink \"%s\" to drop and make partitions", name)));
	partitions = list_partitions(rel, &n);
	if (n == 0 || partitions[n - 1].lower == DT_NOBEGIN || partitions[n - 1].upper == DT_NOEND ||
		RelationGetPartitionDesc(rel, true)->boundinfo->default_index >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("retention needs a last partition of sink \"%s\" with two bounds, and no default partition", name),
				 errdetail("Partitions are made ahead, as wide as the last one.")));
}

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

static void
run_utility(const char *text)
{
	int			ret = SPI_execute(text, false, 0);

	if (ret != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\": %s", text, SPI_result_code_string(ret));
}

/*
 * Take a lock or raise lock_not_available.
 */
static void
lock_at_once(Oid relid, LOCKMODE mode)
{
	if (!ConditionalLockRelationOid(relid, mode))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not obtain lock on relation with OID %u", relid)));
}

/*
 * Drop a partition.  Since it was found somebody may have detached it, or given
 * it another name.
 */
static void
drop_partition(void *arg)
{
	Attempt    *attempt = arg;
	Oid			sink = attempt->batch->sink->relid;
	Oid			partition = attempt->partition.relid;
	ListCell   *lc;

	lock_at_once(sink, AccessExclusiveLock);
	lock_at_once(partition, AccessExclusiveLock);
	if (!get_rel_relispartition(partition) || get_partition_parent(partition, false) != sink)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("it is not a partition of the sink any more")));
	foreach(lc, find_all_inheritors(partition, NoLock, NULL))
		lock_at_once(lfirst_oid(lc), AccessExclusiveLock);
	run_utility(psprintf("DROP TABLE %s", qualified_name(partition)));
}

static char *
bound_literal(const Attempt *attempt, int64 time)
{
	return quote_literal_cstr(DatumGetCString(attempt->zoned ?
											  DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(time)) :
											  DirectFunctionCall1(timestamp_out, TimestampGetDatum(time))));
}

static void
make_partition(void *arg)
{
	Attempt    *attempt = arg;
	const SinkBatch *batch = attempt->batch;

	lock_at_once(batch->sink->relid, ShareUpdateExclusiveLock);
	run_utility(psprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
						 " INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)",
						 attempt->name, batch->name));
	run_utility(psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)",
						 batch->name, attempt->name,
						 bound_literal(attempt, attempt->partition.lower),
						 bound_literal(attempt, attempt->partition.upper)));
}

/*
 * Handle the error of an attempt: that a lock is not available is not
 * reported.
 */
static void
tell_failure(const SinkBatch *batch, const ErrorData *error, const char *what)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	if (category == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError((ErrorData *) error);
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(WARNING,
				(errmsg("stream \"%s\": could not %s", sagg_stream_title(batch->sink->stream), what),
				 errdetail_internal("%s", error->message)));
}

/*
 * Run "function" of an attempt in a subtransaction.  Returns false if it has
 * failed, and then nothing has changed.
 */
static bool
try_it(void (*function) (void *attempt), Attempt *attempt, const char *what)
{
	int			nest = NewGUCNestLevel();
	ErrorData  *error;

	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	error = sagg_try(function, attempt);
	AtEOXact_GUC(false, nest);
	if (error)
	{
		tell_failure(attempt->batch, error, what);
		FreeErrorData(error);
		return false;
	}
	ereport(LOG,
			(errmsg("stream \"%s\": done by retention: %s",
					sagg_stream_title(attempt->batch->sink->stream), what)));
	return true;
}

/*
 * Returns the partitions of a sink, which the micro-batch has locked, all of whose
 * rows have windows before "before", see sagg_expired_before: OIDs for
 * sagg_sink_drop_partitions, in the current context.  None if it has no partitions.
 */
List *
sagg_sink_expired_partitions(const SaggSink *sink, const SaggQuery *query, int64 before)
{
	List	   *expired = NIL;
	const char *name = NameStr(TupleDescAttr(query->output_desc, query->window_output - 1)->attname);
	AttrNumber	column = get_attnum(sink->relid, name);
	WindowPartition *partitions;
	Relation	rel;
	int			n;

	if (get_rel_relkind(sink->relid) != RELKIND_PARTITIONED_TABLE)
		return NIL;
	if (column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("sink \"%s\" has no column \"%s\"", get_rel_name(sink->relid), name)));
	rel = relation_open(sink->relid, NoLock);
	sagg_sink_check_windows(rel, query, column, false, ERRCODE_SAGG_DEFINITION_CHANGED);
	check_key(rel, query, column, ERRCODE_SAGG_DEFINITION_CHANGED);
	partitions = list_partitions(rel, &n);
	relation_close(rel, NoLock);
	/* the last one stays: it determines the width of new ones */
	for (int i = 0; i < Min(n - 1, MAX_DROPPED) && partitions[i].upper <= before; i++)
		expired = lappend_oid(expired, partitions[i].relid);
	pfree(partitions);
	return expired;
}

/*
 * Drop partitions of a sink, as the current user.  Readers of the sink wait from
 * here to the end of the transaction, so this is the last thing that a micro-batch
 * does in it.
 */
void
sagg_sink_drop_partitions(SaggSink *sink, const List *partitions)
{
	SinkBatch	batch = {.sink = sink};
	ListCell   *lc;

	if (partitions == NIL)
		return;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	foreach(lc, partitions)
	{
		Attempt		attempt = {.batch = &batch,.partition.relid = lfirst_oid(lc)};

		if (!try_it(drop_partition, &attempt,
					get_rel_name(lfirst_oid(lc)) == NULL ? "drop a partition" :
					psprintf("drop partition %s", qualified_name(lfirst_oid(lc)))))
			break;
	}
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
}

/*
 * Returns whether a time is the beginning of a day, by the session's TimeZone
 * if it has a zone.
 */
static bool
begins_day(int64 time, bool zoned, struct pg_tm *tm)
{
	fsec_t		fsec;
	int			tz;

	return timestamp2tm(time, zoned ? &tz : NULL, tm, &fsec, NULL, NULL) == 0 &&
		tm->tm_hour == 0 && tm->tm_min == 0 && tm->tm_sec == 0 && fsec == 0;
}

/*
 * Returns how wide a partition is: in months, days or otherwise microseconds.
 */
static Interval
partition_width(const WindowPartition *partition, bool zoned)
{
	Interval	width = {0};
	struct pg_tm from;
	struct pg_tm to;

	if (!begins_day(partition->lower, zoned, &from) || !begins_day(partition->upper, zoned, &to))
		width.time = partition->upper - partition->lower;
	else if (from.tm_mday == 1 && to.tm_mday == 1)
		width.month = (to.tm_year - from.tm_year) * MONTHS_PER_YEAR + to.tm_mon - from.tm_mon;
	else
		width.day = date2j(to.tm_year, to.tm_mon, to.tm_mday) -
			date2j(from.tm_year, from.tm_mon, from.tm_mday);
	return width;
}

/*
 * Returns the time that is "n" widths after another one.
 */
static int64
add_widths(int64 time, const Interval *width, int64 n, bool zoned)
{
	Interval	widths = {.month = width->month * n, .day = width->day * n, .time = width->time * n};

	return DatumGetTimestampTz(DirectFunctionCall2(zoned ? timestamptz_pl_interval : timestamp_pl_interval,
												   TimestampTzGetDatum(time),
												   IntervalPGetDatum(&widths)));
}

/*
 * Returns the partition that follows another one, and is as wide.
 */
static WindowPartition
next_partition(const WindowPartition *last, bool zoned)
{
	WindowPartition next = {.lower = last->upper};
	Interval	width = partition_width(last, zoned);

	next.upper = add_widths(last->upper, &width, 1, zoned);
	return next;
}

/*
 * Returns a name for a partition of the sink, by its lower bound.
 */
static char *
partition_name(const SinkBatch *batch, const WindowPartition *partition, bool zoned)
{
	Oid			namespace = get_rel_namespace(batch->sink->relid);
	struct pg_tm tm;
	bool		day = begins_day(partition->lower, zoned, &tm);
	char	   *label = psprintf("p%04d%02d%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);

	if (!day)
		label = psprintf("%s_%02d%02d%02d", label, tm.tm_hour, tm.tm_min, tm.tm_sec);
	return quote_qualified_identifier(get_namespace_name(namespace),
									  ChooseRelationName(get_rel_name(batch->sink->relid),
														 NULL, label, namespace, false));
}

/*
 * Returns how many widths of a partition, which has bounds, lie between its end and a
 * later time, about: months and days differ.  Returns -1 if that is too far away, or
 * too close to the end of all times for another partition.
 */
static int64
widths_until(const WindowPartition *partition, const Interval *width, int64 time)
{
	int64		average = width->month > 0 ? width->month * (DAYS_PER_YEAR / MONTHS_PER_YEAR) * USECS_PER_DAY :
	width->day > 0 ? width->day * USECS_PER_DAY : width->time;
	int64		distance;

	if (average <= 0 || average > END_TIMESTAMP / 4 ||
		pg_sub_s64_overflow(time, partition->upper, &distance) ||
		time > END_TIMESTAMP - 2 * (average + USECS_PER_DAY))
		return -1;
	distance /= average;
	/* hours and less all have one width */
	return width->time == 0 && distance >= MAX_STEPS ? -1 : distance;
}

/*
 * Returns the partition that takes a time behind partition "before" and before
 * "next", as wide as "before" and a multiple of that behind it.  Returns false if that
 * is too far away.
 */
static bool
partition_for(const WindowPartition *before, int64 next, int64 time, bool zoned,
			  WindowPartition *found)
{
	Interval	width;
	int64		n;

	if (before->lower == DT_NOBEGIN)
		return false;
	width = partition_width(before, zoned);
	n = widths_until(before, &width, time);
	if (n < 0)
		return false;
	while (n > 0 && add_widths(before->upper, &width, n, zoned) > time)
		n--;
	while (add_widths(before->upper, &width, n + 1, zoned) <= time)
		n++;
	found->lower = add_widths(before->upper, &width, n, zoned);
	found->upper = Min(add_widths(before->upper, &width, n + 1, zoned), next);
	return true;
}

/* Partitions that rows of a batch need. */
typedef struct NeededPartitions
{
	const WindowPartition *partitions;	/* of the sink */
	int			n;
	WindowPartition made[MAX_MADE];
	int			nmade;
} NeededPartitions;

/*
 * Returns whether a time belongs to a partition of the sink, or to one that is
 * needed already.  If not, sets "before" to the number of the sink's partition
 * before it, -1 = none.
 */
static bool
has_partition(const NeededPartitions *needed, int64 time, int *before)
{
	int			low = 0;
	int			high = needed->n;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (needed->partitions[middle].lower <= time)
			low = middle + 1;
		else
			high = middle;
	}
	*before = low - 1;
	if (low > 0 && time < needed->partitions[low - 1].upper)
		return true;
	for (int i = 0; i < needed->nmade; i++)
	{
		if (needed->made[i].lower <= time && time < needed->made[i].upper)
			return true;
	}
	return false;
}

/*
 * Returns whether a row has a time by which the sink, that check_key has accepted, is
 * partitioned, and sets it.
 */
static bool
partition_time(const SinkBatch *batch, TupleTableSlot *slot, int64 *time)
{
	PartitionKey key = RelationGetPartitionKey(batch->rel);
	AttrNumber	column = batch->query->window_output;
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);

	if (isnull)
		return false;
	if (key->partattrs[0] != 0)
	{
		*time = DatumGetTimestampTz(value);
		return !TIMESTAMP_NOT_FINITE(*time);
	}
	range_deserialize(lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO),
					  DatumGetRangeTypeP(value), &lower, &upper, &empty);
	if (((FuncExpr *) linitial(key->partexprs))->funcid == F_UPPER_ANYRANGE)
		lower = upper;
	*time = empty || lower.infinite ? DT_NOEND : DatumGetTimestampTz(lower.val);
	return !TIMESTAMP_NOT_FINITE(*time);
}

/*
 * Add the partitions that rows need and that the sink does not have.
 */
static void
add_needed(const SinkBatch *batch, Tuplestorestate *rows, bool zoned,
		   NeededPartitions *needed)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	int64		time;
	int			before;

	tuplestore_rescan(rows);
	while (needed->nmade < MAX_MADE && tuplestore_gettupleslot(rows, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (!partition_time(batch, slot, &time) || has_partition(needed, time, &before) ||
			before < 0)
			continue;
		if (partition_for(&needed->partitions[before],
						  before + 1 < needed->n ? needed->partitions[before + 1].lower : DT_NOEND,
						  time, zoned, &needed->made[needed->nmade]))
			needed->nmade++;
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_rescan(rows);
}

static bool
make_one(const SinkBatch *batch, const WindowPartition *partition, bool zoned)
{
	Attempt		attempt = {.batch = batch, .zoned = zoned, .partition = *partition};

	CHECK_FOR_INTERRUPTS();
	attempt.name = partition_name(batch, partition, zoned);
	return try_it(make_partition, &attempt, psprintf("make partition %s", attempt.name));
}

/*
 * Make the partitions that rows of the output need first: times may be far from
 * each other, and a micro-batch does not make all that are in between.  Then make
 * others behind the last one, until there is one for the time "until".  The sink is
 * closed meanwhile, but stays locked: ALTER TABLE rejects a table that is open.
 */
void
sagg_sink_make_partitions(SinkBatch *batch, int64 until, const SaggOutput *output)
{
	AttrNumber	column = batch->columns[batch->query->window_output - 1];
	bool		zoned = RelationGetPartitionKey(batch->rel)->parttypid[0] == TIMESTAMPTZOID;
	NeededPartitions needed = {0};
	WindowPartition last;
	bool		complete = true;
	int			before;
	int			left = MAX_MADE;

	check_key(batch->rel, batch->query, column, ERRCODE_SAGG_DEFINITION_CHANGED);
	needed.partitions = list_partitions(batch->rel, &needed.n);
	if (needed.n == 0)
		return;
	last = needed.partitions[needed.n - 1];
	for (int i = 1; i < needed.n; i++)
		complete = complete && needed.partitions[i].lower == needed.partitions[i - 1].upper;
	if (last.upper <= until || !complete)
	{
		add_needed(batch, output->fresh, zoned, &needed);
		add_needed(batch, output->known, zoned, &needed);
	}
	relation_close(batch->rel, NoLock);
	for (int i = 0; i < needed.nmade && left > 0; i++)
		left = make_one(batch, &needed.made[i], zoned) ? left - 1 : 0;
	while (left > 0 && last.lower != DT_NOBEGIN && last.upper <= until)
	{
		WindowPartition next = next_partition(&last, zoned);

		if (next.upper <= last.upper)
			break;
		last = next;
		if (has_partition(&needed, next.lower, &before))
			continue;
		if (!make_one(batch, &next, zoned))
			break;
		left--;
	}
	batch->rel = relation_open(batch->sink->relid, NoLock);
}
