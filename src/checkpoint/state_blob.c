/*-------------------------------------------------------------------------
 *
 * state_blob.c
 *	  The format of a blob in stream_agg.state: a header, then entries.
 *
 * An entry is what execute/ makes of a group: bytes that only it understands
 * and that end by themselves.  A blob holds whole entries, about a megabyte of
 * them at most.  The blobs of one batch and partition are numbered from 0, the
 * last one is marked, and each says which batch wrote the blobs before it in
 * the chain: a blob that is missing from the middle is noticed here, and one
 * missing from the end by stream_agg.commits.state_blobs.
 *
 * The header is in the byte order of the machine, as the values of built-in
 * types within entries are.  Nothing in a blob is used before its checksum,
 * which covers all of it, was verified; a blob that does not verify raises an
 * error that names it.  A checksum is no proof of origin: execute/ verifies
 * the values as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

#define BLOB_MAGIC		0x53414742	/* SAGB */
#define BLOB_FORMAT		3
#define BLOB_PAYLOAD	(1024 * 1024)	/* bytes of entries, unless one entry
										 * alone has more */
#define PG_MAJOR		(PG_VERSION_NUM / 10000)

/* flags */
#define BLOB_BASE		0x01	/* all entries of the partition */
#define BLOB_LAST		0x02	/* last of its batch and partition */

typedef struct BlobHeader
{
	uint32		magic;
	uint16		format;
	uint16		major;			/* PostgreSQL version: serialized aggregate
								 * states may differ between versions */
	uint64		fingerprint;	/* fingerprint of the stream's definition */
	int64		batch;
	int64		follows;		/* batch that wrote the chain's previous
								 * blobs, or -1 */
	int32		partition;
	int32		seq;
	uint32		flags;
	uint32		entries;
	uint32		len;			/* bytes that follow the header */
	pg_crc32c	crc;			/* checksum of the header, up to here, and the
								 * entries */
} BlobHeader;

StaticAssertDecl(sizeof(BlobHeader) == 56, "padding in BlobHeader");

static pg_crc32c
blob_checksum(const BlobHeader *header, const char *payload, Size len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(BlobHeader, crc));
	COMP_CRC32C(crc, payload, len);
	FIN_CRC32C(crc);
	return crc;
}

/*
 * Prepare a writer.  Finished blobs gather in writer->blobs, allocated in
 * "context".
 */
void
sagg_blob_writer_init(SaggBlobWriter *writer, MemoryContext context,
					  uint64 fingerprint)
{
	memset(writer, 0, sizeof(*writer));
	writer->context = context;
	writer->fingerprint = fingerprint;
	writer->blobs = NIL;
}

/*
 * Begin the blobs of a batch and partition.  "follows" is the batch that wrote
 * the chain's blobs before, -1 when these begin the chain.  Call sagg_blob_add
 * for each entry, then sagg_blob_finish.
 */
void
sagg_blob_begin(SaggBlobWriter *writer, int32 partition, int64 batch,
				bool base, int64 follows)
{
	Assert(writer->buffer.data == NULL);
	writer->id.partition = partition;
	writer->id.batch = batch;
	writer->id.base = base;
	writer->id.seq = 0;
	writer->follows = follows;
}

static void
start_blob(SaggBlobWriter *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	static const char space[VARHDRSZ + sizeof(BlobHeader)] = {0};

	initStringInfo(&writer->buffer);
	appendBinaryStringInfo(&writer->buffer, space, sizeof(space));
	writer->entries = 0;
	MemoryContextSwitchTo(old);
}

static void
complete_blob(SaggBlobWriter *writer, bool last)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	SaggBlob   *blob = palloc(sizeof(SaggBlob));
	BlobHeader	header = {0};
	char	   *payload = writer->buffer.data + VARHDRSZ + sizeof(BlobHeader);

	header.magic = BLOB_MAGIC;
	header.format = BLOB_FORMAT;
	header.major = PG_MAJOR;
	header.fingerprint = writer->fingerprint;
	header.batch = writer->id.batch;
	header.follows = writer->follows;
	header.partition = writer->id.partition;
	header.seq = writer->id.seq;
	header.flags = (writer->id.base ? BLOB_BASE : 0) | (last ? BLOB_LAST : 0);
	header.entries = writer->entries;
	header.len = writer->buffer.len - VARHDRSZ - sizeof(BlobHeader);
	header.crc = blob_checksum(&header, payload, header.len);

	blob->id = writer->id;
	blob->data = (bytea *) writer->buffer.data;
	memcpy(VARDATA(blob->data), &header, sizeof(header));
	SET_VARSIZE(blob->data, writer->buffer.len);

	writer->blobs = lappend(writer->blobs, blob);
	writer->bytes += writer->buffer.len - VARHDRSZ;
	writer->id.seq++;
	writer->buffer.data = NULL;
	MemoryContextSwitchTo(old);
}

