/*-------------------------------------------------------------------------
 *
 * scan_mark.c
 *	  Marks the record that a scan of the attached batch is reading, for
 *	  inspection after the process has crashed.
 *
 * A worker has the mark in shared memory, where the postmaster reads it
 * (control/crash_log.c).  It is written for every record: two stores, and a
 * name if the topic changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan_internal.h"

static SaggScanMark no_mark = {.partition = -1};

static SaggScanMark *own_mark = &no_mark;	/* of the worker's own batches */

SaggScanMark *sagg_scan_marked = &no_mark;

/* topic whose name is in the mark, -1 = none */
int32		sagg_marked_topic = -1;

/*
 * From now on, scans of attached batches note in "mark", which must outlive
 * the batch, which record they are at: from before it is decoded until they
 * are at the next one or at their end.  NULL: they do not.
 */
void
sagg_scan_mark(SaggScanMark *mark)
{
	own_mark = sagg_scan_marked = mark ? mark : &no_mark;
	sagg_scan_marked->partition = -1;
	sagg_marked_topic = -1;
}

/*
 * The batch that is attached, or will be, is the worker's own; or that of a preview
 * that the worker's batch has called, whose records are not marked.
 */
void
sagg_scan_mark_select(bool own)
{
	sagg_scan_marked = own ? own_mark : &no_mark;
	sagg_marked_topic = -1;
}

/*
 * The following records are of this topic, a number.
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
