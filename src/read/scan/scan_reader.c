/*-------------------------------------------------------------------------
 *
 * scan_reader.c
 *	  A foreign scan's own bounded read of its source.
 *
 * The first start asks Kafka for the partitions' bounds; records that arrive
 * later are not read, and a rescan reads the same ones.  Records are fetched
 * in chunks, each a batch of the reader, so that memory stays bounded.  The
 * reader is closed with the memory context it was opened in, at the latest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "streams/streams.h"
#include "scan_internal.h"

/* most records of a chunk */
#define RECORDS_PER_CHUNK		10000

/* longest time between calls of the reader */
#define LOOK_AGAIN_MS			1000

struct SaggScanReader
{
	MemoryContext memory;
	MemoryContextCallback callback;
	SaggReader *reader;
	SaggBatchCursor *cursor;
	int			nbounds;
	SaggRange  *bounds;			/* bounds of the source, NULL = not asked yet */
	int			nranges;
	SaggRange  *ranges;			/* ranges not yet read */
	SaggRange  *chunk;			/* work space */
	int64		nchunks;
};

static void
close_reader(void *arg)
{
	SaggScanReader *scan = (SaggScanReader *) arg;

	if (scan->reader)
		sagg_reader_close(scan->reader);
	scan->reader = NULL;
}

/*
 * Prepare to read "source" with the user mapping of "user".  Contacts nobody
 * yet.  Lives in the current context.
 */
SaggScanReader *
sagg_scan_reader_open(Oid source, Oid user, bool want_headers)
{
	SaggScanReader *scan = palloc0(sizeof(SaggScanReader));
	SaggOwnerContext owner;

	scan->memory = CurrentMemoryContext;
	scan->callback.func = close_reader;
	scan->callback.arg = scan;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &scan->callback);

	/* an ERROR in between: the end of the transaction restores the user */
	sagg_become_owner(&owner, user);
	scan->reader = sagg_reader_open(list_make1_oid(source), want_headers);
	sagg_restore_user(&owner);

	scan->cursor = sagg_batch_open(sagg_reader_batch(scan->reader), want_headers);
	return scan;
}

/*
 * Close the reader; its memory is freed with its context.
 */
void
sagg_scan_reader_close(SaggScanReader *scan)
{
	sagg_batch_end(scan->cursor);
	close_reader(scan);
}

static bool
topic_passes(int32 topic, const SaggScanLimits *limits)
{
	const char *name = sagg_topic_name(topic);
	ListCell   *lc;

	foreach(lc, limits->topics)
	{
		bool		found = false;
		ListCell   *lc2;

		foreach(lc2, (List *) lfirst(lc))
			found = found || strcmp(lfirst(lc2), name) == 0;
		if (!found)
			return false;
	}
	return true;
}

/*
 * Returns the bounds of the source, from the first record in each partition
 * that is as late as the limits ask for: all records before that are earlier,
 * in whatever order their timestamps are.  Palloc'd unless they are
 * scan->bounds.  Waits for Kafka.
 */
static SaggRange *
bounds_from_time(SaggScanReader *scan, const SaggScanLimits *limits)
{
	SaggRange  *bounds;

	/* Kafka counts from 1970; a record's timestamp may be earlier */
	if (!limits->has_time || scan->nbounds == 0 ||
		limits->min_time <= SAGG_EPOCH)
		return scan->bounds;
	bounds = palloc(sizeof(SaggRange) * scan->nbounds);
	memcpy(bounds, scan->bounds, sizeof(SaggRange) * scan->nbounds);
	sagg_reader_offsets_at(scan->reader, limits->min_time, bounds, scan->nbounds);
	return bounds;
}

/*
 * Begin to read what lies within the limits, from its start.  Waits for Kafka
 * the first time.
 */
