/*-------------------------------------------------------------------------
 *
 * state_store.h
 *	  A state store from the inside: what the files store*.c ask of each other,
 *	  and those of execute/ that read and change groups in it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_STATE_STORE_H
#define SAGG_STATE_STORE_H

#include "execute/execute.h"
#include "hash_seed.h"

#include "storage/dsm.h"

/*
 * The hash of a group: in the upper bits the partition of the store that it
 * belongs to, which the log knows and which is the same for ever; the rest is
 * by the store's secret seed, so nobody can choose keys that meet in one place.
 */
#define SAGG_SEEDED_BITS		28
#define SAGG_SEEDED_HASH(hash)	((hash) & (((uint32) 1 << SAGG_SEEDED_BITS) - 1))
#define SAGG_PARTITION_OF(hash)	((int) ((hash) >> SAGG_SEEDED_BITS))

StaticAssertDecl(SAGG_STATE_PARTITIONS == 1 << (32 - SAGG_SEEDED_BITS),
				 "the upper bits of a hash are the partition");

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
typedef struct SaggTable
{
	dsa_pointer next;			/* other windows of the partition */
	dsa_pointer prev;
	dsa_pointer chain;			/* those in the same bucket of its directory */
	int64		start;			/* of the window */
	uint32		nslots;			/* a power of two */
	uint32		nentries;
	uint64		bytes;			/* of entries, with a length word each */
	dsa_pointer slots;
	uint32		touched;		/* by the batch: its number in undo_tables + 1 */
} SaggTable;

/* The windows of a partition; see store_directory.c. */
typedef struct SaggDirectory
{
	dsa_pointer first;			/* list of all its SaggTables, the newest first */
	dsa_pointer buckets;		/* of dsa_pointers to chains; invalid = none */
	uint32		nbuckets;		/* a power of two; 0 = the list is short */
	uint32		ntables;
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

/* the tables of a partition, one after the other by "next" */
#define SAGG_FIRST_TABLE(store, partition) \
	((store)->header->partitions[partition].first)

/* where the area begins in a store's segment */
#define SAGG_STORE_PLACE(segment) \
	((char *) dsm_segment_address(segment) + MAXALIGN(sizeof(SaggStoreHeader)))

/* What the batch did, for undo; in private memory. */
typedef struct SaggUndoTable
{
	dsa_pointer table;
	int			partition;
	bool		created;
	int64		resized_at;		/* records before the first resize, -1 = none */
	dsa_pointer slots;			/* as they were before the batch */
	uint32		nslots;
	uint32		nentries;
	uint64		bytes;
} SaggUndoTable;

typedef struct SaggUndoRecord
{
	dsa_pointer version;		/* linked by the batch */
	uint32		table;			/* index into undo_tables */
	uint32		slot;			/* of the slots it was linked into */
} SaggUndoRecord;

/* An entry that goes when the batch is published. */
typedef struct SaggBuried
{
	int64		start;			/* of its table */
	uint32		hash;
	dsa_pointer version;
} SaggBuried;

struct SaggStore
{
	dsm_segment *segment;
	dsa_area   *area;
	SaggStoreHeader *header;
	const SaggStoreBudget *budget;
	SaggWindow	window;

	/* the batch at hand */
	MemoryContext memory;		/* of what follows */
	int64		batch;
	TimestampTz close_before;	/* windows that end until then go at publish */
	int64		nrecords;
	int64		max_records;
	SaggUndoRecord *records;
	uint32		ntables;
	uint32		max_tables;
	SaggUndoTable *tables;
	int64		nburied;
	int64		max_buried;
	SaggBuried *buried;
	Size		buried_bytes[SAGG_STATE_PARTITIONS];	/* as SaggTable.bytes */

	/* when sessions may be over; see store_due.c */
	bool		due_known;
	int64		ndue;
	int64		max_due;
	struct SaggDue *due;
};

/* store.c */
extern void sagg_store_init_header(SaggStoreHeader *header);
extern void sagg_store_begin(SaggStore *store, int64 batch,
							 const SaggWindow *window);
extern bool sagg_store_closes(const SaggStore *store, int64 start);
extern TimestampTz sagg_store_next_end(SaggStore *store);

/* windows.c */
extern int64 sagg_window_next_end(const SaggWindow *window, int64 start,
								  TimestampTz watermark);

/* store_limit.c */
extern dsm_segment *sagg_store_create_segment(const SaggStoreBudget *budget,
											  Size size);
extern dsa_pointer sagg_store_allocate(SaggStore *store, Size size);

/* store_directory.c */
extern SaggTable *sagg_store_table(SaggStore *store, int partition, int64 start);
extern dsa_pointer sagg_directory_find(SaggStore *store, int partition, int64 start);
extern dsa_pointer sagg_directory_add(SaggStore *store, int partition, int64 start);
extern void sagg_directory_remove(SaggStore *store, int partition, dsa_pointer dp);

/* store_table.c */
extern bool sagg_table_probe(SaggStore *store, SaggTable *table, uint32 hash,
							 uint32 *step, dsa_pointer *version);
extern bool sagg_table_probe_start(SaggStore *store, SaggTable *table, uint32 hash,
								   int64 start, uint32 *step, dsa_pointer *version);
extern dsa_pointer sagg_store_put(SaggStore *store, int64 start, uint32 hash,
								  dsa_pointer old, const char *entry, Size len);
extern void sagg_store_bury(SaggStore *store, int64 start, uint32 hash,
							dsa_pointer version);
extern void sagg_store_remove(SaggStore *store, int64 start, uint32 hash,
							  dsa_pointer version);
extern void sagg_store_load(SaggStore *store, int64 start, uint32 hash,
							dsa_pointer old, const char *entry, Size len);
extern void sagg_store_free_table(SaggStore *store, int partition,
								  dsa_pointer table);

#define SAGG_TABLE(store, p)	((SaggTable *) dsa_get_address((store)->area, p))
#define SAGG_VERSION(store, p)	((SaggVersion *) dsa_get_address((store)->area, p))
#define SAGG_SLOTS(store, table) \
	((SaggSlotRef *) dsa_get_address((store)->area, (table)->slots))

#endif							/* SAGG_STATE_STORE_H */
