/*-------------------------------------------------------------------------
 *
 * scan_mark.c
 *	  Which record a scan of the attached batch is at, for who looks after the
 *	  process has crashed.
 *
 * A worker has the mark in shared memory, from where the postmaster takes it
 * (worker/crash_log.c).  It is written for every record: two stores, and a name
 * where the topic is another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan_internal.h"

static SaggScanMark no_mark = {.partition = -1};

SaggScanMark *sagg_scan_marked = &no_mark;

/* whose name is in the mark, -1 = none */
int32		sagg_marked_topic = -1;

/*
 * Let scans of attached batches tell "mark", which must outlive it, from now on
 * which record they are at: from before it is decoded until they are at the next
 * one or at their end.  NULL: nobody.
 */
void
sagg_scan_mark(SaggScanMark *mark)
{
	sagg_scan_marked = mark ? mark : &no_mark;
	sagg_scan_marked->partition = -1;
	sagg_marked_topic = -1;
}

/*
 * The records that follow are of this topic, a number.
 */
void
sagg_mark_topic(int32 topic)
{
	sagg_scan_marked->partition = -1;
	strlcpy(sagg_scan_marked->topic, sagg_topic_name(topic),
			sizeof(sagg_scan_marked->topic));
	sagg_marked_topic = topic;
}

/*
 * No batch is attached any more: scans are at no record.
 */
void
sagg_scan_marks_none(void)
{
	sagg_mark_no_record();
}
