/*-------------------------------------------------------------------------
 *
 * merge_sort.c
 *	  A sort whose time does not depend on its input.
 *
 * The server's qsort is quicksort without a fallback: an attacker can choose
 * an order for which it takes quadratic time.  This sort is for orders and
 * values that producers choose.  It is stable, takes as much memory again, and
 * is fast for sorted input.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "stream_agg.h"

/*
 * Merge two neighbours, [base, middle) and [middle, end); "left" has room for the
 * first one.
 */
static void
merge(char *base, char *middle, char *end, char *left, size_t size,
	  qsort_arg_comparator compare, void *arg)
{
	size_t		nleft = middle - base;
	char	   *left_end = left + nleft;

	if (compare(middle - size, middle, arg) <= 0)
		return;
	memcpy(left, base, nleft);
	while (left < left_end && middle < end)
	{
		if (compare(left, middle, arg) <= 0)
		{
			memcpy(base, left, size);
			left += size;
		}
		else
		{
			memcpy(base, middle, size);
			middle += size;
		}
		base += size;
	}
	memcpy(base, left, left_end - left);
}

/*
 * Sort "n" elements of "size" bytes, like qsort_arg.  Takes memory of the current
 * context.  Serves interrupts.
 */
void
sagg_sort(void *elements, size_t n, size_t size, qsort_arg_comparator compare, void *arg)
{
	char	   *base = elements;
	size_t		total = n * size;
	char	   *left;

	if (n < 2)
		return;
	left = MemoryContextAllocHuge(CurrentMemoryContext, total);
	for (size_t width = size; width < total; width *= 2)
	{
		for (size_t i = 0; total - i > width; i += 2 * width)
		{
			CHECK_FOR_INTERRUPTS();
			merge(base + i, base + i + width, base + Min(total, i + 2 * width), left,
				  size, compare, arg);
			if (total - i <= 2 * width)
				break;
		}
	}
	pfree(left);
}
