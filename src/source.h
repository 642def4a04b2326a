/*-------------------------------------------------------------------------
 *
 * source.h
 *	  What a kind of sources is, such as Kafka topics: a table of functions that
 *	  read records for queries and streams.
 *
 * This header is installed.  A library outside of stream_agg includes kinds.h,
 * fills a SaggSourceKind and registers it from its _PG_init by
 * sagg_source_register.  It needs no other header of stream_agg and is not linked
 * with it: what it calls are the functions of SaggSourceServices, which the
 * registration returns.
 *
 * A source is a foreign table whose foreign-data wrapper has a handler that
 * returns "routine" of the kind; stream_agg does not look at the wrapper's name.
 * Asking the handler loads the library, in whatever process a source is read.
 *
 * A kind reads records.  A record belongs to a topic, which is a name, and to a
 * partition, which is a number from 0.  Within a partition it has an offset.
 * Offsets are not negative and ascend.  The record at an offset never changes as
 * long as it can be read: a micro-batch that fails is read again by its offsets, in
 * the same process or another one.
 *
 * A reader
 * --------
 * A reader has the records of at most one batch.  It lives outside of transactions
 * and memory contexts.  Functions are called in this order:
 *
 *		open			in a transaction, and contacts nobody yet
 *		identity, bounds, offsets_at
 *						where a stream can begin
 *		assign			where it begins
 *		has_records, rest, event_fd
 *						whether there is anything to read
 *		begin			a batch of these ranges
 *		collect			any number of times, until it returns true
 *		collect_ahead	while the batch is executed
 *		release			done with the batch
 *		close			unless the process ends
 *
 * Only "open", and functions that are said to read catalogs, run in a transaction.
 * A function that "waits" does so for up to timeout_ms() of the services, serves
 * interrupts and calls reader->check.  No function is called once per record,
 * except those of SaggSourceProducer.
 *
 * Functions run as the owner of the stream, or as the role that runs a query.  The
 * kind decides what a source may read for that role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SOURCE_H
#define SAGG_SOURCE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/pg_list.h"

/* Rises whenever a library has to be compiled again. */
#define SAGG_SOURCE_API_VERSION		1

/* records of the ranges are gone; the stream fails, or skips them by on_data_loss */
#define ERRCODE_SAGG_OFFSETS_GONE		MAKE_SQLSTATE('S','A','0','0','2')

typedef struct SaggSourceKind SaggSourceKind;
typedef struct SaggBatch SaggBatch;

/*
 * Offsets [start, end) of one partition of a topic.  The topic is a number that
 * this process has given to its name (topic_number of the services).
 */
typedef struct SaggRange
{
	int32		topic;
	int32		partition;
	int64		start;
	int64		end;
} SaggRange;

/* The topics of a source. */
typedef struct SaggTopics
{
	const char *subject;		/* for messages: topic "a", topics "a,b" */
	const char *one;			/* the topic if there is exactly one, or NULL */
	const char *pattern;		/* a regular expression that their names
								 * match, or NULL */
	int			nnames;			/* without a pattern, sorted */
	char	  **names;
	List	   *parts;			/* of several sources: the SaggTopics of each;
								 * "pattern" is one of theirs, "names" all of
								 * those without a pattern */
} SaggTopics;

/*
 * The reader of a kind begins with this struct.  stream_agg sets all of it before it
 * calls "open", and frees it after "close".
 */
typedef struct SaggReader
{
	const SaggSourceKind *kind;
	MemoryContext memory;		/* of the reader and all it has */
	SaggTopics *topics;
	SaggBatch  *batch;			/* the records, see "add" of the services */
	struct SaggRegistry *registry;	/* of the records' schemas, or NULL */
	void		(*check) (void *arg);	/* to be called while waiting, may
										 * raise an error; NULL = none */
	void	   *check_arg;
	bool		skips_lost;		/* skip offsets that are gone, else an error */
	bool		skips_unreadable;	/* skip records that cannot be
									 * decompressed, else an error */
} SaggReader;

/* A header of a record. */
typedef struct SaggHeader
{
	const char *name;			/* UTF-8, with NUL */
	const char *value;			/* NULL = null */
	Size		len;
} SaggHeader;

