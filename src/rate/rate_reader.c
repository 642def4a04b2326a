/*-------------------------------------------------------------------------
 *
 * rate_reader.c
 *	  Reads rate sources: rows are generated when a batch is collected.
 *
 * Row n of a partition is always the same, so a batch that is read again has
 * the same records, in this process or another.  The clock says how far a
 * partition goes; a batch has the rows that were planned, whatever the clock
 * says later.  Nothing here waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "event_time/event_time.h"
#include "rate_internal.h"
#include "read/batch/batch.h"

/* how long to sleep while there are rows that nobody takes yet */
#define HELD_MS				20

#define ROWS_PER_CHECK		1024

/*
 * Set up the sequences of the sources; sources of the same definition are one
 * topic.
 */
void
sagg_rate_open(SaggReader *base, List *sources)
{
	SaggRateReader *reader = (SaggRateReader *) base;
	ListCell   *lc;

	reader->topics = palloc(sizeof(SaggRateTopic) * list_length(sources));
	foreach(lc, sources)
	{
		SaggRateTopic *topic = &reader->topics[reader->ntopics];
		bool		known = false;

		sagg_rate_of_source(lfirst_oid(lc), &topic->rate);
		topic->topic = sagg_topic_number(sagg_rate_topic(&topic->rate));
		for (int i = 0; i < reader->ntopics; i++)
			known = known || reader->topics[i].topic == topic->topic;
		if (!known)
			reader->ntopics++;
	}
}

/*
 * Close the reader, which only owns memory.
 */
void
sagg_rate_close(SaggReader *base)
{
}

/*
 * Returns a fixed word as the cluster's name: the name of a topic already says
 * which rows it has.
 */
const char *
sagg_rate_identity(SaggReader *base)
{
	return base->kind->name;
}

static const SaggRate *
rate_of(const SaggRateReader *reader, int32 topic)
{
	for (int i = 0; i < reader->ntopics; i++)
	{
		if (reader->topics[i].topic == topic)
			return &reader->topics[i].rate;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("%s does not have topic \"%s\"", reader->base.topics->subject,
					sagg_topic_name(topic))));
}

static SaggRatePartition *
find_partition(const SaggRateReader *reader, int32 topic, int32 partition)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (reader->partitions[i].topic == topic &&
			reader->partitions[i].partition == partition)
			return &reader->partitions[i];
	}
	return NULL;
}

/*
 * Returns the current end of a partition of a topic.  If the clock was set
 * back, the end does not go back for a reader.
 */
static int64
end_of(const SaggRateReader *reader, const SaggRateTopic *topic, int32 partition,
	   int64 rows)
{
	int64		end = sagg_rate_offset(&topic->rate, partition, rows);
	const SaggRatePartition *read = find_partition(reader, topic->topic, partition);

	return read ? Max(end, read->position) : end;
}

/*
 * See source.h.
 */
SaggRange *
sagg_rate_bounds(SaggReader *base, int *npartitions)
{
	SaggRateReader *reader = (SaggRateReader *) base;
	int64		now = sagg_rate_now();
	int			total = 0;
	int			n = 0;
	SaggRange  *bounds;

	for (int i = 0; i < reader->ntopics; i++)
		total += reader->topics[i].rate.partitions;
	bounds = palloc0(sizeof(SaggRange) * Max(total, 1));
	for (int i = 0; i < reader->ntopics; i++)
	{
		const SaggRateTopic *topic = &reader->topics[i];
		int64		rows = sagg_rate_rows_until(&topic->rate, now);

		for (int32 p = 0; p < topic->rate.partitions; p++)
		{
			bounds[n].topic = topic->topic;
			bounds[n].partition = p;
			bounds[n++].end = end_of(reader, topic, p, rows);
		}
	}
	*npartitions = n;
	return bounds;
}

/*
 * See source.h.
 */
void
sagg_rate_offsets_at(SaggReader *base, TimestampTz time, SaggRange *bounds, int nbounds)
{
	SaggRateReader *reader = (SaggRateReader *) base;
	int64		time_ms = time / 1000 + (time % 1000 > 0) - SAGG_EPOCH_MS;	/* rounded up */

	for (int i = 0; i < nbounds; i++)
	{
		const SaggRate *rate = rate_of(reader, bounds[i].topic);
		int64		first = sagg_rate_offset(rate, bounds[i].partition,
											 sagg_rate_rows_until(rate, time_ms - 1));

		bounds[i].start = Min(Max(bounds[i].start, first), bounds[i].end);
	}
}

/*
 * See source.h.
 */
