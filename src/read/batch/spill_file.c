/*-------------------------------------------------------------------------
 *
 * spill_file.c
 *	  A temporary file that is appended to and can be read at any place.
 *
 * Unlike BufFile it can be closed after an error, for example a full disk,
 * without another error: closing writes nothing.  It is not tied to a
 * transaction or a resource owner. temp_file_limit applies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "storage/fd.h"
#include "utils/wait_event.h"

#include "batch.h"

struct SaggSpill
{
	File		file;
	int64		size;			/* bytes, including those in the buffer */
	Size		buffered;		/* bytes not yet in the file */
	char		buffer[SAGG_SPILL_BUFFER];
};

/*
 * Returns an empty file, its memory in the current context.
 */
SaggSpill *
sagg_spill_create(void)
{
	SaggSpill  *spill = palloc(sizeof(SaggSpill));

	spill->size = 0;
	spill->buffered = 0;
	spill->file = OpenTemporaryFile(true);
	return spill;
}

/*
 * Close and remove the file.  Raises no error.
 */
void
sagg_spill_close(SaggSpill *spill)
{
	FileClose(spill->file);
	pfree(spill);
}

/*
 * Returns the number of bytes written, which is where the next ones go.
 */
int64
sagg_spill_size(const SaggSpill *spill)
{
	return spill->size;
}

static void
flush(SaggSpill *spill)
{
	int64		start = spill->size - spill->buffered;
	Size		done = 0;

	while (done < spill->buffered)
	{
		int64		n = FileWrite(spill->file, spill->buffer + done,
								  spill->buffered - done, start + done,
								  WAIT_EVENT_BUFFILE_WRITE);

		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write to file \"%s\": %m",
							FilePathName(spill->file))));
		done += n;
	}
	spill->buffered = 0;
}

/*
 * Append bytes.  After an error the file can only be closed.
 */
void
sagg_spill_write(SaggSpill *spill, const void *data, Size len)
{
	const char *p = data;

	while (len > 0)
	{
		Size		n;

		if (spill->buffered == SAGG_SPILL_BUFFER)
			flush(spill);
		n = Min(len, SAGG_SPILL_BUFFER - spill->buffered);
		memcpy(spill->buffer + spill->buffered, p, n);
		spill->buffered += n;
		spill->size += n;
		p += n;
		len -= n;
	}
}

/*
 * Read "len" bytes at "offset", which must have been written. "ahead" is
 * allocated by the reader, and zeroed before its first use.
 */
void
sagg_spill_read(SaggSpill *spill, SaggReadAhead *ahead, int64 offset,
				void *data, Size len)
{
	char	   *p = data;

	if (spill->buffered > 0)
		flush(spill);
	while (len > 0)
	{
		int64		skip = offset - ahead->start;

		if (skip >= 0 && skip < ahead->len)
		{
			Size		n = Min(len, ahead->len - skip);

			memcpy(p, ahead->data + skip, n);
			p += n;
			offset += n;
			len -= n;
		}
		else
		{
			int64		n = FileRead(spill->file, ahead->data, SAGG_SPILL_BUFFER,
									 offset, WAIT_EVENT_BUFFILE_READ);

			ahead->start = offset;
			ahead->len = Max(n, 0);
			if (n < 0)
				ereport(ERROR,
						(errcode_for_file_access(),
						 errmsg("could not read file \"%s\": %m",
								FilePathName(spill->file))));
			if (n == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("could not read file \"%s\": unexpected end of file",
								FilePathName(spill->file))));
		}
	}
}