/* A record that was read, for "add" of the services.  All pointers are the caller's. */
typedef struct SaggSourceRecord
{
	int32		topic;
	int32		partition;
	int64		offset;
	int64		timestamp_ms;	/* since 1970, -1 = none */
	const char *key;			/* NULL = none */
	Size		key_len;
	const char *payload;		/* NULL = none: a tombstone */
	Size		payload_len;
	int			nheaders;
	const SaggHeader *headers;
} SaggSourceRecord;

#define SAGG_PARTITION_BY_KEY	(-1)

/* A record to be produced.  All pointers are the caller's. */
typedef struct SaggOutRecord
{
	const char *topic;			/* NULL = the source's one */
	int32		partition;		/* or SAGG_PARTITION_BY_KEY */
	int64		timestamp_ms;	/* 0 = now */
	const char *key;			/* NULL = none */
	Size		key_len;
	const char *payload;		/* NULL = none */
	Size		payload_len;
	int			nheaders;
	SaggHeader *headers;
} SaggOutRecord;

/*
 * The functions behind INSERT into a source.  A producer lives in the memory context
 * that is current at "open", and is closed before that is deleted.  A source can have
 * several at once: a trigger of it inserts into it, for example.
 */
typedef struct SaggProducer SaggProducer;

typedef struct SaggSourceProducer
{
	/* with the mapping of "user"; contacts nobody yet */
	SaggProducer *(*open) (Oid source, Oid user);
	/* for another statement, after "finish" */
	void		(*restart) (SaggProducer *producer);
	void		(*send) (SaggProducer *producer, const SaggOutRecord *record);
	/* waits until all records have been acknowledged */
	void		(*finish) (SaggProducer *producer);
	/* waits for nobody, raises no error */
	void		(*close) (SaggProducer *producer);
} SaggSourceProducer;

/* in place of the timestamp of a last record that has been replaced by another */
#define SAGG_ANOTHER_RECORD		(-1)

/* Properties of all sources of a kind. */
typedef enum SaggSourceFlags
{
	SAGG_SOURCE_OF_BROKERS = 1 << 0,	/* create_source makes such sources;
										 * one kind only */
	SAGG_SOURCE_LOSES_NOTHING = 1 << 1	/* offsets are never gone, so an end
										 * before a position means that
										 * nothing has come since */
} SaggSourceFlags;

struct SaggSourceKind
{
	int			api_version;	/* SAGG_SOURCE_API_VERSION */
	const char *name;			/* unique among the kinds, lower case: "kafka" */
	const char *title;			/* the system that has the records, in
								 * messages: "Kafka" */
	const char *wrapper;		/* foreign-data wrapper of the servers that
								 * create_source makes; of
								 * SAGG_SOURCE_OF_BROKERS, else NULL */
	int			flags;			/* SaggSourceFlags */

	/*
	 * Definitions.  These functions read catalogs and contact no server.
	 */

	/*
	 * The topics of a source, in the current context.  Names have up to 249
	 * ASCII letters, digits and "._-", as those of Kafka.
	 */
	SaggTopics *(*topics) (Oid source);

	/* names of the option of a source for one topic, and of those for several */
	const char *topic_option;
	const char *topics_option;

	/* the format of all records; NULL = the source's option "format" */
	const char *format;

	/*
	 * Returns the metadata that a column without the option "metadata" holds;
	 * NULL = none, the column comes from the value.  May raise an error for a
	 * column that the kind cannot fill.  NULL function: NULL for all columns.
	 */
	const char *(*column_metadata) (Form_pg_attribute att);

	/*
	 * "is_table_option" returns whether an option of create_source is one of
	 * the foreign table.  "check_option_name" raises fdw_invalid_option_name
	 * for an unknown option.  Only for SAGG_SOURCE_OF_BROKERS.
	 */
	bool		(*is_table_option) (const char *name);
	void		(*check_option_name) (const char *name);

	/*
	 * "group_allowed" returns whether the stream with the key "stream", of
	 * role "owner", may commit to a consumer group.  "group_check" raises
	 * insufficient_privilege if it may not.  NULL: sources of the kind have
	 * no consumer groups.
	 */
	bool		(*group_allowed) (Oid source, Oid owner, const char *group,
								  const char *stream);
	void		(*group_check) (Oid source, Oid owner, const char *group,
								const char *stream);

