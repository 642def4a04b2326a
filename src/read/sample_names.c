/*-------------------------------------------------------------------------
 *
 * sample_names.c
 *	  Makes names of columns from names of fields, which producers choose.
 *
 * People read the output of describe_topic before they run it, so it must not
 * contain names that look like other names, or columns that cannot be made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/heap.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "read_internal.h"

/* control characters, and Unicode's format characters and line separators */
static const struct
{
	pg_wchar	first;
	pg_wchar	last;
}			odd_characters[] = {
	{0, 0x1f}, {0x7f, 0x9f}, {0xad, 0xad}, {0x600, 0x605}, {0x61c, 0x61c}, {0x6dd, 0x6dd},
	{0x70f, 0x70f}, {0x890, 0x891}, {0x8e2, 0x8e2}, {0x115f, 0x1160}, {0x180b, 0x180f},
	{0x200b, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f}, {0x3164, 0x3164}, {0xfe00, 0xfe0f},
	{0xfeff, 0xfeff}, {0xffa0, 0xffa0}, {0xfff0, 0xffff}, {0x110bd, 0x110bd}, {0x110cd, 0x110cd},
	{0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0xe0fff}
};

/*
 * Returns whether a name is displayed as it is.  Control characters are not,
 * nor are characters that are invisible or change the direction of text around
 * them.  In the server encoding.
 */
bool
sagg_name_is_plain(const char *name, int len)
{
	const unsigned char *p = (unsigned char *) pg_server_to_any(name, len, PG_UTF8);
	const unsigned char *end = p + (p == (unsigned char *) name ? len : strlen((char *) p));

	for (; p < end; p += pg_utf_mblen(p))
	{
		pg_wchar	c = utf8_to_unicode(p);

		for (int i = 0; i < lengthof(odd_characters); i++)
		{
			if (c >= odd_characters[i].first && c <= odd_characters[i].last)
				return false;
		}
	}
	return true;
}

/*
 * Append a name to that of a column: lower case, with underscores in place of
 * camel-case boundaries and of everything except letters and digits.
 */
static void
append_name(StringInfo buf, const char *name)
{
	for (const char *p = name; *p; p++)
	{
		bool		upper = *p >= 'A' && *p <= 'Z';

		if (upper && p > name && ((p[-1] >= 'a' && p[-1] <= 'z') || isdigit((unsigned char) p[-1])))
			appendStringInfoChar(buf, '_');
		appendStringInfoChar(buf, upper ? *p + ('a' - 'A') :
							 (*p >= 'a' && *p <= 'z') || isdigit((unsigned char) *p) ? *p : '_');
	}
}

/*
 * Returns a unique name for a column, which is not that of a system column, of
 * ASCII letters, digits and underscores: for the field at "path", a list of
 * names.  Palloc'd, and added to "taken", the names so far.
 */
char *
sagg_column_name(List *path, List **taken)
{
	StringInfoData buf;
	char	   *name;
	ListCell   *lc;
	int			n = 1;

	initStringInfo(&buf);
	foreach(lc, path)
	{
		if (buf.len > 0)
			appendStringInfoChar(&buf, '_');
		append_name(&buf, lfirst(lc));
	}
	name = pnstrdup(buf.data, NAMEDATALEN - 8);
	for (;;)
	{
		bool		found = name[0] == '\0' || SystemAttributeByName(name) != NULL;

		foreach(lc, *taken)
			found = found || strcmp(lfirst(lc), name) == 0;
		if (!found)
			break;
		name = psprintf("%.*s_%d", NAMEDATALEN - 8, buf.data, ++n);
	}
	*taken = lappend(*taken, name);
	return name;
}
