/*-------------------------------------------------------------------------
 *
 * foreign_text.c
 *	  Names and texts that brokers and registries send.
 *
 * Whoever answers may not be what it should be, and what it says goes into
 * tables, messages and logs.  Names are checked where they come in, and are an
 * error of the broker if they cannot be any; texts of messages are made
 * printable ASCII of bounded length.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "read/read_internal.h"

/* Kafka's own have 22 characters, those of services a few more */
#define MAX_CLUSTER_ID		250

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

/*
 * Raises fdw_error if what brokers call their cluster cannot be its id: 1 to
 * MAX_CLUSTER_ID visible ASCII characters.
 */
void
sagg_check_cluster_id(const char *id)
{
	size_t		len = strlen(id);
	bool		good = len > 0 && len <= MAX_CLUSTER_ID;

	for (const char *p = id; *p && good; p++)
		good = is_printable(*p) && *p != ' ';
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("the brokers give an invalid cluster id: \"%s\"", sagg_foreign_text(id)),
				 errdetail("A cluster id has 1 to %d visible ASCII characters.", MAX_CLUSTER_ID)));
}

/*
 * Raises fdw_error if a name in an answer of a broker cannot be that of a topic.
 */
void
sagg_check_topic_name(const char *name)
{
	if (!sagg_is_topic_name(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("the brokers give an invalid name of a topic: \"%s\"", sagg_foreign_text(name)),
				 errdetail("Names of topics have 1 to %d ASCII letters, digits, \".\", \"_\" and \"-\".",
						   SAGG_MAX_TOPIC_NAME)));
}