void
sagg_rate_assign(SaggReader *base, const SaggRange *positions, int npositions)
{
	SaggRateReader *reader = (SaggRateReader *) base;
	bool		changed = false;

	for (int i = 0; i < npositions; i++)
	{
		SaggRatePartition *part = find_partition(reader, positions[i].topic,
												 positions[i].partition);

		if (part == NULL)
		{
			Size		size = sizeof(SaggRatePartition) * (reader->npartitions + 1);

			reader->partitions = reader->partitions ? repalloc(reader->partitions, size) :
				MemoryContextAlloc(base->memory, size);
			part = &reader->partitions[reader->npartitions];
			part->topic = positions[i].topic;
			part->partition = positions[i].partition;
			part->rate = rate_of(reader, part->topic);
			part->position = -1;
			reader->npartitions++;
		}
		if (part->position != positions[i].start)
			changed = true;
		part->position = positions[i].start;
	}
	if (changed)
		sagg_rate_release(base);
}

/*
 * Returns when the next row comes that no batch has, in milliseconds since
 * 1970; PG_INT64_MAX if none does.
 */
static int64
next_time(const SaggRateReader *reader)
{
	int64		next = PG_INT64_MAX;

	for (int i = 0; i < reader->npartitions; i++)
	{
		const SaggRatePartition *part = &reader->partitions[i];
		int64		row;

		/* a user may have named any position */
		if (!pg_mul_s64_overflow(part->position, part->rate->partitions, &row) &&
			!pg_add_s64_overflow(row, part->partition, &row))
			next = Min(next, sagg_rate_time(part->rate, row));
	}
	return next;
}

/*
 * See source.h.
 */
bool
sagg_rate_has_records(SaggReader *base)
{
	return next_time((SaggRateReader *) base) <= sagg_rate_now();
}

/*
 * Returns how long to sleep until the next row comes, if triggers wait for
 * rows.  A row that has come already is held back, or has come just now.
 */
long
sagg_rate_rest(SaggReader *base, long interval_ms, long timeout_ms)
{
	int64		next = next_time((SaggRateReader *) base);
	int64		now = sagg_rate_now();

	if (interval_ms > 0 || next == PG_INT64_MAX)
		return timeout_ms;
	return next <= now ? Min(timeout_ms, HELD_MS) : Min(timeout_ms, next - now);
}

/*
 * See source.h.
 */
void
sagg_rate_begin(SaggReader *base, const SaggRange *ranges, int nranges)
{
	SaggRateReader *reader = (SaggRateReader *) base;

	sagg_rate_release(base);
	if (nranges == 0)
		return;
	sagg_rate_assign(base, ranges, nranges);
	reader->ranges = MemoryContextAlloc(base->memory, sizeof(SaggRange) * nranges);
	memcpy(reader->ranges, ranges, sizeof(SaggRange) * nranges);
	reader->nranges = nranges;
}

/*
 * Add the row at an offset to the batch: its number as text, without a key.
 */
static inline void
add_row(SaggBatch *batch, const SaggRate *rate, int32 topic, int32 partition, int64 offset)
{
	int64		row = offset * rate->partitions + partition;
	char		text[MAXINT8LEN + 1];
	SaggStoredRecord stored = {
		.offset = offset,
		.timestamp_ms = sagg_rate_time(rate, row),
		.key_len = -1,
		.payload_len = pg_lltoa(row, text)
	};
	Size		size = sagg_record_size(&stored);
	char	   *room = sagg_batch_room(batch, size);

	memcpy(room, &stored, sizeof(stored));
	memcpy(room + sizeof(stored), text, stored.payload_len);
	sagg_batch_put(batch, topic, partition, &stored, room, size);
}

/*
 * Generate all rows of the batch.
 */
bool
sagg_rate_collect(SaggReader *base)
{
	SaggRateReader *reader = (SaggRateReader *) base;

	if (reader->nranges == 0 || reader->complete)
		return true;
	sagg_batch_reset(base->batch);
	for (int i = 0; i < reader->nranges; i++)
	{
		const SaggRange *range = &reader->ranges[i];
		SaggRatePartition *part = find_partition(reader, range->topic, range->partition);

		for (int64 offset = range->start; offset < range->end; offset++)
		{
			if (offset % ROWS_PER_CHECK == 0)
				CHECK_FOR_INTERRUPTS();
			add_row(base->batch, part->rate, range->topic, range->partition, offset);
		}
		part->position = Max(range->start, range->end);
	}
	reader->complete = true;
	return true;
}

/*
 * See source.h.
 */
void
sagg_rate_release(SaggReader *base)
{
	SaggRateReader *reader = (SaggRateReader *) base;

	sagg_batch_reset(base->batch);
	if (reader->ranges)
		pfree(reader->ranges);
	reader->ranges = NULL;
	reader->nranges = 0;
	reader->complete = false;
}