/*
 * Add an entry; a SaggBytesFn.  "arg" is the SaggBlobWriter.
 */
void
sagg_blob_add(void *arg, const char *data, Size len)
{
	SaggBlobWriter *writer = (SaggBlobWriter *) arg;

	CHECK_FOR_INTERRUPTS();
	if (len >= MaxAllocSize / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("state of a group is too large: %zu bytes", len)));
	if (writer->buffer.data != NULL && writer->entries > 0 &&
		writer->buffer.len + len > BLOB_PAYLOAD)
		complete_blob(writer, false);
	if (writer->buffer.data == NULL)
		start_blob(writer);
	appendBinaryStringInfo(&writer->buffer, data, (int) len);
	writer->entries++;
}

/*
 * End the blobs of a batch and partition.  Without entries there are none.
 */
void
sagg_blob_finish(SaggBlobWriter *writer)
{
	if (writer->buffer.data != NULL)
		complete_blob(writer, true);
}

static void
corrupt(const char *stream, const SaggBlobId *id, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("state blob of stream \"%s\", partition %d, micro-batch " INT64_FORMAT ", seq %d is corrupt",
					sagg_stream_title(stream), id->partition, id->batch, id->seq),
			 errdetail_internal("%s", detail),
			 errhint(SAGG_HINT_REBUILD)));
}

/*
 * Raise the error for a blob of another definition: the one in force is newer
 * than the caller's snapshot, or older.
 */
static void
changed_meanwhile(const char *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the query of stream \"%s\" has changed since the snapshot of this query was taken",
					sagg_stream_title(stream)),
			 errdetail("The state in this snapshot is that of another query, or of one whose types or functions have changed."),
			 errhint("Run it again, in a new transaction. If the error stays, the stream's last error says what has changed.")));
}

/*
 * Raise the error for a blob that is sound, but was written by someone else.
 */
static void
foreign(const char *stream, const SaggBlobId *id, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
			 errmsg("state blob of stream \"%s\", partition %d, micro-batch " INT64_FORMAT ", seq %d cannot be used",
					sagg_stream_title(stream), id->partition, id->batch, id->seq),
			 errdetail_internal("%s", detail),
			 errhint("Drop the stream and create it again to build its state again from the records in Kafka.")));
}

/*
 * Verify a blob: it must be the one that its row, "id", names, and of the
 * definition "fingerprint".  Fills "content", whose payload points into
 * "data".  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT, or
 * ERRCODE_SAGG_DEFINITION_CHANGED if it was written by another format,
 * PostgreSQL major version or definition.
 */
void
sagg_blob_verify(const SaggCheckpoint *checkpoint, const SaggBlobId *id,
				 const bytea *data, uint64 fingerprint,
				 SaggBlobContent *content)
{
	const char *stream = checkpoint->stream;
	BlobHeader	header;
	Size		size = VARSIZE_ANY_EXHDR(data);
	const char *payload = VARDATA_ANY(data) + sizeof(header);

	if (size < sizeof(header))
		corrupt(stream, id, psprintf("It has %zu bytes, fewer than its header.", size));
	memcpy(&header, VARDATA_ANY(data), sizeof(header));
	if (header.magic != BLOB_MAGIC)
		corrupt(stream, id, "It does not begin as a state blob does.");
	if (!EQ_CRC32C(header.crc,
				   blob_checksum(&header, payload, size - sizeof(header))))
		corrupt(stream, id, "Its checksum does not match its content.");

	if (header.format != BLOB_FORMAT)
		foreign(stream, id,
				psprintf("It has format %u, this version of stream_agg reads format %u.",
						 header.format, BLOB_FORMAT));
	if (header.major != PG_MAJOR)
		foreign(stream, id,
				psprintf("It was written by PostgreSQL %u, this is PostgreSQL %u.",
						 header.major, PG_MAJOR));
	if (header.fingerprint != fingerprint && checkpoint->as_of_snapshot)
		changed_meanwhile(stream);
	if (header.fingerprint != fingerprint)
		foreign(stream, id,
				"It was written for another definition of the stream's query.");
	if (header.len != size - sizeof(header))
		corrupt(stream, id, "Its length is not the one in its header.");
	if (header.partition != id->partition || header.batch != id->batch ||
		header.seq != id->seq || ((header.flags & BLOB_BASE) != 0) != id->base)
		corrupt(stream, id,
				psprintf("By its header it is the %s of partition %d, micro-batch " INT64_FORMAT ", seq %d.",
						 (header.flags & BLOB_BASE) ? "base" : "delta",
						 header.partition, header.batch, header.seq));

	content->follows = header.follows;
	content->last = (header.flags & BLOB_LAST) != 0;
	content->entries = header.entries;
	content->payload = payload;
	content->len = header.len;
}
