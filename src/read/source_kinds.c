/*-------------------------------------------------------------------------
 *
 * source_kinds.c
 *	  The registered kinds of sources, the kind of a source, and the functions of
 *	  sources and readers that call those of their kind.
 *
 * Kinds are registered by _PG_init of this library and of others (source.h).  A
 * function that a kind lacks has a default here.  Nothing in this file is called
 * once per record.
 *
 * The handler of a foreign-data wrapper, a C function that a superuser has declared,
 * decides which kind a source has.  The wrapper's name never does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "read_internal.h"

#define MAX_KINDS	32

static const SaggSourceKind *kinds[MAX_KINDS];
static int	nkinds = 0;

/* what a handler of one of them has returned last */
static const SaggSourceKind *handled_kind = NULL;
static const FdwRoutine *handled_routine = NULL;

/*
 * Reject a kind that lacks a required member.
 */
static void
check_complete(const SaggSourceKind *kind)
{
	if (kind->title == NULL || kind->topics == NULL || kind->topic_option == NULL ||
		kind->topics_option == NULL || kind->reader_size < sizeof(SaggReader) ||
		kind->open == NULL || kind->close == NULL || kind->identity == NULL ||
		kind->bounds == NULL || kind->offsets_at == NULL || kind->assign == NULL ||
		kind->has_records == NULL || kind->begin == NULL || kind->collect == NULL ||
		kind->release == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source kind \"%s\" lacks something that every kind has", kind->name),
				 errdetail("That is title, topics, topic_option, topics_option, reader_size, open, close, identity, "
						   "bounds, offsets_at, assign, has_records, begin, collect and release.")));
	if (kind->event_fd == NULL && kind->rest == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source kind \"%s\" has neither event_fd nor rest", kind->name),
				 errdetail("Nothing tells when to look for records.")));
	if ((kind->group_allowed == NULL) != (kind->group_check == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source kind \"%s\" has one of group_allowed and group_check", kind->name)));
	if ((kind->flags & SAGG_SOURCE_OF_BROKERS) &&
		(kind->wrapper == NULL || kind->is_table_option == NULL || kind->check_option_name == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source kind \"%s\" lacks wrapper, is_table_option or check_option_name", kind->name)));
}

/*
 * Reject a kind that would replace a registered one.
 */
static void
check_unique(const SaggSourceKind *kind)
{
	for (int i = 0; i < nkinds; i++)
	{
		if (strcmp(kinds[i]->name, kind->name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("source kind \"%s\" is registered already", kind->name)));
		if (kinds[i]->flags & kind->flags & SAGG_SOURCE_OF_BROKERS)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("source kind \"%s\" cannot have brokers", kind->name),
					 errdetail("create_source makes sources of kind \"%s\".", kinds[i]->name)));
	}
}

/*
 * Add a kind (source_services.c).  Of a kind of another version only api_version and
 * name are looked at.
 */
void
sagg_source_kind_add(const SaggSourceKind *kind)
{
	if (kind->api_version != SAGG_SOURCE_API_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("source kind \"%s\" is made for version %d of the interface of sources, but stream_agg has version %d",
						kind->name, kind->api_version, SAGG_SOURCE_API_VERSION),
				 errhint("Compile its library with the header that is installed with this stream_agg.")));
	check_complete(kind);
	check_unique(kind);
	if (nkinds == MAX_KINDS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d kinds of sources", MAX_KINDS)));
	kinds[nkinds++] = kind;
}

/*
 * A handler of a wrapper of "kind" is going to return "routine".  Raises an error if
 * the kind has not been registered.
 */
void
sagg_source_handled(const SaggSourceKind *kind, const FdwRoutine *routine)
{
	for (int i = 0; i < nkinds; i++)
	{
		if (kinds[i] == kind)
		{
			handled_kind = kind;
			handled_routine = routine;
			return;
		}
	}
	elog(ERROR, "source kind \"%s\" is not registered", kind->name);
}

static ForeignDataWrapper *
wrapper_of(Oid relid)
{
	return GetForeignDataWrapper(GetForeignServer(GetForeignServerIdByRelId(relid))->fdwid);
}

/*
 * The kind of the sources of a foreign-data wrapper, or NULL if they have none: its
 * handler returns what sagg_source_routine has made.  Calls the handler, and raises
 * what loading its library raises.
 */
