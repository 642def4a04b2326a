/*-------------------------------------------------------------------------
 *
 * first_offsets.c
 *	  The offsets at which a stream that has read nothing begins.
 *
 * Waits for the source, so it is never called within a transaction of a
 * micro-batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "define_internal.h"
#include "read/read.h"

/*
 * Turn offsets that the user named into offsets that the source has; "bounds"
 * is one partition's, whose start they become.
 */
static void
apply_named_offsets(SaggReader *reader, const SaggStart *start,
					SaggRange *bounds, int nbounds)
{
	const char *one_topic = sagg_reader_one_topic(reader);

	for (int i = 0; i < start->noffsets; i++)
	{
		const SaggRange *named = &start->offsets[i];
		SaggRange	key = *named;
		SaggRange  *bound;

		if (key.topic < 0 && one_topic == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
					 errmsg("starting_offsets do not name topics, and the source has several"),
					 errhint("Write {\"topic\": {\"0\": 42}}; for an existing stream, in stream_agg.reset_stream, then start it.")));
		if (key.topic < 0)
			key.topic = sagg_topic_number(one_topic);
		bound = sagg_partition_find(bounds, nbounds, &key);
		if (bound == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_OFFSETS_GONE),
					 errmsg("starting_offsets name partition %d, which topic \"%s\" does not have",
							key.partition, sagg_topic_name(key.topic)),
					 one_topic ?
					 errdetail("The topic has partitions 0 to %d.", nbounds - 1) : 0,
					 errhint("Use stream_agg.reset_stream to name others, then start the stream.")));
		if (named->start == SAGG_OFFSET_LATEST)
			bound->start = bound->end;
		else if (named->start != SAGG_OFFSET_EARLIEST)
			bound->start = named->start;
	}
}

/*
 * Returns what the source has for a stream that has not begun: by partition,
 * from where "starting_offsets" says to the end.  In the current context.
 * Waits for the source.
 */
SaggRange *
sagg_first_ranges(SaggReader *reader, const char *starting_offsets, int *n)
{
	SaggStart  *start = sagg_starting_offsets(starting_offsets);
	int			nbounds;
	SaggRange  *bounds = sagg_reader_bounds(reader, &nbounds);

	switch (start->kind)
	{
		case SAGG_START_EARLIEST:
			break;
		case SAGG_START_LATEST:
			for (int i = 0; i < nbounds; i++)
				bounds[i].start = bounds[i].end;
			break;
		case SAGG_START_OFFSETS:
			apply_named_offsets(reader, start, bounds, nbounds);
			break;
		case SAGG_START_TIME:
			sagg_reader_offsets_at(reader, start->time, bounds, nbounds);
			break;
	}
	*n = nbounds;
	return bounds;
}
