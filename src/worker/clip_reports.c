/*-------------------------------------------------------------------------
 *
 * clip_reports.c
 *	  Short messages of workers in the server's log.
 *
 * Messages quote values: an input function quotes the text that it cannot read, a
 * constraint quotes the row.  A few compressed bytes of a record can become a value of
 * many megabytes, and a batch that fails is retried.  So every part of every message is
 * cut, also in messages of the owner's code.
 *
 * This is done in processes of streams only.  A client's session writes what its own
 * statements make of its own data.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/elog.h"

#include "worker_internal.h"

/* of the last line of a context, which names the stream */
#define MAX_LAST_LINE_BYTES	512

#define CUT "..."

static emit_log_hook_type prev_emit_log = NULL;

/*
 * Cut a text in place.  "end", if it is not NULL, is the end of it that stays: at most
 * MAX_LAST_LINE_BYTES.
 */
static void
clip(char *text, const char *end)
{
	size_t		len = text ? strlen(text) : 0;
	size_t		end_len = end ? strlen(end) : 0;

	if (len <= SAGG_MAX_REPORT_BYTES)
		return;
	len = pg_mbcliplen(text, (int) len,
					   (int) (SAGG_MAX_REPORT_BYTES - end_len - strlen(CUT)));
	if (end)
		memmove(text + len + strlen(CUT), end, end_len + 1);
	else
		text[len + strlen(CUT)] = '\0';
	memcpy(text + len, CUT, strlen(CUT));
}

/*
 * Returns the last line of a context that has several, if it is short; else NULL.
 */
static const char *
last_line(const char *context)
{
	const char *line = context ? strrchr(context, '\n') : NULL;

	return line && strlen(line) <= MAX_LAST_LINE_BYTES ? line : NULL;
}

/*
 * emit_log_hook: a message is about to be written, whose texts are its own.
 */
static void
clip_report(ErrorData *error)
{
	clip(error->message, NULL);
	clip(error->detail, NULL);
	clip(error->detail_log, NULL);
	clip(error->hint, NULL);
	clip(error->internalquery, NULL);
	if (error->internalquery && error->internalpos > SAGG_MAX_REPORT_BYTES)
		error->internalpos = 0;
	clip(error->context, last_line(error->context));
	if (prev_emit_log)
		prev_emit_log(error);
}

/*
 * Let this process write short messages from now on.
 */
void
sagg_clip_reports(void)
{
	prev_emit_log = emit_log_hook;
	emit_log_hook = clip_report;
}
