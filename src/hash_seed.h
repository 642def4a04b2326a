/*-------------------------------------------------------------------------
 *
 * hash_seed.h
 *	  Hashes of values that producers choose, with a secret: SipHash-1-3, by
 *	  Aumasson and Bernstein, of a sequence of 64-bit words.
 *
 * Without the seed, nobody can choose words whose hashes collide.  The words
 * of two different values must differ, or their number must.  Such hashes are
 * never stored in tables: the seed differs in each store.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_HASH_SEED_H
#define SAGG_HASH_SEED_H

/* a secret of 128 bits */
typedef struct SaggHashSeed
{
	uint64		k0;
	uint64		k1;
} SaggHashSeed;

typedef struct SaggSip
{
	uint64		v0;
	uint64		v1;
	uint64		v2;
	uint64		v3;
} SaggSip;

static inline uint64
sagg_rotate(uint64 word, int n)
{
	return (word << n) | (word >> (64 - n));
}

static inline void
sagg_sip_round(SaggSip *sip)
{
	sip->v0 += sip->v1;
	sip->v1 = sagg_rotate(sip->v1, 13) ^ sip->v0;
	sip->v0 = sagg_rotate(sip->v0, 32);
	sip->v2 += sip->v3;
	sip->v3 = sagg_rotate(sip->v3, 16) ^ sip->v2;
	sip->v0 += sip->v3;
	sip->v3 = sagg_rotate(sip->v3, 21) ^ sip->v0;
	sip->v2 += sip->v1;
	sip->v1 = sagg_rotate(sip->v1, 17) ^ sip->v2;
	sip->v2 = sagg_rotate(sip->v2, 32);
}

static inline void
sagg_sip_init(SaggSip *sip, const SaggHashSeed *seed)
{
	sip->v0 = seed->k0 ^ UINT64CONST(0x736f6d6570736575);
	sip->v1 = seed->k1 ^ UINT64CONST(0x646f72616e646f6d);
	sip->v2 = seed->k0 ^ UINT64CONST(0x6c7967656e657261);
	sip->v3 = seed->k1 ^ UINT64CONST(0x7465646279746573);
}

static inline void
sagg_sip_add(SaggSip *sip, uint64 word)
{
	sip->v3 ^= word;
	sagg_sip_round(sip);
	sip->v0 ^= word;
}

/*
 * Add a NULL, which differs from any word.
 */
static inline void
sagg_sip_add_null(SaggSip *sip)
{
	sip->v2 ^= 0xee;
	sagg_sip_round(sip);
}

/*
 * Add bytes, and their number.
 */
static inline void
sagg_sip_add_bytes(SaggSip *sip, const char *data, Size len)
{
	uint64		word = 0;

	sagg_sip_add(sip, len);
	for (; len >= sizeof(word); len -= sizeof(word), data += sizeof(word))
	{
		memcpy(&word, data, sizeof(word));
		sagg_sip_add(sip, word);
	}
	if (len > 0)
	{
		word = 0;
		memcpy(&word, data, len);
		sagg_sip_add(sip, word);
	}
}

static inline uint64
sagg_sip_end(SaggSip *sip)
{
	sip->v2 ^= 0xff;
	sagg_sip_round(sip);
	sagg_sip_round(sip);
	sagg_sip_round(sip);
	return sip->v0 ^ sip->v1 ^ sip->v2 ^ sip->v3;
}

/*
 * Returns the hash of one word.
 */
static inline uint64
sagg_seeded_hash(const SaggHashSeed *seed, uint64 word)
{
	SaggSip		sip;

	sagg_sip_init(&sip, seed);
	sagg_sip_add(&sip, word);
	return sagg_sip_end(&sip);
}

/* hash_seed.c */
extern void sagg_hash_seed_make(SaggHashSeed *seed);

#endif							/* SAGG_HASH_SEED_H */
