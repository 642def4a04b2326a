/*-------------------------------------------------------------------------
 *
 * store_internal.h
 *	  A state store from the inside: what the files store*.c ask of each other.
 *	  Others include store.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_STORE_INTERNAL_H
#define SAGG_STORE_INTERNAL_H

#include "event_time/event_time.h"
#include "execute/store/store.h"

#include "storage/dsm.h"
#include "utils/dsa.h"

/*
 * One version of a group, in dynamic shared memory.  Never changed once it is
 * linked: a batch links a new one and keeps the old one as "prev", its
 * before-image (I3), until the batch is published or undone.
 */
typedef struct SaggVersion
{
	dsa_pointer prev;
	uint32		len;
	char		entry[FLEXIBLE_ARRAY_MEMBER];	/* see entry.c */
} SaggVersion;

typedef struct SaggSlotRef
{
	dsa_pointer version;		/* InvalidDsaPointer = empty */
	uint32		hash;
	uint32		start;			/* of its entry, folded: all sessions of a key
								 * have the same hash */
} SaggSlotRef;

/* Groups of one window in one partition: a hash table with linear probing. */
struct SaggUnit
{
	dsa_pointer next;			/* other windows of the partition */
	dsa_pointer prev;
	dsa_pointer chain;			/* those in the same bucket of its directory */
	int64		start;			/* of the window */
	uint32		nslots;			/* a power of two */
	uint32		nentries;
	uint64		bytes;			/* of entries, with a length word each */
	dsa_pointer slots;
	uint32		touched;		/* by the batch: its number in store->units + 1 */
};

/* The windows of a partition; see store_directory.c. */
typedef struct SaggDirectory
{
	dsa_pointer first;			/* list of all its SaggUnits, the newest first */
	dsa_pointer buckets;		/* of dsa_pointers to chains; invalid = none */
	uint32		nbuckets;		/* a power of two; 0 = the list is short */
	uint32		nunits;
} SaggDirectory;

typedef struct SaggStoreHeader
{
	uint32		magic;
	bool		in_batch;		/* changed since the last publish or undo */
	uint64		fingerprint;
	SaggIdentity identity;		/* of the types and functions of the entries,
								 * which are read as they are */
	int64		batch;			/* whose commit this state equals */
	Size		size;			/* the area's limit; see store_limit.c */
	SaggHashSeed seed;
	SaggDirectory partitions[SAGG_STATE_PARTITIONS];
} SaggStoreHeader;

/* where the area begins in a store's segment */
#define SAGG_STORE_PLACE(segment) \
	((char *) dsm_segment_address(segment) + MAXALIGN(sizeof(SaggStoreHeader)))

/* What the batch did, for undo; in private memory. */
typedef struct SaggUndoUnit
{
	dsa_pointer unit;
	int			partition;
	bool		created;
	int64		resized_at;		/* records before the first resize, -1 = none */
	dsa_pointer slots;			/* as they were before the batch */
	uint32		nslots;
	uint32		nentries;
	uint64		bytes;
} SaggUndoUnit;

typedef struct SaggUndoRecord
{
	dsa_pointer version;		/* linked by the batch */
	uint32		unit;			/* index into store->units */
	uint32		slot;			/* of the slots it was linked into */
} SaggUndoRecord;

/* An entry that goes when the batch is published. */
typedef struct SaggBuried
{
	int64		start;			/* of its unit */
	uint32		hash;
	SaggStored	stored;
} SaggBuried;

struct SaggStore
{
	dsm_segment *segment;
	dsa_area   *area;
	SaggStoreHeader *header;
	const SaggStoreBudget *budget;
	SaggWindow	window;
	const SaggWindowBounds *bounds;	/* by its kind */

	/* the batch at hand */
	MemoryContext memory;		/* of what follows */
	int64		batch;
	TimestampTz close_before;	/* windows that end until then go at publish */
	int64		nrecords;
	int64		max_records;
	SaggUndoRecord *records;
	uint32		nunits;
	uint32		max_units;
	SaggUndoUnit *units;
	int64		nburied;
	int64		max_buried;
	SaggBuried *buried;
	Size		buried_bytes[SAGG_STATE_PARTITIONS];	/* as SaggUnit.bytes */

	/* when sessions may be over; see store_due.c */
	bool		due_known;
	int64		ndue;
	int64		max_due;
	struct SaggDue *due;
};

/* store.c */
extern void sagg_store_init_header(SaggStoreHeader *header);

/* store_limit.c */
extern dsm_segment *sagg_store_create_segment(const SaggStoreBudget *budget,
											  Size size);
extern dsa_pointer sagg_store_allocate(SaggStore *store, Size size);

/* store_directory.c */
extern dsa_pointer sagg_directory_find(SaggStore *store, int partition, int64 start);
extern dsa_pointer sagg_directory_add(SaggStore *store, int partition, int64 start);
extern void sagg_directory_remove(SaggStore *store, int partition, dsa_pointer dp);

/* store_unit.c */
extern void sagg_store_free_unit(SaggStore *store, int partition, dsa_pointer unit);

#define SAGG_UNIT(store, p)	((SaggUnit *) dsa_get_address((store)->area, p))
#define SAGG_VERSION(store, p)	((SaggVersion *) dsa_get_address((store)->area, p))
#define SAGG_SLOTS(store, unit) \
	((SaggSlotRef *) dsa_get_address((store)->area, (unit)->slots))

#endif							/* SAGG_STORE_INTERNAL_H */
