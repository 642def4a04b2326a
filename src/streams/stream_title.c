/*-------------------------------------------------------------------------
 *
 * stream_title.c
 *	  The name of a stream in messages.
 *
 * The catalog holds a stream's name as SQL writes it, "My Schema"."My Stream".
 * Messages quote names themselves, so they use the form that the server's
 * messages use for relations: My Schema.My Stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream_agg.h"
#include "streams.h"

/*
 * Returns the name without its quotes: "name" itself if it has none, otherwise
 * palloc'd in the current context.  "name" may be any text.
 */
const char *
sagg_stream_title(const char *name)
{
	char	   *title;
	char	   *end;
	bool		quoted = false;

	if (strchr(name, '"') == NULL)
		return name;
	end = title = palloc(strlen(name) + 1);
	for (const char *c = name; *c; c++)
	{
		if (*c != '"')
			*end++ = *c;
		else if (quoted && c[1] == '"')
			*end++ = *c++;
		else
			quoted = !quoted;
	}
	*end = '\0';
	return title;
}
