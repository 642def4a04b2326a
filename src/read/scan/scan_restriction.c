/*-------------------------------------------------------------------------
 *
 * scan_restriction.c
 *	  Scans that read of a topic what a stream has read of it, and no more.
 *
 * While a restriction is set, scans of its source that begin in this process
 * read some ranges of offsets, without some records.  Like a batch that is
 * attached, it is the caller's to end, also after an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan_internal.h"

static const SaggRestriction *current = NULL;

/* which one of this process it is, 0 = none */
static uint64 current_number = 0;

/*
 * Set a restriction, which must live until sagg_scan_unrestrict.
 */
void
sagg_scan_restrict(const SaggRestriction *restriction)
{
	static uint64 last_number = 0;

	current = restriction;
	current_number = ++last_number;
}

/*
 * End it.  Also when none is set.  Scans that have not ended do not touch it
 * again.
 */
void
sagg_scan_unrestrict(void)
{
	current = NULL;
	current_number = 0;
}

/*
 * What scans of "source" are restricted to; NULL if they are not.  "number" is
 * for sagg_restriction_stands.
 */
const SaggRestriction *
sagg_scan_restriction(Oid source, uint64 *number)
{
	*number = current_number;
	return current && list_member_oid(current->sources, source) ? current : NULL;
}

/*
 * Is the restriction of this number still set?  If not, its memory may be freed.
 */
bool
sagg_restriction_stands(uint64 number)
{
	return number == current_number;
}

/*
 * Cut a range of what is to be scanned; false if nothing is left of it.
 */
bool
sagg_restrict_range(const SaggRestriction *restriction, SaggRange *range)
{
	const SaggRange *within = sagg_partition_find(restriction->ranges,
												  restriction->nranges, range);

	if (within == NULL)
		return false;
	range->start = Max(range->start, within->start);
	range->end = Min(range->end, within->end);
	return range->start < range->end;
}

/*
 * Order of records: by topic's number, partition, offset.
 */
static int
compare_places(const void *a, const void *b)
{
	const SaggPlace *x = a;
	const SaggPlace *y = b;

	if (x->topic != y->topic)
		return x->topic < y->topic ? -1 : 1;
	if (x->partition != y->partition)
		return x->partition < y->partition ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/*
 * Sort the records that a restriction leaves out.
 */
void
sagg_restriction_sort(SaggPlace *places, int nplaces)
{
	if (nplaces > 1)
		qsort(places, nplaces, sizeof(SaggPlace), compare_places);
}

/*
 * Is a record left out?
 */
bool
sagg_restriction_skips(const SaggRestriction *restriction, const SaggRecord *record)
{
	SaggPlace	key = {record->topic, record->partition, record->offset};

	return restriction->nleft_out > 0 &&
		bsearch(&key, restriction->left_out, restriction->nleft_out,
				sizeof(SaggPlace), compare_places) != NULL;
}
