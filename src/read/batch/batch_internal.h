/*-------------------------------------------------------------------------
 *
 * batch_internal.h
 *	  The records of a micro-batch as they are stored; batch.c fills it,
 *	  collector.c before it is begun, batch_cursor.c reads it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_BATCH_INTERNAL_H
#define SAGG_BATCH_INTERNAL_H

#include "kafka/reader_internal.h"

/* of a chunk, unless a record is larger */
#define SAGG_CHUNK_SIZE		((Size) 4 * 1024 * 1024)

/* Room for records, one behind the other. */
typedef struct SaggChunk
{
	struct SaggChunk *next;		/* of those nobody holds */
	int			holders;		/* who fills it, and stretches in it */
	Size		size;			/* of data */
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} SaggChunk;

/* Records of one partition, one behind the other. */
typedef struct SaggStretch
{
	SaggRange	run;			/* its partition; the records' numbers, [start, end),
								 * once arranged, [0, end) before */
	SaggChunk  *chunk;			/* which has them, NULL = the file */
	int64		place;			/* of the first one, in it */
	int64		end;			/* behind the last one */
	int64		first;			/* offset of the first one */
} SaggStretch;

/* Records collected before their batch was planned (portions.c). */
typedef struct SaggPortion
{
	dlist_node	node;
	SaggStretch records;
	int64		last_offset;	/* of the last record */
	int64		last_timestamp;
	bool		headers;		/* of the records are stored */
} SaggPortion;

struct SaggBatch
{
	MemoryContext memory;
	bool		keep_headers;
	bool		lacks_headers;	/* records may have had some */
	int64		nrecords;
	int			nchunks;		/* that somebody holds */
	int			nspare;			/* that nobody does */
	SaggChunk  *spare;
	SaggChunk  *filling;		/* for the next record, or NULL */
	Size		bytes;			/* of the records in chunks */
	rd_kafka_message_t *adding; /* being copied */
	char	   *scratch;		/* a record on its way to the file */
	Size		scratch_size;
	SaggSpill  *file;			/* NULL = none */
	int64		nstretches;
	int64		max_stretches;
	int64		narranged;		/* nstretches once they are in order */
	SaggStretch *stretches;
	SaggStretch *adding_to;		/* the last one, or NULL */
	SaggRange  *runs;			/* see sagg_batch_runs */
};

/* A record as stored, before its key, payload and headers. */
typedef struct SaggStoredRecord
{
	int32		topic;
	int32		partition;
	int32		nheaders;		/* -1 = they cannot be read */
	int32		key_len;		/* -1 = none */
	int64		offset;
	int64		timestamp_ms;
	int64		payload_len;	/* -1 = tombstone */
	int64		headers_len;	/* bytes of all headers */
} SaggStoredRecord;

/* Bytes that a record takes as stored. */
static inline Size
sagg_record_size(const SaggStoredRecord *stored)
{
	return sizeof(*stored) + Max(stored->key_len, 0) + Max(stored->payload_len, 0) +
		stored->headers_len;
}

/* A header as stored, before its name with NUL and its value. */
typedef struct SaggStoredHeader
{
	int64		name_len;
	int64		value_len;		/* -1 = null */
} SaggStoredHeader;

/* batch.c */
extern void sagg_batch_add_stored(SaggBatch *batch, const SaggStretch *records,
								  bool headers);
extern void sagg_batch_arrange(SaggBatch *batch);

/* batch_chunks.c */
extern SaggChunk *sagg_chunk_take(SaggBatch *batch, Size size, bool or_null);
extern void sagg_chunk_release(SaggBatch *batch, SaggChunk *chunk);
extern void sagg_chunks_trim(SaggBatch *batch, int needed);

/* portions.c, for the collector */
extern void sagg_portion_add(SaggReader *reader, SaggPartition *part,
							 const SaggPortion *found);

/* stored_record.c */
extern Size sagg_record_measure(int32 topic, const rd_kafka_message_t *message,
								bool keep_headers, SaggStoredRecord *stored,
								rd_kafka_headers_t **headers);
extern void sagg_record_copy(char *to, const rd_kafka_message_t *message,
							 const SaggStoredRecord *stored,
							 rd_kafka_headers_t *headers);

#endif							/* SAGG_BATCH_INTERNAL_H */
