/*-------------------------------------------------------------------------
 *
 * scan_restriction.c
 *	  Restricts scans of a topic to what a stream has read of it.
 *
 * While a restriction is set, scans of its source that begin in this process
 * read some ranges of offsets, without some records.  The caller ends it, also
 * after an error, as it does with an attached batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan_internal.h"

static const SaggRestriction *current = NULL;

/* number of the restriction in this process, 0 = none */
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
 * End the restriction, if one is set.  Scans that have not ended do not touch
 * it again.
 */
void
sagg_scan_unrestrict(void)
{
	current = NULL;
	current_number = 0;
}

/*
 * Returns the restriction of scans of "source"; NULL if there is none.
 * "number" is for sagg_restriction_stands.
 */
const SaggRestriction *
sagg_scan_restriction(Oid source, uint64 *number)
{
	*number = current_number;
	return current && list_member_oid(current->sources, source) ? current : NULL;
}

/*
 * Returns whether the restriction of this number is still set.  If not, its
 * memory may have been freed.
 */
bool
sagg_restriction_stands(uint64 number)
{
	return number == current_number;
}

/*
 * Restrict a range that will be scanned; returns false if nothing is left of
 * it.
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
 * Compare records by topic's number, partition, offset.
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
 * Returns whether a record is left out.
 */
bool
sagg_restriction_skips(const SaggRestriction *restriction, const SaggRecord *record)
{
	SaggPlace	key = {record->topic, record->partition, record->offset};

	return restriction->nleft_out > 0 &&
		bsearch(&key, restriction->left_out, restriction->nleft_out,
				sizeof(SaggPlace), compare_places) != NULL;
}
