/*-------------------------------------------------------------------------
 *
 * closest_match.c
 *	  The known name that is nearest to one that somebody has mistyped, for
 *	  hints.
 *
 * It is what ClosestMatch does in PostgreSQL 16 and later.  Nothing here
 * raises an error; there may be no name that is near enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/varlena.h"

#include "stream_agg.h"

/* greatest number of edits, and at most half of the name */
#define MAX_EDITS	4

/* the server's function takes no longer names */
#define MAX_LENGTH	255

/*
 * Begin to look for the name nearest to "name", which must outlive "closest".
 */
void
sagg_closest_begin(SaggClosest *closest, const char *name)
{
	closest->name = name;
	closest->match = NULL;
	closest->edits = Min(MAX_EDITS, strlen(name) / 2) + 1;
}

/*
 * Take a known name into account; it must outlive "closest".
 */
void
sagg_closest_try(SaggClosest *closest, const char *known)
{
	size_t		len = strlen(closest->name);
	size_t		known_len = strlen(known);
	int			edits;

	if (len == 0 || len > MAX_LENGTH || known_len > MAX_LENGTH)
		return;
	edits = varstr_levenshtein_less_equal(closest->name, len, known, known_len,
										  1, 1, 1, closest->edits - 1, true);
	if (edits < closest->edits)
	{
		closest->edits = edits;
		closest->match = known;
	}
}
