/*-------------------------------------------------------------------------
 *
 * entry.c
 *	  A group as bytes: its window, keys, transition states.
 *
 * The same bytes are in the store and, behind a length word, in the state log,
 * which may have what is new of them instead (entry_delta.c).
 *
 *		int64 start		of the window, in microseconds since 2000-01-01
 *		int64 end		of a session; windows of other kinds have none.  The
 *						same as start: the session is gone, and has no states
 *		keys			each: int32 length, bytes; length -1 is NULL
 *		states			see sagg_state_write
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "execute/window/session_windows.h"

/* bytes before the keys */
static inline Size
head_size(const SaggExecution *ex)
{
	return SAGG_HAS_SESSIONS(ex) ? 2 * sizeof(int64) : sizeof(int64);
}

static void
write_head(const SaggExecution *ex, StringInfo buf, int64 start, int64 end)
{
	resetStringInfo(buf);
	appendBinaryStringInfo(buf, (const char *) &start, sizeof(start));
	if (SAGG_HAS_SESSIONS(ex))
		appendBinaryStringInfo(buf, (const char *) &end, sizeof(end));
}

/*
 * Returns the end of a session's entry.
 */
int64
sagg_entry_end(const char *entry)
{
	int64		end;

	memcpy(&end, entry + sizeof(int64), sizeof(end));
	return end;
}

/*
 * Returns whether a session's entry says that the session is gone.
 */
bool
sagg_entry_is_gone(const char *entry)
{
	return memcmp(entry, entry + sizeof(int64), sizeof(int64)) == 0;
}

static void
write_keys(SaggExecution *ex, StringInfo buf, const Datum *keys, const bool *nulls)
{
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		int32		null = -1;

		if (nulls[i])
			appendBinaryStringInfo(buf, (char *) &null, sizeof(null));
		else
			sagg_codec_write(&ex->keys[i].codec, buf, keys[i]);
	}
}

/*
 * Replace the contents of "buf" with a group's entry.
 */
void
sagg_entry_write(SaggExecution *ex, StringInfo buf, const SaggGroup *group)
{
	write_head(ex, buf, group->start,
			   SAGG_HAS_SESSIONS(ex) ? ((const SaggSessionWindow *) group)->end : 0);
	write_keys(ex, buf, group->keys, group->keynulls);
	for (int i = 0; i < ex->query->naggs; i++)
		sagg_state_write(ex, i, buf, &group->states[i]);
}

/*
 * Step over window and keys of an entry.
 */
void
sagg_entry_skip_keys(SaggExecution *ex, SaggBytes *bytes)
{
	sagg_bytes_take(bytes, head_size(ex));
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		int32		size = sagg_bytes_take_length(bytes);

		if (size > 0)
			sagg_bytes_take(bytes, size);
	}
}

/*
 * Replace the contents of "buf" with an entry that says that the session with
 * this start and the keys of "group" is gone.
 */
void
sagg_entry_write_gone(SaggExecution *ex, StringInfo buf, const SaggGroup *group,
					  int64 start)
{
	write_head(ex, buf, start, start);
	write_keys(ex, buf, group->keys, group->keynulls);
}

/*
 * Fill in window and keys of "group", and its states if "states" says so, from
 * an entry.  The group has its arrays; what they point to is allocated in the
 * current context.  The entry is from this stream's store, or verified
 * (entry_check.c).  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT nevertheless if it
 * cannot be read.
 */
void
sagg_entry_read(SaggExecution *ex, SaggGroup *group, const char *entry, Size len,
				bool states)
{
	SaggBytes	bytes = {entry, entry + len};

	memcpy(&group->start, sagg_bytes_take(&bytes, sizeof(group->start)),
		   sizeof(group->start));
	if (SAGG_HAS_SESSIONS(ex))
		memcpy(&((SaggSessionWindow *) group)->end, sagg_bytes_take(&bytes, sizeof(int64)),
			   sizeof(int64));
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		int32		size = sagg_bytes_take_length(&bytes);

		group->keynulls[i] = size < 0;
		group->keys[i] = size < 0 ? (Datum) 0 :
			sagg_codec_read(&ex->keys[i].codec, sagg_bytes_take(&bytes, size), size);
	}
	if (!states)
		return;
	for (int i = 0; i < ex->query->naggs; i++)
		sagg_state_read(ex, i, &bytes, &group->states[i]);
}

/*
 * Returns whether an entry has these keys.  They are read into the current
 * context only if their bytes differ: equal values can have different bytes,
 * but equal bytes are always equal values.
 */
bool
sagg_entry_same_keys(SaggExecution *ex, const char *entry, Size len,
					 const Datum *keys, const bool *nulls)
{
	SaggSessionWindow other;
	int			nkeys = Max(ex->query->nkeys, 1);
	Size		head = head_size(ex);
	StringInfo	buf = &ex->entry;

	resetStringInfo(buf);
	write_keys(ex, buf, keys, nulls);
	if (len >= head + buf->len && memcmp(entry + head, buf->data, buf->len) == 0)
		return true;

	other.group.keys = palloc(sizeof(Datum) * nkeys);
	other.group.keynulls = palloc(sizeof(bool) * nkeys);
	sagg_entry_read(ex, &other.group, entry, len, false);
	return sagg_keys_equal(ex, other.group.keys, other.group.keynulls, keys, nulls);
}

/*
 * Returns whether an entry is that of "group": start of its window, and keys.
 */
bool
sagg_entry_has_keys(SaggExecution *ex, const char *entry, Size len,
					const SaggGroup *group)
{
	return len >= sizeof(int64) && memcmp(entry, &group->start, sizeof(int64)) == 0 &&
		sagg_entry_same_keys(ex, entry, len, group->keys, group->keynulls);
}