const SaggSourceKind *
sagg_source_kind_of_wrapper(const ForeignDataWrapper *wrapper)
{
	if (!OidIsValid(wrapper->fdwhandler))
		return NULL;
	handled_routine = NULL;
	return GetFdwRoutine(wrapper->fdwhandler) == handled_routine ? handled_kind : NULL;
}

/*
 * The kind of a relation that is a source, or NULL if it is not one.  As
 * sagg_source_kind_of_wrapper.
 */
const SaggSourceKind *
sagg_source_kind(Oid relid)
{
	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return NULL;
	return sagg_source_kind_of_wrapper(wrapper_of(relid));
}

/*
 * The name of the foreign-data wrapper of a source, for messages; palloc'd.
 */
char *
sagg_source_wrapper(Oid relid)
{
	return wrapper_of(relid)->fdwname;
}

/*
 * The kind whose sources create_source makes.
 */
const SaggSourceKind *
sagg_source_kind_of_brokers(void)
{
	for (int i = 0; i < nkinds; i++)
	{
		if (kinds[i]->flags & SAGG_SOURCE_OF_BROKERS)
			return kinds[i];
	}
	elog(ERROR, "no source kind has brokers");
}

/*
 * The kind of a source.  Raises ERRCODE_SAGG_DEFINITION_CHANGED if it is gone, or
 * wrong_object_type if its wrapper has the handler of no kind.
 */
const SaggSourceKind *
sagg_kind_of_source(Oid source)
{
	const SaggSourceKind *kind = sagg_source_kind(source);
	char	   *name;

	if (kind)
		return kind;
	name = get_rel_name(source);
	if (name == NULL || get_rel_relkind(source) != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("a source of the stream does not exist"),
				 errhint("Drop the stream and create it again.")));
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("foreign table \"%s\" is not a source", name),
			 errdetail("The handler of its foreign-data wrapper is not that of a kind of sources.")));
}

/*
 * Whether a relation is a source.
 */
bool
sagg_is_source(Oid relid)
{
	return sagg_source_kind(relid) != NULL;
}

/*
 * The topics of a source; in the current context.
 */
SaggTopics *
sagg_source_topics(Oid relid)
{
	const SaggSourceKind *kind = sagg_kind_of_source(relid);
	SaggTopics *topics = kind->topics(relid);

	for (int i = 0; i < topics->nnames; i++)
	{
		if (!sagg_is_topic_name(topics->names[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid name of a topic: \"%s\"", topics->names[i]),
					 errdetail("Source \"%s\" of kind \"%s\" has it.",
							   get_rel_name(relid), kind->name)));
	}
	return topics;
}

/*
 * Returns whether a stream may commit its offsets to a consumer group of the cluster
 * of "source".  See source.h.  In a transaction.
 */
bool
sagg_group_allowed(Oid source, Oid owner, const char *group, const char *stream)
{
	const SaggSourceKind *kind = sagg_kind_of_source(source);

	return kind->group_allowed && kind->group_allowed(source, owner, group, stream);
}

/*
 * The same for who defines the stream: raises insufficient_privilege, or
 * feature_not_supported where there are no consumer groups.
 */
void
sagg_group_check(Oid source, Oid owner, const char *group, const char *stream)
{
	const SaggSourceKind *kind = sagg_kind_of_source(source);

	if (kind->group_check == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a stream that reads \"%s\" cannot have option \"consumer_group\"",
						get_rel_name(source)),
				 errdetail("Sources of foreign-data wrapper %s have no consumer groups.",
						   sagg_source_wrapper(source))));
	kind->group_check(source, owner, group, stream);
}

/*
 * What INSERT into sources of this kind does, or an error.
 */
const SaggSourceProducer *
sagg_source_producer(Oid source)
{
	const SaggSourceKind *kind = sagg_kind_of_source(source);

	if (kind->producer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into source \"%s\"", get_rel_name(source)),
				 errdetail("Sources of foreign-data wrapper %s cannot be written to.",
						   sagg_source_wrapper(source))));
	return kind->producer;
}

static bool
any_has_headers(List *sources)
{
	ListCell   *lc;

	foreach(lc, sources)
	{
		if (sagg_source_has_headers(lfirst_oid(lc)))
			return true;
	}
	return false;
}

/*
 * Open a reader for the topics of foreign tables (OIDs) of one server, as the
 * current user.  Headers of records are kept if a source has a column of them, or
 * with "want_headers".  Needs a transaction; contacts nobody yet.  The reader stays
 * until sagg_reader_close or the end of the process.
 */
