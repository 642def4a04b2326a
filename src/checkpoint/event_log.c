/*-------------------------------------------------------------------------
 *
 * event_log.c
 *	  stream_agg.events: the history of a stream, for people to read.
 *
 * No stage reads it, and no recovery depends on it.  Only the newest events of
 * each stream are kept, so that a stream that fails repeatedly does not fill
 * the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "checkpoint_internal.h"

/* events kept of each stream */
#define EVENTS_KEPT		100

/* longest message, in bytes */
#define MESSAGE_BYTES	1000

/*
 * Add an event of a stream in the caller's transaction. "stream" is its key,
 * "event" one of those that the table's check constraint lists, "message" a
 * text about it, cut if it is too long, or NULL.  The caller holds the
 * stream's lock (I2), so that events are numbered one after the other and none
 * outlives the stream.
 */
void
sagg_checkpoint_event(const char *stream, const char *event, const char *message)
{
	SaggCheckpoint *checkpoint = sagg_checkpoint_open(stream, false);
	SaggLogSection section;
	Datum		values[3];
	char		nulls[] = "   ";

	sagg_log_begin(&section, checkpoint);
	values[1] = CStringGetTextDatum(event);
	if (message)
	{
		int			len = strlen(message);

		if (len > MESSAGE_BYTES)
			len = pg_mbcliplen(message, len, MESSAGE_BYTES);
		values[2] = PointerGetDatum(cstring_to_text_with_len(message, len));
	}
	else
	{
		values[2] = (Datum) 0;
		nulls[2] = 'n';
	}
	(void) sagg_log_execute(&section, SAGG_LOG_EVENT_INSERT, values, nulls, 0);
	values[1] = Int64GetDatum(EVENTS_KEPT);
	(void) sagg_log_execute(&section, SAGG_LOG_EVENT_TRIM, values, NULL, 0);
	sagg_log_end(&section);
	sagg_checkpoint_close(checkpoint);
}
