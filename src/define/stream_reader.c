/*-------------------------------------------------------------------------
 *
 * stream_reader.c
 *	  Streams that share a reader: what they must have in common.
 *
 * A reader is a name, among the streams of one owner.  Its streams have the
 * same settings for it: the source, when batches begin and how large they are,
 * what happens to lost offsets, the consumer group.  Each new stream is
 * checked against an existing one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "streams/streams.h"
#include "define_internal.h"

static void
reject(const SaggStream *stream, const SaggStream *other, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("stream \"%s\" must have the same %s as stream \"%s\", with which it shares reader \"%s\"",
					sagg_stream_title(stream->name), what,
					sagg_stream_title(other->name), stream->reader),
			 errdetail("Streams that share a reader have the same source, trigger, max_offsets_per_trigger, min_offsets_per_trigger, max_trigger_delay, on_data_loss and consumer_group."),
			 errhint("Give it the same %s, or name another reader.", what)));
}

static bool
same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static void
check_alike(const SaggStream *stream, const SaggStream *other)
{
	const SaggStreamOptions *a = &stream->options;
	const SaggStreamOptions *b = &other->options;

	if (!equal(stream->sources, other->sources))
		reject(stream, other, "source");
	if (stream->trigger != other->trigger)
		reject(stream, other, "trigger");
	if (stream->max_offsets != other->max_offsets)
		reject(stream, other, "max_offsets_per_trigger");
	if (a->min_offsets != b->min_offsets)
		reject(stream, other, "min_offsets_per_trigger");
	if (a->max_delay != b->max_delay)
		reject(stream, other, "max_trigger_delay");
	if (a->on_data_loss != b->on_data_loss)
		reject(stream, other, "on_data_loss");
	if (!same_text(a->consumer_group, b->consumer_group))
		reject(stream, other, "consumer_group");
}

/*
 * Copy the settings of its reader from "from" to a stream; returns whether
 * they differed.
 */
bool
sagg_take_reader_settings(SaggStream *stream, const SaggStream *from)
{
	SaggStreamOptions *a = &stream->options;
	const SaggStreamOptions *b = &from->options;
	bool		same = stream->trigger == from->trigger && stream->max_offsets == from->max_offsets &&
	a->min_offsets == b->min_offsets && a->max_delay == b->max_delay &&
	a->on_data_loss == b->on_data_loss && same_text(a->consumer_group, b->consumer_group);

	stream->trigger = from->trigger;
	stream->max_offsets = from->max_offsets;
	a->min_offsets = b->min_offsets;
	a->max_delay = b->max_delay;
	a->on_data_loss = b->on_data_loss;
	a->consumer_group = b->consumer_group;
	return !same;
}

/*
 * Serialise the creation of streams of a reader, otherwise two would not see
 * each other.  A reader belongs to its owner, and so does the lock, which has
 * the owner's whole OID in place of a catalog's: nobody waits for the
 * transactions of other roles, whatever names they choose.
 */
static void
lock_reader(Oid owner, const char *reader)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, owner, string_hash(reader, NAMEDATALEN), 2);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Returns whether the stream has been in contact with its source.
 */
static bool
has_begun(const SaggStream *stream)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(stream->name)};
	SaggOwnerContext owner;
	bool		found;

	SPI_connect();
	sagg_become_extension_owner(&owner);
	if (SPI_execute_with_args("SELECT FROM stream_agg.sources WHERE stream = $1 AND cluster_id IS NOT NULL",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read stream_agg.sources");
	found = SPI_processed > 0;
	sagg_restore_user(&owner);
	SPI_finish();
	return found;
}

/*
 * Check the reader of a stream that is made or changed against the others that
 * share it.  Raises invalid_parameter_value.
 */
void
sagg_check_reader(const SaggStream *stream)
{
	SaggStream *other;

	if (stream->reader == NULL)
	{
		if (stream->options.stops_all)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("on_failure stop_all needs a reader"),
					 errdetail("It affects the streams that share a reader with this one."),
					 errhint("Name the reader by reader.")));
		return;
	}
	if (stream->reader[0] == '\0' || strlen(stream->reader) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reader must have between 1 and %d bytes", NAMEDATALEN - 1),
				 errhint("Leave it out for a reader of the stream's own.")));
	lock_reader(stream->owner, stream->reader);
	other = sagg_stream_beside(stream);
	if (other == NULL)
		return;
	check_alike(stream, other);
	if (has_begun(other) && !has_begun(stream))
		ereport(NOTICE,
				(errmsg("stream \"%s\" reads separately from the other streams of reader \"%s\" until it has caught up with them",
						sagg_stream_title(stream->name), stream->reader),
				 errdetail("From then on their tables agree at every moment.")));
}