SaggReader *
sagg_reader_open(List *sources, bool want_headers)
{
	Oid			source = linitial_oid(sources);
	const SaggSourceKind *kind = sagg_kind_of_source(source);
	bool		headers = want_headers || any_has_headers(sources);
	struct SaggRegistry *registry = sagg_source_registry(source, GetUserId());
	MemoryContext memory = AllocSetContextCreate(TopMemoryContext,
												 "stream_agg reader",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);
	SaggReader *reader = palloc0(kind->reader_size);
	volatile bool opened = false;

	reader->kind = kind;
	reader->memory = memory;
	reader->registry = registry;
	reader->batch = sagg_batch_create(headers);
	PG_TRY();
	{
		reader->topics = sagg_sources_topics(sources);
		opened = true;
		kind->open(reader, sources);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		if (opened)
			sagg_reader_close(reader);
		else
			MemoryContextDelete(memory);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return reader;
}

/*
 * Close the reader and free its batch.  Raises no error and waits for nobody.
 */
void
sagg_reader_close(SaggReader *reader)
{
	reader->kind->close(reader);
	sagg_batch_reset(reader->batch);
	MemoryContextDelete(reader->memory);
}

/*
 * A descriptor that is readable when records may have arrived, until
 * sagg_reader_has_records or sagg_reader_collect was called; PGINVALID_SOCKET if
 * the source has none: sagg_reader_rest says when to look.
 */
pgsocket
sagg_reader_fd(SaggReader *reader)
{
	return reader->kind->event_fd ? reader->kind->event_fd(reader) : PGINVALID_SOCKET;
}

/*
 * Returns what the reader reads, for messages: topic "a".  In the reader's memory.
 */
const char *
sagg_reader_subject(SaggReader *reader)
{
	return reader->topics->subject;
}

/*
 * Returns the name of the system that has the records, for messages: Kafka.
 */
const char *
sagg_reader_title(SaggReader *reader)
{
	return reader->kind->title;
}

/*
 * Returns the name of the option of a source that names its topic or topics, for
 * messages.
 */
const char *
sagg_reader_topic_option(SaggReader *reader)
{
	return reader->topics->one ? reader->kind->topic_option : reader->kind->topics_option;
}

/*
 * Returns whether offsets are never gone.  If so, an end of a partition before the
 * position means that nothing has arrived since.
 */
bool
sagg_reader_loses_nothing(SaggReader *reader)
{
	return (reader->kind->flags & SAGG_SOURCE_LOSES_NOTHING) != 0;
}

/*
 * Returns the name of the topic if there is one source with one topic, else NULL.
 * In the reader's memory.
 */
const char *
sagg_reader_one_topic(SaggReader *reader)
{
	return reader->topics->one;
}

/*
 * Returns whether the sources have other topics than when the reader was opened.
 * Needs a transaction.
 */
bool
sagg_reader_sources_changed(SaggReader *reader, List *sources)
{
	return strcmp(sagg_sources_topics(sources)->subject, reader->topics->subject) != 0;
}

/*
 * Returns whether a topic is one of the sources', even if it does not exist.
 */
bool
sagg_reader_has_topic(SaggReader *reader, int32 topic)
{
	return sagg_topics_include(reader->topics, sagg_topic_name(topic));
}

/*
 * Have "check" called with "arg" whenever a function that waits has waited a
 * while: it may raise an error or end the process.
 */
void
sagg_reader_on_wait(SaggReader *reader, void (*check) (void *arg), void *arg)
{
	reader->check = check;
	reader->check_arg = arg;
}

/*
 * From now on skip offsets that are gone, which are errors otherwise.
 */
void
sagg_reader_skips_lost(SaggReader *reader)
{
	reader->skips_lost = true;
}

/*
 * Set whether records that cannot be decompressed are skipped; else they are errors.
 */
void
sagg_reader_skips_unreadable(SaggReader *reader, bool skips)
{
	reader->skips_unreadable = skips;
}

/*
 * Keep the headers of records from now on: of batches that are begun after this.
 */
void
sagg_reader_keep_headers(SaggReader *reader)
{
	sagg_batch_keep_headers(reader->batch);
}

/*
 * Returns the collected batch; it belongs to the reader and lives until
 * sagg_reader_release or the next sagg_reader_begin.
 */
SaggBatch *
sagg_reader_batch(SaggReader *reader)
{
	return reader->batch;
}

/*
 * Returns a text that changes when offsets no longer mean the same records: the id
 * of the cluster.  In the reader's memory.  Waits.
 */
const char *
sagg_reader_cluster_id(SaggReader *reader)
{
	return reader->kind->identity(reader);
}

/*
 * For every partition of the source's topics, sorted, the first offset that
 * exists and the end.  Allocated in the current context.  Waits.  Raises
 * configuration_limit_exceeded.
 */
SaggRange *
sagg_reader_bounds(SaggReader *reader, int *npartitions)
{
	SaggRange  *bounds = reader->kind->bounds(reader, npartitions);

	if (*npartitions > sagg_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("there are more than %d partitions of %s",
						sagg_max_partitions, reader->topics->subject),
				 errhint("Increase stream_agg.max_partitions.")));
	if (*npartitions > 1)
		qsort(bounds, *npartitions, sizeof(SaggRange), sagg_partition_order);
	return bounds;
}

