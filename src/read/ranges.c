/*-------------------------------------------------------------------------
 *
 * ranges.c
 *	  Divides the maximum number of a batch's records among partitions, by lag.
 *
 * Each partition gets one record, so that none starves, and a share of the
 * rest in proportion to its lag.  What rounding leaves goes to the largest
 * remainders, among equals to a different partition each time.  If the maximum
 * is smaller than the number of partitions, they take turns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "read_internal.h"

typedef struct Share
{
	int			index;			/* index into the ranges */
	int			turn;			/* order among equal remainders */
	uint128		remainder;
} Share;

static int
compare_shares(const void *a, const void *b)
{
	const Share *x = a;
	const Share *y = b;

	if (x->remainder != y->remainder)
		return x->remainder > y->remainder ? -1 : 1;
	return x->turn - y->turn;
}

/*
 * Handle fewer records than partitions: one each for the next "limit"
 * partitions.
 */
static void
take_turns(SaggRange *ranges, int nranges, int64 limit, int64 rotation)
{
	int			first = (int) ((uint128) rotation * limit % nranges);

	for (int i = 0; i < nranges; i++)
	{
		SaggRange  *range = &ranges[(first + i) % nranges];

		range->end = range->start + (i < limit ? 1 : 0);
	}
}

/*
 * Shrink the ends of "ranges", which are [start, end of what is there) and not
 * empty, until they hold no more than "limit" records (offsets) together.
 * "rotation" is a different number for each batch, not negative.
 */
void
sagg_ranges_share(SaggRange *ranges, int nranges, int64 limit, int64 rotation)
{
	Share	   *shares;
	int128		total = 0;		/* lag beyond one record each: an end may be
								 * any int64 */
	int64		bound = limit - nranges;
	int64		left = bound;

	for (int i = 0; i < nranges; i++)
		total += ranges[i].end - ranges[i].start - 1;
	if (total <= bound)
		return;
	if (bound < 0)
	{
		take_turns(ranges, nranges, limit, rotation);
		return;
	}

	shares = palloc(sizeof(Share) * nranges);
	for (int i = 0; i < nranges; i++)
	{
		uint128		product = (uint128) (ranges[i].end - ranges[i].start - 1) * bound;
		int64		share = (int64) (product / total);

		shares[i].index = i;
		shares[i].turn = (int) ((i + nranges - rotation % nranges) % nranges);
		shares[i].remainder = product % total;
		ranges[i].end = ranges[i].start + 1 + share;
		left -= share;
	}
	qsort(shares, nranges, sizeof(Share), compare_shares);
	for (int i = 0; i < left; i++)
		ranges[shares[i].index].end++;
	pfree(shares);
}