void
sagg_scan_reader_start(SaggScanReader *scan, const SaggScanLimits *limits)
{
	SaggRange  *bounds;

	if (scan->bounds == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(scan->memory);
		SaggRange  *bounds = sagg_reader_bounds(scan->reader, &scan->nbounds);

		scan->ranges = palloc(sizeof(SaggRange) * Max(scan->nbounds, 1));
		scan->chunk = palloc(sizeof(SaggRange) * Max(scan->nbounds, 1));
		scan->bounds = bounds;
		MemoryContextSwitchTo(old);
	}

	sagg_reader_skips_unreadable(scan->reader,
								 limits->lenient);
	bounds = bounds_from_time(scan, limits);
	scan->nranges = 0;
	for (int i = 0; i < scan->nbounds; i++)
	{
		SaggRange	range = bounds[i];

		if (range.partition < limits->min_partition ||
			range.partition > limits->max_partition ||
			!topic_passes(range.topic, limits))
			continue;
		range.start = Max(range.start, limits->min_offset);
		if (limits->max_offset < range.end)
			range.end = limits->max_offset + 1;
		if (limits->restriction && !sagg_restrict_range(limits->restriction, &range))
			continue;
		if (range.start < range.end)
			scan->ranges[scan->nranges++] = range;
	}
	if (bounds != scan->bounds)
		pfree(bounds);

	/*
	 * all partitions are assigned at once; a chunk may have only some of them
	 */
	sagg_reader_release(scan->reader);
	sagg_reader_assign(scan->reader, scan->ranges, scan->nranges);
	sagg_batch_rewind(scan->cursor);
}

/*
 * Wait, in the session of a user, until the batch that was begun is complete.
 * Raises what sagg_reader_collect does, and connection_failure when there is no
 * progress for stream_agg.kafka_timeout.
 */
void
sagg_reader_await(SaggReader *reader)
{
	static uint32 wait_event = 0;
	TimestampTz last_progress = GetCurrentTimestamp();

	if (wait_event == 0)
		wait_event = SAGG_WAIT_EVENT("StreamAggKafka");
	while (!sagg_reader_collect(reader))
	{
		CHECK_FOR_INTERRUPTS();
		if (WaitLatchOrSocket(MyLatch,
							  WL_LATCH_SET | WL_SOCKET_READABLE |
							  WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							  sagg_reader_fd(reader), LOOK_AGAIN_MS,
							  wait_event) & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (sagg_reader_hears(reader))
			last_progress = GetCurrentTimestamp();
		else if (TimestampDifferenceExceeds(last_progress, GetCurrentTimestamp(),
											sagg_kafka_timeout_ms))
		{
			const char *trouble = sagg_reader_trouble(reader);

			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("no records of %s from %s for %d ms",
							sagg_reader_subject(reader), sagg_reader_title(reader),
							sagg_kafka_timeout_ms),
					 trouble ? errdetail_internal("%s.", trouble) : 0));
		}
	}
}

/*
 * Fetch the next chunk.  Returns false if nothing is left.  If records that
 * have arrived complete the chunk, does not wait; interrupts are served here,
 * too.  Offsets without records are skipped at once, however many there are.
 */
static bool
next_chunk(SaggScanReader *scan)
{
	int			n = 0;
	int			kept = 0;

	CHECK_FOR_INTERRUPTS();
	for (int i = 0; i < scan->nranges; i++)
	{
		SaggRange  *range = &scan->ranges[i];

		if (range->start < range->end)
			range->start = sagg_reader_pass_gap(scan->reader, range);
		if (range->start < range->end)
			scan->chunk[n++] = *range;
	}
	if (n == 0)
		return false;
	sagg_ranges_share(scan->chunk, n, RECORDS_PER_CHUNK, scan->nchunks++);
	for (int i = 0; i < n; i++)
	{
		if (scan->chunk[i].start < scan->chunk[i].end)
			scan->chunk[kept++] = scan->chunk[i];
	}

	sagg_reader_begin(scan->reader, scan->chunk, kept);
	sagg_reader_await(scan->reader);
	sagg_batch_rewind(scan->cursor);
	for (int i = 0; i < kept; i++)
		sagg_partition_find(scan->ranges, scan->nranges, &scan->chunk[i])->start =
			scan->chunk[i].end;
	return true;
}

/*
 * Read the next record; returns false behind the last one.  What it points to
 * stays until the next call.  Waits for Kafka.
 */
bool
sagg_scan_reader_next(SaggScanReader *scan, SaggRecord *record)
{
	while (!sagg_batch_next(scan->cursor, record))
	{
		if (!next_chunk(scan))
			return false;
	}
	return true;
}