/*
 * Move the starts of "bounds", which are of sagg_reader_bounds, to the first
 * record whose timestamp is "time" (not before 1970) or later; to the end where
 * there is none.  Waits.
 */
void
sagg_reader_offsets_at(SaggReader *reader, TimestampTz time, SaggRange *bounds,
					   int nbounds)
{
	reader->kind->offsets_at(reader, time, bounds, nbounds);
}

/*
 * Returns whether the source has other topics or partitions than at the last
 * sagg_reader_bounds; false if that is not known.
 */
bool
sagg_reader_partitions_changed(SaggReader *reader)
{
	return reader->kind->partitions_changed && reader->kind->partitions_changed(reader);
}

/*
 * Read from the starts of "positions" on.  Other partitions stay as they are.  Drops
 * a batch begun before if a position changes.
 */
void
sagg_reader_assign(SaggReader *reader, const SaggRange *positions, int npositions)
{
	reader->kind->assign(reader, positions, npositions);
}

/*
 * Returns whether there is a record that no batch has taken, or lost offsets to skip.
 * May raise what sagg_reader_collect raises.
 */
bool
sagg_reader_has_records(SaggReader *reader)
{
	return reader->kind->has_records(reader);
}

/*
 * To be called before a sleep of "timeout_ms".  While there is something to do, the
 * reader is called every "interval_ms".  Returns how many of "timeout_ms" to sleep
 * before it is time to look, or to call this again.
 */
long
sagg_reader_rest(SaggReader *reader, long interval_ms, long timeout_ms)
{
	return reader->kind->rest ? reader->kind->rest(reader, interval_ms, timeout_ms) : timeout_ms;
}

/*
 * Begin a batch of these ranges; the one before is released.
 */
void
sagg_reader_begin(SaggReader *reader, const SaggRange *ranges, int nranges)
{
	reader->kind->begin(reader, ranges, nranges);
}

/*
 * Returns the end of the offsets without a record at the start of a range, as far as
 * it is known and not beyond the range's end; the start, if there are none.  May
 * raise what sagg_reader_collect raises.  Does not wait.
 */
int64
sagg_reader_gap_end(SaggReader *reader, const SaggRange *range)
{
	return reader->kind->gap_end ? reader->kind->gap_end(reader, range, false) : range->start;
}

/*
 * Skip these offsets.  Returns where the partition continues.
 */
int64
sagg_reader_pass_gap(SaggReader *reader, const SaggRange *range)
{
	return reader->kind->gap_end ? reader->kind->gap_end(reader, range, true) : range->start;
}

/*
 * Collect what has arrived.  Returns true when all ranges of the batch are
 * complete.  Otherwise call it again when the descriptor is readable, and
 * once a second at least.  Raises ERRCODE_SAGG_OFFSETS_GONE when records of
 * the ranges are gone, or data_corrupted when they cannot be read; a reader that
 * skips these waits to learn where to go on.
 */
bool
sagg_reader_collect(SaggReader *reader)
{
	return reader->kind->collect(reader);
}

/*
 * The batch is complete and will be executed: collect what comes after it until
 * the reader is used again, where the kind does such a thing.
 */
void
sagg_reader_collect_ahead(SaggReader *reader)
{
	if (reader->kind->collect_ahead)
		reader->kind->collect_ahead(reader);
}

