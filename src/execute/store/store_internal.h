/*-------------------------------------------------------------------------
 *
 * store_internal.h
 *	  The layout of a state store, for the files store*.c.  Others include
 *	  store.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_STORE_INTERNAL_H
#define SAGG_STORE_INTERNAL_H

#include "event_time/event_time.h"
#include "execute/store/store.h"
#include "hash_seed.h"

#include "storage/dsm.h"
#include "utils/dsa.h"

/*
 * One version of a group, in dynamic shared memory.  Never changed once it is
 * linked: a batch links a new one and keeps the old one as "prev", its
 * before-image (I3), until the batch is published or undone.
 */
typedef struct SaggVersion
{
	dsa_pointer prev;			/* invalid: the version is published;
								 * SAGG_NO_VERSION: the batch's, of a new
								 * group */
	uint32		len;
	char		entry[FLEXIBLE_ARRAY_MEMBER];	/* see entry.c */
} SaggVersion;

/* CHECKPOINT takes length and entry in one piece */
StaticAssertDecl(offsetof(SaggVersion, entry) == offsetof(SaggVersion, len) + sizeof(uint32),
				 "an entry is right behind its length");

/* marks a slot that had a version */
#define SAGG_NO_VERSION		((dsa_pointer) 1)

/*
 * The before-image of a version, or InvalidDsaPointer.
 */
static inline dsa_pointer
sagg_version_before(const SaggVersion *version)
{
	return version->prev == SAGG_NO_VERSION ? InvalidDsaPointer : version->prev;
}

typedef struct SaggSlotRef
{
	dsa_pointer version;		/* InvalidDsaPointer = empty */
	uint32		hash;
	uint32		start;			/* start of its entry, folded: all sessions of
								 * a key have the same hash */
} SaggSlotRef;

/* Groups of one window in one partition: a hash table with linear probing. */
struct SaggUnit
{
	dsa_pointer next;			/* next window of the partition */
	dsa_pointer prev;
	dsa_pointer chain;			/* next unit in the same bucket of its
								 * directory */
	int64		start;			/* start of the window */
	uint32		nslots;			/* size, a power of two */
	uint32		nentries;
	uint64		bytes;			/* bytes of entries, with a length word each */
	dsa_pointer slots;
	uint32		touched;		/* set if the batch has touched it: its number
								 * in store->units of the process that did, +
								 * 1 */

	/* the unit before the batch, if the batch has touched it */
	uint32		former_nslots;
	uint32		former_nentries;
	bool		created;		/* the batch made it */
	bool		resized;		/* the former slots are kept */
	int16		partition;		/* partition of the store; always set */
	uint64		former_bytes;
	dsa_pointer former_slots;
	dsa_pointer next_touched;
};

/* The windows of a partition; see store_directory.c. */
typedef struct SaggDirectory
{
	dsa_pointer first;			/* list of all its SaggUnits, the newest first */
	dsa_pointer buckets;		/* array of dsa_pointers to chains; invalid =
								 * none */
	uint32		nbuckets;		/* its size, a power of two; 0 = no table, the
								 * list is short */
	uint32		nunits;
} SaggDirectory;

typedef struct SaggStoreHeader
{
	uint32		magic;
	bool		in_batch;		/* changed since the last publish or undo */
	bool		undoable;		/* if changed: no change is half made, so any
								 * process can undo the batch */
	uint64		fingerprint;
	SaggIdentity identity;		/* identity of the types and functions of the
								 * entries, which are read without conversion */
	int64		batch;			/* batch whose commit this state equals */
	Size		size;			/* the area's limit; see store_limit.c */
	SaggHashSeed seed;
	dsa_pointer touched;		/* list of the units that the batch has
								 * touched */
	SaggDirectory partitions[SAGG_STATE_PARTITIONS];
} SaggStoreHeader;

/* where the area begins in a store's segment */
#define SAGG_STORE_PLACE(segment) \
	((char *) dsm_segment_address(segment) + MAXALIGN(sizeof(SaggStoreHeader)))

/*
 * What the batch did, in private memory, so that its process can undo or
 * publish it without a search.  Other processes find it from the units and
 * versions themselves.
 */
typedef struct SaggUndoUnit
{
	dsa_pointer unit;
	int			partition;
	int64		resized_at;		/* records before the first resize, -1 = none */
} SaggUndoUnit;

typedef struct SaggUndoRecord
{
	dsa_pointer version;		/* version linked by the batch */
	uint32		unit;			/* index into store->units */
	uint32		slot;			/* of the slots it was linked into */
} SaggUndoRecord;

/* An entry that is removed when the batch is published. */
typedef struct SaggBuried
{
	int64		start;			/* start of its unit */
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
	const SaggWindowBounds *bounds; /* functions for the kind of window */

	/* the current batch */
	MemoryContext memory;		/* memory of the following */
	int64		batch;
	TimestampTz close_before;	/* windows that end until then are removed at
								 * publish */
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
extern void sagg_store_forget_changes(SaggStore *store);

/* store_limit.c */
extern dsm_segment *sagg_store_create_segment(const SaggStoreBudget *budget,
											  Size size);
extern dsa_pointer sagg_store_allocate(SaggStore *store, Size size);

/* store_directory.c */
extern dsa_pointer sagg_directory_find(SaggStore *store, int partition, int64 start);
extern dsa_pointer sagg_directory_add(SaggStore *store, int partition, int64 start);
extern void sagg_directory_remove(SaggStore *store, int partition, dsa_pointer dp);

/* store_undo.c */
extern void sagg_store_undo_left(SaggStore *store);

/* store_unit.c */
extern void sagg_store_free_unit(SaggStore *store, int partition, dsa_pointer unit);

#define SAGG_UNIT(store, p)	((SaggUnit *) dsa_get_address((store)->area, p))
#define SAGG_VERSION(store, p)	((SaggVersion *) dsa_get_address((store)->area, p))
#define SAGG_SLOTS(store, unit) \
	((SaggSlotRef *) dsa_get_address((store)->area, (unit)->slots))

#endif							/* SAGG_STORE_INTERNAL_H */
