/*-------------------------------------------------------------------------
 *
 * prefetched_runs.c
 *	  Records of a partition that were collected before their micro-batch was
 *	  planned, in order of offsets.
 *
 * They stand in front of what the partition's queue has: from its position on,
 * without a gap but those of Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_internal.h"

/*
 * Add a portion behind the others; holds its chunk.
 */
void
sagg_portion_add(SaggKafkaReader *reader, SaggPartition *part, const SaggPortion *found)
{
	SaggPortion *portion = MemoryContextAlloc(reader->base.memory, sizeof(SaggPortion));

	*portion = *found;
	portion->records.chunk->holders++;
	dlist_push_tail(&part->portions, &portion->node);
}

static void
drop_first(SaggKafkaReader *reader, SaggPartition *part)
{
	SaggPortion *portion = dlist_container(SaggPortion, node,
										   dlist_pop_head_node(&part->portions));

	sagg_chunk_release(reader->base.batch, portion->records.chunk);
	pfree(portion);
}

/*
 * Forget all that was collected.  Raises no error.
 */
void
sagg_portions_drop(SaggKafkaReader *reader, SaggPartition *part)
{
	while (!dlist_is_empty(&part->portions))
		drop_first(reader, part);
}

/*
 * Offset of the first record collected, or -1.
 */
int64
sagg_portions_first(SaggPartition *part)
{
	if (dlist_is_empty(&part->portions))
		return -1;
	return dlist_container(SaggPortion, node, part->portions.head.next)->records.first;
}

/*
 * Offset behind the last record collected; without any, the partition's position.
 */
int64
sagg_portions_end(SaggPartition *part)
{
	if (dlist_is_empty(&part->portions))
		return part->position;
	return dlist_container(SaggPortion, node, part->portions.head.prev)->last_offset + 1;
}

/*
 * Bytes of the records collected.
 */
Size
sagg_portions_bytes(SaggPartition *part)
{
	Size		bytes = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &part->portions)
	{
		const SaggPortion *portion = dlist_container(SaggPortion, node, iter.cur);

		bytes += portion->records.end - portion->records.place;
	}
	return bytes;
}

/*
 * Were records collected without the headers that are to be kept now?
 */
bool
sagg_portions_lack_headers(SaggPartition *part)
{
	dlist_iter	iter;

	dlist_foreach(iter, &part->portions)
	{
		if (!dlist_container(SaggPortion, node, iter.cur)->headers)
			return true;
	}
	return false;
}

/*
 * Of a portion the records before offset "end", of which there is one at least:
 * out of it, into "before".
 */
static void
cut(SaggPortion *portion, int64 end, SaggPortion *before)
{
	SaggStretch *rest = &portion->records;
	SaggStoredRecord stored;

	*before = *portion;
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
 * Move the next records before offset "end" to the reader's batch; they are handed
 * over then.  Returns their number, and adds to "bytes" what they take; 0 when
 * there are none.
 */
int64
sagg_portion_take(SaggKafkaReader *reader, SaggPartition *part, int64 end, int64 *bytes)
{
	SaggPortion *portion;
	SaggPortion taken;
	bool		whole;

	if (dlist_is_empty(&part->portions))
		return 0;
	portion = dlist_container(SaggPortion, node, dlist_head_node(&part->portions));
	if (portion->records.first >= end)
		return 0;
	whole = portion->last_offset < end;
	if (whole)
		taken = *portion;
	else
		cut(portion, end, &taken);
	sagg_batch_add_stored(reader->base.batch, &taken.records, taken.headers);
	part->position = taken.last_offset + 1;
	part->last_offset = taken.last_offset;
	part->last_timestamp = taken.last_timestamp;
	*bytes += taken.records.end - taken.records.place;
	if (whole)
		drop_first(reader, part);
	return taken.records.run.end;
}
