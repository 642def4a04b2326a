/*-------------------------------------------------------------------------
 *
 * repair_internal.h
 *	  Recomputes windows with the records that came too late for them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_REPAIR_INTERNAL_H
#define SAGG_REPAIR_INTERNAL_H

#include "stream_agg.h"

#include "checkpoint/checkpoint.h"
#include "define/define.h"
#include "read/read.h"

typedef struct SaggRepair
{
	const SaggStream *stream;
	SaggQuery  *query;
	SaggCheckpoint *checkpoint;
	SaggProgress *progress;
	SaggOrigin *origin;
	int			nwindows;
	SaggLateWindow *windows;
	int			nranges;		/* ranges that the stream has read and Kafka
								 * still has */
	SaggRange  *ranges;
} SaggRepair;

/* repair_topic.c */
extern void sagg_repair_topic(SaggRepair *repair);

/* repair_rows.c */
extern void sagg_repair_check_column(const SaggRepair *repair);
extern void sagg_repair_rows(SaggRepair *repair);

#endif							/* SAGG_REPAIR_INTERNAL_H */