	/*
	 * Readers.
	 */

	Size		reader_size;	/* of what begins with SaggReader, zeroed */

	/*
	 * prepare to read "sources", of one server, as the current user; contacts
	 * no server yet
	 */
	void		(*open) (SaggReader *reader, List *sources);

	/*
	 * Free what the reader has.  Also called after an error within "open".
	 * Raises no error and does not wait.
	 */
	void		(*close) (SaggReader *reader);

	/*
	 * Returns a file descriptor that becomes readable when records may have
	 * arrived, until "has_records" or "collect" is called.  NULL: there is
	 * none, and "rest" says when to look.
	 */
	int			(*event_fd) (SaggReader *reader);

	/*
	 * Returns visible ASCII that changes when offsets no longer mean the same
	 * records, such as the id of a cluster.  In the reader's memory.  Waits.
	 */
	const char *(*identity) (SaggReader *reader);

	/*
	 * Returns the first existing offset and the end of each partition, in any
	 * order, in the current memory context.  Waits.
	 */
	SaggRange  *(*bounds) (SaggReader *reader, int *npartitions);

	/*
	 * Move the starts of "bounds" to the first record whose timestamp is
	 * "time" (not before 1970) or later, to the end where there is none.
	 * Waits.
	 */
	void		(*offsets_at) (SaggReader *reader, TimestampTz time,
							   SaggRange *bounds, int nbounds);

	/*
	 * Returns whether topics or partitions differ from those of the last
	 * "bounds". NULL: never.
	 */
	bool		(*partitions_changed) (SaggReader *reader);

	/*
	 * Read from the starts of "positions" on.  Drops a batch begun before if
	 * anything changes.
	 */
	void		(*assign) (SaggReader *reader, const SaggRange *positions,
						   int npositions);

	/*
	 * Returns whether there is a record that no batch has taken, or whether
	 * offsets that the next one would take are gone.  Does not wait.  May
	 * raise what "collect" raises.
	 */
	bool		(*has_records) (SaggReader *reader);

	/*
	 * Called before a sleep of "timeout_ms".  Returns how many of them to
	 * sleep. While there is something to do, the reader is called every
	 * "interval_ms". NULL: sleep for all of them.
	 */
	long		(*rest) (SaggReader *reader, long interval_ms, long timeout_ms);

	/* begin a batch of these ranges; records of the one before are dropped */
	void		(*begin) (SaggReader *reader, const SaggRange *ranges, int nranges);

	/*
	 * Returns the end of the offsets without a record at the start of the
	 * range; the start, if there are none.  "pass": the reader continues
	 * there.  Does not wait. NULL: there are no such offsets.
	 */
	int64		(*gap_end) (SaggReader *reader, const SaggRange *range, bool pass);

	/*
	 * Put the records that have arrived into the batch: of each partition by
	 * ascending offset, and only records of the batch's ranges.  Returns true
	 * when the batch has all of their records.  Does not wait.  Raises
	 * ERRCODE_SAGG_OFFSETS_GONE for offsets that are gone, data_corrupted for
	 * records that cannot be read.
	 */
	bool		(*collect) (SaggReader *reader);

	/* the batch is executed now: prefetch the next one meanwhile; NULL: no */
	void		(*collect_ahead) (SaggReader *reader);

	/*
	 * returns whether anything has arrived since the last call; NULL: not
	 * known
	 */
	bool		(*hears) (SaggReader *reader);

	/* done with the batch: free its records.  Raises no error. */
	void		(*release) (SaggReader *reader);

	/*
	 * Errors of connections.  "trouble" returns the last error since records
	 * or an answer arrived, or NULL, in the reader's memory.  "in_trouble"
	 * returns whether it has lasted long; if it has not, it shortens
	 * "timeout_ms" to when it will have.  "silence" returns a message about
	 * no answer since "since", or NULL. NULL: there is never an error.
	 */
	const char *(*trouble) (SaggReader *reader);
	bool		(*in_trouble) (SaggReader *reader, long *timeout_ms);
	char	   *(*silence) (SaggReader *reader, TimestampTz since);

