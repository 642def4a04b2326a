/*-------------------------------------------------------------------------
 *
 * foreign_text.c
 *	  Texts that brokers and registries send.
 *
 * Whoever answers may not be what it should be, and what it says goes into
 * tables, messages and logs.  So it is made printable ASCII of bounded length.
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
 * A text for a message: bytes that are no printable ASCII in hex, and no more
 * than SAGG_FOREIGN_TEXT bytes.  In the current memory context.
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
 * The same in place, for a text that is in a buffer already: blanks for what is
 * no printable ASCII.
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
