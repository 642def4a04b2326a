/*-------------------------------------------------------------------------
 *
 * foreign_text.c
 *	  Texts that brokers and registries send.
 *
 * The server that answers may be malicious, and its text goes into tables,
 * messages and logs.  So it is converted to printable ASCII of bounded length.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "stream_agg.h"

static bool
is_printable(char c)
{
	return c >= ' ' && c <= '~';
}

/*
 * Returns a text for a message: bytes that are not printable ASCII in hex, and
 * at most SAGG_FOREIGN_TEXT bytes.  In the current memory context.
 */
char *
sagg_foreign_text(const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *p = text; *p; p++)
	{
		if (buf.len >= SAGG_FOREIGN_TEXT - 8)
		{
			appendStringInfoString(&buf, "...");
			break;
		}
		if (is_printable(*p))
			appendStringInfoChar(&buf, *p);
		else
			appendStringInfo(&buf, "\\x%02x", (unsigned char) *p);
	}
	return buf.data;
}

/*
 * Convert a text in a buffer in place: blanks replace what is not printable
 * ASCII.
 */
void
sagg_foreign_text_clean(char *text)
{
	for (char *p = text; *p; p++)
	{
		if (!is_printable(*p))
			*p = ' ';
	}
}
