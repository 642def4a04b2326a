/*-------------------------------------------------------------------------
 *
 * batch_internal.h
 *	  The records of a micro-batch as they are stored; batch.c fills it,
 *	  batch_cursor.c reads it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_BATCH_INTERNAL_H
#define SAGG_BATCH_INTERNAL_H

#include "reader_internal.h"

typedef struct SaggChunk
{
	Size		size;			/* of data */
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} SaggChunk;

/* Records of one partition, one behind the other. */
typedef struct SaggStretch
{
	SaggRange	run;			/* its partition; the records' numbers, [start, end),
								 * once arranged, [0, end) before */
	int			chunk;			/* of the first one, SAGG_IN_FILE = the file */
	int64		place;			/* in it */
} SaggStretch;

#define SAGG_IN_FILE	PG_INT32_MAX

struct SaggBatch
{
	MemoryContext memory;
	bool		keep_headers;
	bool		lacks_headers;	/* records may have had some */
	int64		nrecords;
	int			nchunks;
	int			chunk;			/* being filled */
	int			max_chunks;
	SaggChunk **chunks;
	Size		bytes;			/* in use in all chunks */
	rd_kafka_message_t *adding; /* being copied */
	StringInfoData scratch;		/* a record on its way to the file */
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
	int32		nheaders;
	int32		key_len;		/* -1 = none */
	int64		offset;
	int64		timestamp_ms;
	int64		payload_len;	/* -1 = tombstone */
	int64		headers_len;	/* bytes of all headers */
} SaggStoredRecord;

/* A header as stored, before its name with NUL and its value. */
typedef struct SaggStoredHeader
{
	int64		name_len;
	int64		value_len;		/* -1 = null */
} SaggStoredHeader;

/* batch.c */
extern void sagg_batch_arrange(SaggBatch *batch);

#endif							/* SAGG_BATCH_INTERNAL_H */
