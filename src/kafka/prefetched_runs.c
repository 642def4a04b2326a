/*-------------------------------------------------------------------------
 *
 * prefetched_runs.c
 *	  Records of a partition that were collected before their micro-batch was
 *	  planned, in order of offsets.
 *
 * They precede what the partition's queue has: they begin at its position, and
 * have no gaps except Kafka's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_internal.h"

/*
 * Append a run; holds its chunk.
 */
void
sagg_prefetched_add(SaggKafkaReader *reader, SaggPartition *part, const SaggPrefetchedRun *found)
{
	SaggPrefetchedRun *run = MemoryContextAlloc(reader->base.memory, sizeof(SaggPrefetchedRun));

	*run = *found;
	run->records.chunk->holders++;
	dlist_push_tail(&part->prefetched, &run->node);
}

static void
drop_first(SaggKafkaReader *reader, SaggPartition *part)
{
	SaggPrefetchedRun *run = dlist_container(SaggPrefetchedRun, node,
											 dlist_pop_head_node(&part->prefetched));

	sagg_chunk_release(reader->base.batch, run->records.chunk);
	pfree(run);
}

/*
 * Discard all that was collected.  Raises no error.
 */
void
sagg_prefetched_drop(SaggKafkaReader *reader, SaggPartition *part)
{
	while (!dlist_is_empty(&part->prefetched))
		drop_first(reader, part);
}

/*
 * Returns the offset of the first record collected, or -1.
 */
int64
sagg_prefetched_first(SaggPartition *part)
{
	if (dlist_is_empty(&part->prefetched))
		return -1;
	return dlist_container(SaggPrefetchedRun, node, part->prefetched.head.next)->records.first;
}

/*
 * Returns the offset behind the last record collected; if there is none, the
 * partition's position.
 */
int64
sagg_prefetched_end(SaggPartition *part)
{
	if (dlist_is_empty(&part->prefetched))
		return part->position;
	return dlist_container(SaggPrefetchedRun, node, part->prefetched.head.prev)->last_offset + 1;
}

/*
 * Returns the bytes of the records collected.
 */
Size
sagg_prefetched_bytes(SaggPartition *part)
{
	Size		bytes = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &part->prefetched)
	{
		const SaggPrefetchedRun *run = dlist_container(SaggPrefetchedRun, node, iter.cur);

		bytes += run->records.end - run->records.place;
	}
	return bytes;
}

/*
 * Returns whether records were collected without the headers that have to be
 * kept now.
 */
bool
sagg_prefetched_lack_headers(SaggPartition *part)
{
	dlist_iter	iter;

	dlist_foreach(iter, &part->prefetched)
	{
		if (!dlist_container(SaggPrefetchedRun, node, iter.cur)->headers)
			return true;
	}
	return false;
}

/*
 * Move the records of a run before offset "end", at least one, from it into
 * "before".
 */
static void
cut(SaggPrefetchedRun *run, int64 end, SaggPrefetchedRun *before)
{
	SaggStretch *rest = &run->records;
	SaggStoredRecord stored;

	*before = *run;
	before->records.run.end = 0;
	for (;;)
	{
		memcpy(&stored, rest->chunk->data + rest->place, sizeof(stored));
		rest->first = stored.offset;
		if (stored.offset >= end)
			break;
		rest->place += sagg_record_size(&stored);
		rest->run.end--;
		before->records.run.end++;
		before->last_offset = stored.offset;
		before->last_timestamp = stored.timestamp_ms;
	}
	before->records.end = rest->place;
}

/*
 * Move the next records before offset "end" to the reader's batch, which
 * counts as handing them over.  Returns their number, and adds their bytes to
 * "bytes"; 0 when there are none.
 */
int64
sagg_prefetched_take(SaggKafkaReader *reader, SaggPartition *part, int64 end, int64 *bytes)
{
	SaggPrefetchedRun *run;
	SaggPrefetchedRun taken;
	bool		whole;

	if (dlist_is_empty(&part->prefetched))
		return 0;
	run = dlist_container(SaggPrefetchedRun, node, dlist_head_node(&part->prefetched));
	if (run->records.first >= end)
		return 0;
	whole = run->last_offset < end;
	if (whole)
		taken = *run;
	else
		cut(run, end, &taken);
	sagg_batch_add_stored(reader->base.batch, &taken.records, taken.headers);
	part->position = taken.last_offset + 1;
	part->last_offset = taken.last_offset;
	part->last_timestamp = taken.last_timestamp;
	*bytes += taken.records.end - taken.records.place;
	if (whole)
		drop_first(reader, part);
	return taken.records.run.end;
}
