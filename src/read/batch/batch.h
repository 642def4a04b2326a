/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  The records of a micro-batch as they are stored: kinds of sources fill it,
 *	  scans read it.
 *
 * A record is stored as a SaggStoredRecord, followed by the key, the payload
 * and the headers.  Its stretch says which partition it is of.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_BATCH_H
#define SAGG_BATCH_H

#include "source_kinds.h"

typedef struct SaggSpill SaggSpill;

/* size of a chunk, unless a record is larger */
#define SAGG_CHUNK_SIZE		((Size) 4 * 1024 * 1024)

/* Memory for records, one behind the other. */
typedef struct SaggChunk
{
	struct SaggChunk *next;		/* next chunk that nobody holds */
	int			holders;		/* number of holders: whoever fills it, and
								 * stretches in it */
	Size		size;			/* bytes of data */
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} SaggChunk;

/* Records of one partition, one behind the other. */
typedef struct SaggStretch
{
	SaggRange	run;			/* its partition; the records' numbers,
								 * [start, end), once arranged, [0, end)
								 * before */
	SaggChunk  *chunk;			/* chunk that has them, NULL = the file */
	int64		place;			/* place of the first one in it */
	int64		end;			/* place behind the last one */
	int64		first;			/* offset of the first one */
} SaggStretch;

struct SaggBatch
{
	MemoryContext memory;
	bool		keep_headers;
	bool		lacks_headers;	/* records may have had headers */
	int64		nrecords;
	int			nchunks;		/* number of chunks that somebody holds */
	int			nspare;			/* number of chunks that nobody holds */
	SaggChunk  *spare;
	SaggChunk  *filling;		/* for the next record, or NULL */
	Size		bytes;			/* bytes of the records in chunks */
	char	   *scratch;		/* memory of a record on its way to the file */
	Size		scratch_size;
	SaggSpill  *file;			/* file of spilled records, NULL = none */
	int64		nstretches;
	int64		max_stretches;
	int64		narranged;		/* nstretches once they are in order */
	SaggStretch *stretches;
	SaggStretch *adding_to;		/* the last stretch, or NULL */
	SaggRange  *runs;			/* see sagg_batch_runs */
};

/*
 * A record as stored, before its key, payload and headers.  There are millions
 * of them in memory, so it is small.
 */
typedef struct SaggStoredRecord
{
	int64		offset;
	int64		timestamp_ms;
	int32		key_len;		/* length of the key, -1 = none */
	int32		payload_len;	/* length of the payload, -1 = tombstone */
	int32		headers_len;	/* bytes of all headers, at most MaxAllocSize */
	int32		nheaders;		/* -1 = headers cannot be read */
} SaggStoredRecord;

/* Returns the bytes that a record takes as stored. */
static inline Size
sagg_record_size(const SaggStoredRecord *stored)
{
	return sizeof(*stored) + (Size) Max(stored->key_len, 0) +
		(Size) Max(stored->payload_len, 0) + (Size) stored->headers_len;
}

/* A header as stored, before its name with NUL and its value. */
typedef struct SaggStoredHeader
{
	int64		name_len;
	int64		value_len;		/* -1 = null */
} SaggStoredHeader;

/*
 * A record of a batch, as a cursor returns it; the cursor owns what it points
 * to.
 */
typedef struct SaggRecord
{
	int32		topic;
	int32		partition;
	int64		offset;
	int64		timestamp_ms;	/* timestamp of the message, -1 = none */
	const char *key;			/* NULL = none */
	Size		key_len;
	const char *payload;		/* NULL = tombstone */
	Size		payload_len;
	const char *headers;		/* as stored, see sagg_header_next; NULL =
								 * none */
	int			nheaders;		/* number of headers; undefined if they were
								 * not read */
	bool		headers_unreadable; /* there may be headers, which cannot be
									 * read */
} SaggRecord;

/*
 * Read the header at "p", which must exist; returns where the next one is.
 */
static inline const char *
sagg_header_next(const char *p, SaggHeader *header)
{
	SaggStoredHeader stored;

	memcpy(&stored, p, sizeof(stored));
	header->name = p + sizeof(stored);
	header->value = stored.value_len < 0 ? NULL : header->name + stored.name_len;
	header->len = Max(stored.value_len, 0);
	return header->name + stored.name_len + header->len;
}

/* batch.c */
extern SaggBatch *sagg_batch_create(bool headers);
extern int64 sagg_batch_records(const SaggBatch *batch);
extern const SaggRange *sagg_batch_runs(SaggBatch *batch, int *nruns);
extern bool sagg_batch_usable(const SaggBatch *batch);
extern void sagg_batch_keep_headers(SaggBatch *batch);
extern bool sagg_batch_keeps_headers(const SaggBatch *batch);
extern char *sagg_batch_room(SaggBatch *batch, Size size);
extern void sagg_batch_put(SaggBatch *batch, int32 topic, int32 partition,
						   const SaggStoredRecord *stored, char *room, Size size);
extern void sagg_batch_add_stored(SaggBatch *batch, const SaggStretch *records,
								  bool headers);
extern void sagg_batch_add(SaggBatch *batch, const SaggSourceRecord *records,
						   int n);
extern void sagg_batch_arrange(SaggBatch *batch);
extern void sagg_batch_reset(SaggBatch *batch);
extern void sagg_batch_give_back(SaggBatch *batch);

/* batch_cursor.c */
typedef struct SaggBatchCursor SaggBatchCursor;

extern SaggBatchCursor *sagg_batch_open(SaggBatch *batch, bool want_headers);
extern bool sagg_batch_next(SaggBatchCursor *cursor, SaggRecord *record);
extern void sagg_batch_rewind(SaggBatchCursor *cursor);
extern void sagg_batch_end(SaggBatchCursor *cursor);

/* batch_chunks.c */

/* chunks that are kept from batch to batch, however small those are */
#define SAGG_CHUNKS_KEPT	8

extern SaggChunk *sagg_chunk_take(SaggBatch *batch, Size size, bool or_null);
extern void sagg_chunk_release(SaggBatch *batch, SaggChunk *chunk);
extern void sagg_chunks_trim(SaggBatch *batch, int needed);

/* spill_file.c */
#define SAGG_SPILL_BUFFER		65536

typedef struct SaggReadAhead
{
	int64		start;			/* place in the file */
	int64		len;			/* bytes in data */
	char		data[SAGG_SPILL_BUFFER];
} SaggReadAhead;

extern SaggSpill *sagg_spill_create(void);
extern void sagg_spill_close(SaggSpill *spill);
extern int64 sagg_spill_size(const SaggSpill *spill);
extern void sagg_spill_write(SaggSpill *spill, const void *data, Size len);
extern void sagg_spill_read(SaggSpill *spill, SaggReadAhead *ahead,
							int64 offset, void *data, Size len);

#endif							/* SAGG_BATCH_H */
