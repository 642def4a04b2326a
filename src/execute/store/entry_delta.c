/*-------------------------------------------------------------------------
 *
 * entry_delta.c
 *	  Deltas of large entries, for the state log.
 *
 * Kept inputs only grow, by a few bytes per batch where there may be millions;
 * so the log gets only the new part of such an entry, because it has the
 * previous entry already.  A delta is in the place of an entry, behind its
 * length as a negative number:
 *
 *		start, keys		as in the entry (entry.c)
 *		uint32			length of the entry before
 *		pieces			of the new entry's states: two int32, then bytes: from
 *						where in the former entry how many, and how many bytes
 *						follow here; to the end
 *
 * A group's entry is written whole from time to time, so that a restore need
 * not apply too many deltas, each of which copies the entry.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "execute/window/session_windows.h"

/* smaller entries are written whole */
#define LEAST_ENTRY		512

/* of this many changes of a group, one is written whole */
#define WHOLE_PERIOD	64

/* offset of a piece of an entry */
typedef struct Piece
{
	int32		from;
	int32		len;
	int32		fresh;			/* bytes that follow */
} Piece;

/*
 * Append a piece: bytes of the former entry, then new ones.
 */
static void
append_piece(StringInfo buf, Size from, Size len, const char *fresh, const char *end)
{
	Piece		piece = {from, len, end - fresh};

	appendBinaryStringInfo(buf, (char *) &piece, sizeof(piece));
	appendBinaryStringInfo(buf, fresh, end - fresh);
}

/*
 * Append the pieces of the states at "now", given those at "then".
 */
static void
append_states(SaggExecution *ex, StringInfo buf, const char *entry,
			  SaggBytes then, SaggBytes now)
{
	const char *fresh = now.data;
	Size		from = 0;
	Size		len = 0;

	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggBytes	former = sagg_state_skip(ex, i, &then);
		SaggBytes	present = sagg_state_skip(ex, i, &now);

		if (former.end == former.data ||
			former.end - former.data > present.end - present.data ||
			memcmp(former.data, present.data, former.end - former.data) != 0)
			continue;
		append_piece(buf, from, len, fresh, present.data);
		from = former.data - entry;
		len = former.end - former.data;
		fresh = present.data + len;
	}
	append_piece(buf, from, len, fresh, now.end);
}

/*
 * Replace the contents of "buf" by the delta from one version of a group,
 * whose entry the log has, to another, behind its length.  Returns false if
 * the entry must be written whole, as those of sessions, which merge; "salt"
 * is a number that differs between groups.
 */
bool
sagg_delta_write(SaggExecution *ex, StringInfo buf, SaggEntry former, SaggEntry present,
				 uint32 salt)
{
	SaggBytes	then = {former.data, former.data + former.len};
	SaggBytes	now = {present.data, present.data + present.len};
	int32		len = 0;

	if (SAGG_HAS_SESSIONS(ex) || present.len < LEAST_ENTRY || former.len < LEAST_ENTRY ||
		(ex->plan->batch + salt) % WHOLE_PERIOD == 0)
		return false;
	sagg_entry_skip_keys(ex, &then);
	sagg_entry_skip_keys(ex, &now);
	resetStringInfo(buf);
	appendBinaryStringInfo(buf, (char *) &len, sizeof(len));
	appendBinaryStringInfo(buf, present.data, now.data - present.data);
	appendBinaryStringInfo(buf, (const char *) &former.len, sizeof(former.len));
	append_states(ex, buf, former.data, then, now);
	if ((Size) buf->len > present.len / 2)
		return false;
	len = -(buf->len - (int32) sizeof(len));
	memcpy(buf->data, &len, sizeof(len));
	return true;
}

/*
 * Replace the contents of "buf" with the entry that a delta of "len" bytes
 * makes of the previous version.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT.
 */
void
sagg_delta_apply(SaggExecution *ex, StringInfo buf, SaggEntry former,
				 const char *delta, Size len)
{
	SaggBytes	bytes = {delta, delta + len};
	uint32		former_len;

	sagg_entry_skip_keys(ex, &bytes);
	resetStringInfo(buf);
	appendBinaryStringInfo(buf, delta, bytes.data - delta);
	memcpy(&former_len, sagg_bytes_take(&bytes, sizeof(former_len)), sizeof(former_len));
	if (former_len != former.len)
		sagg_codec_corrupt("A change does not fit the entry before it.");
	while (bytes.data < bytes.end)
	{
		Piece		piece;

		memcpy(&piece, sagg_bytes_take(&bytes, sizeof(piece)), sizeof(piece));
		if (piece.from < 0 || piece.len < 0 || piece.fresh < 0 ||
			(uint64) piece.from + piece.len > former.len)
			sagg_codec_corrupt("A change refers to bytes that are not there.");
		appendBinaryStringInfo(buf, former.data + piece.from, piece.len);
		appendBinaryStringInfo(buf, sagg_bytes_take(&bytes, piece.fresh), piece.fresh);
	}
	bytes.data = buf->data;
	bytes.end = buf->data + buf->len;
	sagg_entry_skip_keys(ex, &bytes);
	for (int i = 0; i < ex->query->naggs; i++)
		sagg_state_skip(ex, i, &bytes);
	if (bytes.data != bytes.end)
		sagg_codec_corrupt("A changed entry has the wrong length.");
}
