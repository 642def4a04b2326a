/*-------------------------------------------------------------------------
 *
 * unfinished.c
 *	  What a trigger could read and its batch has left.
 *
 * max_offsets_per_trigger says how much a trigger reads.  A batch that has to be
 * smaller - a record is searched in it (poison.c), or it took too much memory or
 * space (batch_size.c) - leaves a rest, and if that waited for the next trigger, a
 * few bad records would stop the stream.  So batches follow without a pause until
 * the rest is done, and they read no more than the rest.
 *
 * The process alone knows the rest: a worker that starts anew waits for one trigger
 * at most.  Nothing depends on it but pauses and the sizes of batches.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "worker_internal.h"

/*
 * Nothing of what a trigger could read is left.
 */
void
sagg_unfinished_forget(SaggStreamRun *run)
{
	if (run->unfinished)
		pfree(run->unfinished);
	run->unfinished = NULL;
	run->nunfinished = 0;
}

/*
 * Returns whether the run has offsets left of what a trigger could read.
 */
bool
sagg_is_unfinished(const SaggStreamRun *run)
{
	const SaggProgress *progress = run->progress;

	for (int i = 0; i < run->nunfinished; i++)
	{
		const SaggRange *range = &run->unfinished[i];
		const SaggRange *position = sagg_partition_find(progress->positions,
														progress->npositions, range);

		if (position && position->start >= range->start && position->start < range->end)
			return true;
	}
	return false;
}

/*
 * The trigger at hand could read these ranges, and the next batch of the reading's
 * runs reads less of them.  Does nothing if they are a part of what is left already,
 * or if no limit makes triggers wait.
 */
void
sagg_unfinished_note(SaggReading *reading, const SaggRange *ranges, int n)
{
	Size		size = sizeof(SaggRange) * n;
	ListCell   *lc;

	if (n == 0 || sagg_first_run(reading)->stream->max_offsets == 0)
		return;
	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		if (sagg_is_unfinished(run))
			continue;
		sagg_unfinished_forget(run);
		run->unfinished = memcpy(MemoryContextAlloc(TopMemoryContext, size), ranges, size);
		run->nunfinished = n;
	}
}

/*
 * Reduce "ranges", which begin at the run's positions, to what the trigger has left.
 * Returns how many ranges are left, all of them if it has nothing left.
 */
int
sagg_unfinished_keep(const SaggStreamRun *run, SaggRange *ranges, int n)
{
	int			kept = 0;

	if (!sagg_is_unfinished(run))
		return n;
	for (int i = 0; i < n; i++)
	{
		const SaggRange *rest = sagg_partition_find(run->unfinished, run->nunfinished,
													&ranges[i]);

		if (rest == NULL || ranges[i].start < rest->start || ranges[i].start >= rest->end)
			continue;
		ranges[kept] = ranges[i];
		ranges[kept++].end = Min(ranges[i].end, rest->end);
	}
	return kept > 0 ? kept : n;
}
