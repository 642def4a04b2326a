/*-------------------------------------------------------------------------
 *
 * entry.c
 *	  A group as bytes: start of its window, keys, transition states.
 *
 * The same bytes are in the store and, behind a length word, in the state log,
 * which may have what is new of them instead (entry_delta.c).
 *
 *		int64 start		of the window, in microseconds since 2000-01-01
 *		keys			each: int32 length, bytes; length -1 is NULL
 *		states			see sagg_state_write
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "execute_internal.h"

static void
write_keys(SaggExecution *ex, StringInfo buf, const SaggGroup *group)
{
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		int32		null = -1;

		if (group->keynulls[i])
			appendBinaryStringInfo(buf, (char *) &null, sizeof(null));
		else
			sagg_codec_write(&ex->keys[i].codec, buf, group->keys[i]);
	}
}

/*
 * Replace the contents of "buf" by a group's entry.
 */
void
sagg_entry_write(SaggExecution *ex, StringInfo buf, const SaggGroup *group)
{
	resetStringInfo(buf);
	appendBinaryStringInfo(buf, (const char *) &group->start, sizeof(group->start));
	write_keys(ex, buf, group);
	for (int i = 0; i < ex->query->naggs; i++)
		sagg_state_write(ex, i, buf, &group->states[i]);
}

/*
 * Step over window and keys of an entry.
 */
void
sagg_entry_skip_keys(SaggExecution *ex, SaggBytes *bytes)
{
	sagg_bytes_take(bytes, sizeof(int64));
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		int32		size = sagg_bytes_take_length(bytes);

		if (size > 0)
			sagg_bytes_take(bytes, size);
	}
}

/*
 * Fill in start and keys of "group", and its states if "states" says so, from
 * an entry.  All arrays of the group are there; what they point to is
 * allocated in the current context.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT.
 */
void
sagg_entry_read(SaggExecution *ex, SaggGroup *group, const char *entry, Size len,
				bool states)
{
	SaggBytes	bytes = {entry, entry + len};

	memcpy(&group->start, sagg_bytes_take(&bytes, sizeof(group->start)),
		   sizeof(group->start));
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
 * Whether an entry is that of "group".  Its keys are read into the current
 * context only where their bytes differ: equal values can have different
 * bytes, but not the other way round.
 */
bool
sagg_entry_has_keys(SaggExecution *ex, const char *entry, Size len,
					const SaggGroup *group)
{
	SaggGroup	other;
	int			nkeys = Max(ex->query->nkeys, 1);
	StringInfo	buf = &ex->entry;

	resetStringInfo(buf);
	appendBinaryStringInfo(buf, (const char *) &group->start, sizeof(group->start));
	write_keys(ex, buf, group);
	if (len >= buf->len && memcmp(entry, buf->data, buf->len) == 0)
		return true;

	other.keys = palloc(sizeof(Datum) * nkeys);
	other.keynulls = palloc(sizeof(bool) * nkeys);
	sagg_entry_read(ex, &other, entry, len, false);
	return other.start == group->start &&
		sagg_keys_equal(ex, other.keys, other.keynulls, group->keys, group->keynulls);
}
