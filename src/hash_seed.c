/*-------------------------------------------------------------------------
 *
 * hash_seed.c
 *	  Secrets for hash tables whose keys producers choose.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "hash_seed.h"

/*
 * Make a secret for a store, or for tables outside of stores.
 */
void
sagg_hash_seed_make(SaggHashSeed *seed)
{
	if (!pg_strong_random(seed, sizeof(*seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random numbers for a hash table")));
}