/*
 * Returns whether anything has arrived since the last call, even if it is no record.
 */
bool
sagg_reader_hears(SaggReader *reader)
{
	return reader->kind->hears && reader->kind->hears(reader);
}

/*
 * Free the records of the batch.  The reader continues after them.
 */
void
sagg_reader_release(SaggReader *reader)
{
	reader->kind->release(reader);
}

/*
 * Free what the reader keeps for the next batch.  Between batches only.  Raises no
 * error.
 */
void
sagg_reader_give_back(SaggReader *reader)
{
	sagg_batch_give_back(reader->batch);
}

/*
 * Returns the last error of a connection since records or an answer arrived, or NULL.
 * In the reader's memory, until the next call.
 */
const char *
sagg_reader_trouble(SaggReader *reader)
{
	return reader->kind->trouble ? reader->kind->trouble(reader) : NULL;
}

/*
 * Returns whether fetching has failed for so long that the caller should ask whether
 * the source can be reached.  If that may become so, shortens "timeout_ms" to when.
 */
bool
sagg_reader_in_trouble(SaggReader *reader, long *timeout_ms)
{
	return reader->kind->in_trouble && reader->kind->in_trouble(reader, timeout_ms);
}

/*
 * Returns a message about a source that does not answer, in the current memory
 * context; NULL if that has not lasted long enough.  The caller has waited for
 * records of a batch since "since"; 0: for none, but perhaps for an answer.
 */
char *
sagg_reader_silence(SaggReader *reader, TimestampTz since)
{
	return reader->kind->silence ? reader->kind->silence(reader, since) : NULL;
}

/*
 * Set "last" to the last record that was collected of the partition of a range: its
 * offset as "start", its timestamp in milliseconds as "end".  Returns false if there
 * is none, it has no timestamp, or the kind does not need it.
 */
bool
sagg_reader_last_record(SaggReader *reader, const SaggRange *range, SaggRange *last)
{
	return reader->kind->last_record && reader->kind->last_record(reader, range, last);
}

/*
 * Returns whether a connection that brings records has broken since the last call.
 */
bool
sagg_reader_was_broken(SaggReader *reader)
{
	return reader->kind->was_broken && reader->kind->was_broken(reader);
}

/*
 * Returns whether one of the records of "last" seems to have been replaced by another.
 * After sagg_reader_bounds; waits for one answer.
 */
bool
sagg_reader_suspects(SaggReader *reader, const SaggRange *last, int nlast)
{
	return reader->kind->suspects && reader->kind->suspects(reader, last, nlast);
}

/*
 * Raise ERRCODE_SAGG_OFFSETS_GONE if one of the records of "last" (see
 * sagg_reader_last_record) has been replaced by another; a reader that skips lost
 * offsets sets its "end" to SAGG_ANOTHER_RECORD instead.  A record that does not
 * exist proves nothing.  Waits.
 */
void
sagg_reader_verify(SaggReader *reader, SaggRange *last, int nlast)
{
	if (reader->kind->verify)
		reader->kind->verify(reader, last, nlast);
}

/*
 * Returns the ranges that the current batch lacks of its plan, in the reader's memory
 * until sagg_reader_release.
 */
const SaggRange *
sagg_reader_losses(SaggReader *reader, int *nlosses)
{
	if (reader->kind->losses)
		return reader->kind->losses(reader, nlosses);
	*nlosses = 0;
	return NULL;
}

/*
 * Set the consumer group that sagg_reader_commit commits to; NULL for none.  To be
 * called before the first assignment.  "stream" is for messages.
 */
void
sagg_reader_set_group(SaggReader *reader, const char *group, const char *stream)
{
	if (reader->kind->set_group)
		reader->kind->set_group(reader, group, stream);
}

/*
 * Publish that the stream has committed the starts of these positions.  To be called
 * after the store is published (I3).  Raises no error.
 */
void
sagg_reader_commit(SaggReader *reader, const SaggRange *positions, int npositions)
{
	if (reader->kind->commit)
		reader->kind->commit(reader, positions, npositions);
}

/*
 * Between batches: check the last commit, and repeat it if it has failed.  Returns how
 * many of "timeout_ms" to sleep before it is time to call this again.
 */
long
sagg_reader_tend_group(SaggReader *reader, long timeout_ms)
{
	return reader->kind->tend_group ? reader->kind->tend_group(reader, timeout_ms) : timeout_ms;
}
