/*-------------------------------------------------------------------------
 *
 * batch_warnings.c
 *	  Warnings in the log about a committed batch that somebody should look at.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "worker_internal.h"

/* a warning is logged when more than this share of a batch was late */
#define LATE_SHARE_WARNING		10	/* one tenth */
#define LATE_WARNING_INTERVAL_MS	60000	/* and not more often */

/*
 * Returns where a rejected record of a batch comes from, and why it was rejected,
 * for the log.
 */
char *
sagg_describe_rejection(SaggBatch *batch, const SaggRejection *rejection)
{
	SaggPlace	place;

	sagg_batch_locate(batch, rejection->record, &place);
	return psprintf("The first one, in partition %d of topic \"%s\" at offset " INT64_FORMAT ": %s",
					place.partition, sagg_topic_name(place.topic), place.offset,
					sagg_rejection_text(rejection));
}

/*
 * Warn of many late records, once in LATE_WARNING_INTERVAL_MS.
 */
void
sagg_warn_of_late_records(const SaggStreamRun *run, const SaggCounts *counts)
{
	static TimestampTz last_warning = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (counts->late * LATE_SHARE_WARNING <= counts->aggregated + counts->late ||
		!TimestampDifferenceExceeds(last_warning, now, LATE_WARNING_INTERVAL_MS))
		return;
	last_warning = now;
	ereport(WARNING,
			(errmsg("stream \"%s\": " INT64_FORMAT " of " INT64_FORMAT " records of a micro-batch were late",
					sagg_stream_title(run->stream->name), counts->late,
					counts->aggregated + counts->late),
			 errdetail("Their windows end at or before the watermark, so they are counted and left out."),
			 run->stream->options.watermark_policy == SAGG_WATERMARK_GLOBAL ?
			 errhint("If one partition is ahead of the others, set the option watermark_policy to aligned or per_partition. "
					 "If the clock of a producer is ahead, set the option max_future. Otherwise give the stream a longer watermark.") :
			 errhint("If the clock of a producer is ahead, set the option max_future. "
					 "If producers of one partition differ in their delays, give the stream a longer watermark.")));
}

/*
 * Warn if none of the records that passed a query's conditions has an event time.
 * Returns whether there was a warning.
 */
bool
sagg_warn_of_null_times(const SaggStream *stream, const SaggCounts *counts)
{
	char	   *columns;

	if (counts->null_time == 0 || counts->aggregated + counts->late > 0)
		return false;
	columns = sagg_null_columns(stream->sources);
	ereport(WARNING,
			(errmsg("stream \"%s\": all " INT64_FORMAT " records of a micro-batch are without event time",
					sagg_stream_title(stream->name), counts->null_time),
			 columns ? errdetail_internal("%s", columns) : 0,
			 errhint("They are counted as rows_null_time and left out. Look at the fields that the columns of the source are read from.")));
	return true;
}

/*
 * Warn of records that were left out, once a batch; "first" describes one of them,
 * NULL if there are none.
 */
void
sagg_warn_of_rejected_records(const SaggStreamRun *run, const SaggCounts *counts,
							  const char *first)
{
	if (first == NULL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_SAGG_INVALID_RECORD),
			 run->stream->options.on_error == SAGG_DEAD_LETTER ?
			 errmsg("stream \"%s\": " INT64_FORMAT " of " INT64_FORMAT " records of a micro-batch are dead letters",
					sagg_stream_title(run->stream->name), counts->dead_lettered, counts->delivered) :
			 errmsg("stream \"%s\": " INT64_FORMAT " of " INT64_FORMAT " records of a micro-batch were skipped",
					sagg_stream_title(run->stream->name), counts->dead_lettered, counts->delivered),
			 errdetail_internal("%s", first)));
}

/*
 * Warn of groups that were left out when their windows closed; "first" describes one
 * of them, NULL if there are none.
 */
void
sagg_warn_of_failed_windows(const SaggStreamRun *run, int failed, const char *first)
{
	if (failed == 0)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg_plural("stream \"%s\": %d group failed when its window closed, and is left out",
						   "stream \"%s\": %d groups failed when their windows closed, and are left out",
						   failed, sagg_stream_title(run->stream->name), failed),
			 errdetail_internal("%s", first),
			 errhint("They are in stream_agg.failed_windows. A query that takes them, and reset_stream with results_from, bring them back.")));
	sagg_record_event(run->slot, "failed windows", first);
	sagg_run_settings(run->reading->leader);
}

static void
append_losses(StringInfo buf, const SaggRange *losses, int n)
{
	for (int i = 0; i < n; i++)
		appendStringInfo(buf,
						 losses[i].end > losses[i].start ?
						 "%sopic \"%s\", partition %d: offsets " INT64_FORMAT " to " INT64_FORMAT :
						 "%sopic \"%s\", partition %d: it ends before offset " INT64_FORMAT ", and all of it is read again, from offset " INT64_FORMAT,
						 buf->len > 0 ? "; t" : "T",
						 sagg_topic_name(losses[i].topic), losses[i].partition,
						 losses[i].start,
						 losses[i].end - (losses[i].end > losses[i].start ? 1 : 0));
}

/*
 * Returns a description of offsets that the batch should have read and the source did
 * not have; NULL if there are none.
 */
char *
sagg_describe_losses(const SaggPlan *plan, const SaggCommit *commit)
{
	StringInfoData buf;

	if (plan->nskipped + commit->nlosses == 0)
		return NULL;
	initStringInfo(&buf);
	append_losses(&buf, plan->skipped, plan->nskipped);
	append_losses(&buf, commit->losses, commit->nlosses);
	return buf.data;
}

void
sagg_warn_of_lost_offsets(const SaggStreamRun *run, const char *losses)
{
	if (losses == NULL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 errmsg("stream \"%s\" continues without offsets that it could not read",
					run->stream->name),
			 errdetail_internal("%s.", losses),
			 errhint("The topic's retention was too short for the time the stream did not run, the topic was deleted and created again, or records cannot be decompressed, which another warning reports.")));
}
