/*-------------------------------------------------------------------------
 *
 * scan_restriction.c
 *	  Scans that read of a topic what a stream has read of it, and no more.
 *
 * While a restriction is set (batch_context.c), scans of its sources that begin in
 * this process read some ranges of offsets, without some records.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan_internal.h"

/*
 * What scans of "source" are restricted to; NULL if they are not.  "number" is
 * for sagg_restriction_stands.
 */
const SaggRestriction *
sagg_scan_restriction(Oid source, uint64 *number)
{
	const SaggRestriction *current = sagg_batch_context.restriction;

	*number = sagg_batch_context.restriction_number;
	return current && list_member_oid(current->sources, source) ? current : NULL;
}

/*
 * Is the restriction of this number still set?  If not, its memory may be freed.
 */
bool
sagg_restriction_stands(uint64 number)
{
	return number == sagg_batch_context.restriction_number;
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
