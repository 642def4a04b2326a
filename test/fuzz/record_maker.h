/*
 * record_maker.h
 *	  Random records for the decoder's fuzz runs: JSON as grammar has it, and
 *	  JSON that something has happened to.
 *
 * Record n of a seed is always the same one.
 */
#ifndef RECORD_MAKER_H
#define RECORD_MAKER_H

#include <stddef.h>
#include <stdint.h>

typedef struct RecordMaker
{
	uint64_t	state;			/* of the random numbers */
	unsigned char *data;		/* the record, malloc'ed */
	size_t		len;
	size_t		capacity;
} RecordMaker;

extern void make_record(RecordMaker *maker, uint64_t seed, uint64_t n);
extern uint32_t record_random(RecordMaker *maker, uint32_t below);

#endif							/* RECORD_MAKER_H */