	/*
	 * A topic may have been deleted and recreated under its name.
	 * "last_record" sets the last record that was collected of a partition:
	 * its offset as "start", its timestamp as "end"; it returns false if
	 * there is none.  The reader of a later process gets them back.
	 * "was_broken" returns whether the topic could have been recreated since
	 * the last call.  "suspects" returns, after "bounds", whether it looks
	 * recreated.  "verify" raises ERRCODE_SAGG_OFFSETS_GONE if one of the
	 * records has been replaced by another, or with skips_lost sets its "end"
	 * to SAGG_ANOTHER_RECORD.  NULL: topics are never recreated.
	 */
	bool		(*last_record) (SaggReader *reader, const SaggRange *range,
								SaggRange *last);
	bool		(*was_broken) (SaggReader *reader);
	bool		(*suspects) (SaggReader *reader, const SaggRange *last, int nlast);
	void		(*verify) (SaggReader *reader, SaggRange *last, int nlast);

	/*
	 * returns the offsets that the batch lacks of its ranges; NULL: none,
	 * ever
	 */
	const SaggRange *(*losses) (SaggReader *reader, int *nlosses);

	/*
	 * Publish the progress of the stream by a consumer group.  These raise no
	 * error. NULL: it is not published.
	 */
	void		(*set_group) (SaggReader *reader, const char *group,
							  const char *stream);
	void		(*commit) (SaggReader *reader, const SaggRange *positions,
						   int npositions);
	long		(*tend_group) (SaggReader *reader, long timeout_ms);

	/* NULL: INSERT is rejected */
	const SaggSourceProducer *producer;
};

/*
 * The functions that a kind may call.  They raise errors of the server, unless their
 * comment says otherwise.
 */
typedef struct SaggSourceServices
{
	/*
	 * Returns what the handler of the kind's foreign-data wrapper has to
	 * return unchanged.  In the current memory context.
	 */
	struct FdwRoutine *(*routine) (const SaggSourceKind *kind);

	/*
	 * For the wrapper's validator, of sources whose records have a format:
	 * whether an option of an object of this catalog (ForeignTableRelationId,
	 * AttributeRelationId) is one that stream_agg itself reads, such as
	 * format or path; raises an error for a wrong value.  "options_fit"
	 * raises an error for options of such an object, a list of DefElem, that
	 * do not go together.  The options schema.registry... of servers and user
	 * mappings, for format avro, are read too; the validator lets them
	 * through by itself.
	 */
	bool		(*takes_option) (Oid catalog, const char *name, const char *value);
	void		(*options_fit) (Oid catalog, List *options);

	/* topics by number, see SaggRange; the first one for a valid name only */
	int32		(*topic_number) (const char *name);
	const char *(*topic_name) (int32 topic);

	/* returns whether "name" is one of the topics, also by a pattern */
	bool		(*topics_include) (const SaggTopics *topics, const char *name);

	/* returns the current setting stream_agg.kafka_timeout, in ms */
	int			(*timeout_ms) (void);

	/*
	 * The batch of a reader.  "add" copies records; it is meant for many
	 * records in one call.  "reset" drops them, and raises no error.
	 */
	void		(*add) (SaggReader *reader, const SaggSourceRecord *records, int n);
	void		(*reset) (SaggReader *reader);
} SaggSourceServices;

/* in stream_agg's library; raises an error for another version */
typedef const SaggSourceServices *(*SaggRegisterSourceFn) (const SaggSourceKind *kind);

/*
 * Register a kind, which must not change until the process ends.  Loads stream_agg
 * if it is not loaded yet.  Raises feature_not_supported if that has
 * another version of this header, invalid_parameter_value if the kind lacks what
 * every kind has, duplicate_object if there is a kind of this name.
 */
static inline const SaggSourceServices *
sagg_source_register(const SaggSourceKind *kind)
{
	SaggRegisterSourceFn fn;

	fn = (SaggRegisterSourceFn) load_external_function("$libdir/stream_agg",
													   "stream_agg_register_source",
													   true, NULL);
	return fn(kind);
}

#endif							/* SAGG_SOURCE_H */
