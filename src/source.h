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
 * What a kind reads are records: of a topic, which is a name, in partitions, which
 * are numbers from 0, at offsets, which are not negative and ascend.  A record
 * stays the same one at its offset for as long as it can be read: a micro-batch
 * that fails is read again, by its offsets, in the same process or another one.
 *
 * A reader
 * --------
 * It has the records of at most one batch, and lives outside of transactions and
 * memory contexts:
 *
 *		open			in a transaction, and contacts nobody yet
 *		identity, bounds, offsets_at
 *						where a stream can begin
 *		assign			where it begins
 *		has_records, rest, event_fd
 *						is there anything to read?
 *		begin			a batch of these ranges
 *		collect			any number of times, until it returns true
 *		collect_ahead	while the batch is executed
 *		release			done with the batch
 *		close			unless the process ends
 *
 * Only "open" and what is said to read catalogs runs in a transaction.  "waits" in
 * a comment means: up to timeout_ms() of the services, with interrupts served and
 * reader->check called.  Every function is called once per batch or more rarely, or
 * once per look of the worker; none per record, except those of
 * SaggSourceProducer.
 *
 * Functions run as the owner of the stream, or as who runs a query; what a source
 * may read for him is the kind's to decide.
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

/* records of the ranges are gone; the stream fails, or skips them if it is told to */
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

/* Which topics a source has. */
typedef struct SaggTopics
{
	const char *subject;		/* for messages: topic "a", topics "a,b" */
	const char *one;			/* the topic if there is exactly one, or NULL */
	const char *pattern;		/* a regular expression that their names match, or
								 * NULL */
	int			nnames;			/* without a pattern, sorted */
	char	  **names;
	List	   *parts;			/* of several sources: the SaggTopics of each;
								 * "pattern" is one of theirs, "names" all of
								 * those without a pattern */
} SaggTopics;

/*
 * What a kind's own reader begins with.  All of it is set before "open" is called,
 * and freed after "close".
 */
typedef struct SaggReader
{
	const SaggSourceKind *kind;
	MemoryContext memory;		/* of the reader and all it has */
	SaggTopics *topics;
	SaggBatch  *batch;			/* the records, see "add" of the services */
	struct SaggRegistry *registry;	/* of the records' schemas, or NULL */
	void		(*check) (void *arg);	/* to be called while waiting, may raise
										 * an error; NULL = none */
	void	   *check_arg;
	bool		skips_lost;		/* offsets that are gone are no error */
	bool		skips_unreadable;	/* nor are records that cannot be unpacked */
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
 * What INSERT into a source needs.  A producer lives in the context that is
 * current at "open", and is closed with it at the latest.
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

/* instead of the timestamp of a last record that is another one now */
#define SAGG_ANOTHER_RECORD		(-1)

/* What is true of all sources of a kind. */
typedef enum SaggSourceFlags
{
	SAGG_SOURCE_OF_BROKERS = 1 << 0,	/* create_source makes such sources; one
										 * kind only */
	SAGG_SOURCE_LOSES_NOTHING = 1 << 1	/* offsets are never gone, so an end
										 * before a position means that nothing
										 * has come since */
} SaggSourceFlags;

struct SaggSourceKind
{
	int			api_version;	/* SAGG_SOURCE_API_VERSION */
	const char *name;			/* unique among the kinds, lower case: "kafka" */
	const char *title;			/* who has the records, in messages: "Kafka" */
	const char *wrapper;		/* foreign-data wrapper of the servers that
								 * create_source makes; of
								 * SAGG_SOURCE_OF_BROKERS, else NULL */
	int			flags;			/* SaggSourceFlags */

	/*
	 * Definitions.  These read catalogs and contact nobody.
	 */

	/*
	 * The topics of a source, in the current context.  Names have up to 249 ASCII
	 * letters, digits and "._-", as those of Kafka.
	 */
	SaggTopics *(*topics) (Oid source);

	/* which option of a source names the one topic, and which ones several */
	const char *topic_option;
	const char *topics_option;

	/* the format of all records; NULL = the source's option "format" */
	const char *format;

	/*
	 * The metadata that a column holds which has no option "metadata"; NULL =
	 * none, it comes from the value.  May raise an error for a column that the
	 * kind has nothing for.  NULL function: none for all columns.
	 */
	const char *(*column_metadata) (Form_pg_attribute att);

	/*
	 * Whether an option of create_source is one of the source, and whether it
	 * is one at all, else fdw_invalid_option_name.  Of SAGG_SOURCE_OF_BROKERS.
	 */
	bool		(*is_table_option) (const char *name);
	void		(*check_option_name) (const char *name);

	/*
	 * May the stream "stream", a key, of role "owner" commit to a consumer group?
	 * "group_check" raises insufficient_privilege if not.  NULL: sources of the
	 * kind have no consumer groups.
	 */
	bool		(*group_allowed) (Oid source, Oid owner, const char *group,
								  const char *stream);
	void		(*group_check) (Oid source, Oid owner, const char *group,
								const char *stream);

	/*
	 * Readers.
	 */

	Size		reader_size;	/* of what begins with SaggReader, zeroed */

	/* the current user reads "sources", of one server; contacts nobody yet */
	void		(*open) (SaggReader *reader, List *sources);

	/*
	 * Also after an error in the middle of "open".  Raises no error and waits for
	 * nobody.
	 */
	void		(*close) (SaggReader *reader);

	/*
	 * A descriptor that is readable when records may have come, until
	 * "has_records" or "collect" was called.  NULL: there is none; "rest" says
	 * when to look.
	 */
	int			(*event_fd) (SaggReader *reader);

	/*
	 * Visible ASCII that tells whether offsets mean the same records as before, such
	 * as the id of a cluster; the reader's memory.  Waits.
	 */
	const char *(*identity) (SaggReader *reader);

	/*
	 * By partition, in any order, the first offset that there is and the end, in
	 * the current context.  Waits.
	 */
	SaggRange  *(*bounds) (SaggReader *reader, int *npartitions);

	/*
	 * Move the starts of "bounds" to the first record whose timestamp is "time"
	 * (not before 1970) or later, to the end where there is none.  Waits.
	 */
	void		(*offsets_at) (SaggReader *reader, TimestampTz time,
							   SaggRange *bounds, int nbounds);

	/* other topics or partitions than at the last "bounds"?  NULL: never */
	bool		(*partitions_changed) (SaggReader *reader);

	/*
	 * Read from the starts of "positions" on.  Drops a batch begun before if
	 * anything changes.
	 */
	void		(*assign) (SaggReader *reader, const SaggRange *positions,
						   int npositions);

	/*
	 * Is there a record that no batch has taken, or are offsets gone that one would
	 * take?  Does not wait.  May raise what "collect" does.
	 */
	bool		(*has_records) (SaggReader *reader);

	/*
	 * Before a sleep of "timeout_ms": returns for how many of them to sleep.
	 * Questions come every "interval_ms" when there is something to do.  NULL:
	 * all.
	 */
	long		(*rest) (SaggReader *reader, long interval_ms, long timeout_ms);

	/*
	 * Begin a batch of these ranges.  A batch that was collected of the very same
	 * ranges may be kept, while it is "usable": a retry need not read it again then.
	 */
	void		(*begin) (SaggReader *reader, const SaggRange *ranges, int nranges);

	/*
	 * Where a partition goes on behind offsets that have no record, from the start
	 * of the range on; "pass": the reader goes on there.  Does not wait.  NULL: at
	 * the start.
	 */
	int64		(*gap_end) (SaggReader *reader, const SaggRange *range, bool pass);

	/*
	 * Put what has come into the batch, of each partition by ascending offset, and
	 * nothing that is not of its ranges.  Returns true when it has all of their
	 * records.  Does not wait.  Raises ERRCODE_SAGG_OFFSETS_GONE for offsets that are
	 * gone, data_corrupted for records that cannot be read.
	 */
	bool		(*collect) (SaggReader *reader);

	/* the batch is executed now: prepare the next one meanwhile; NULL: no */
	void		(*collect_ahead) (SaggReader *reader);

	/* has anything come since this was asked last?  NULL: not known */
	bool		(*hears) (SaggReader *reader);

	/* done with the batch: free its records.  Raises no error. */
	void		(*release) (SaggReader *reader);

	/*
	 * What is wrong: the last error since records or an answer came, or NULL, the
	 * reader's memory; whether it has lasted, else when it will have; what to tell
	 * of silence since "since", or NULL.  NULL functions: nothing ever is.
	 */
	const char *(*trouble) (SaggReader *reader);
	bool		(*in_trouble) (SaggReader *reader, long *timeout_ms);
	char	   *(*silence) (SaggReader *reader, TimestampTz since);

	/*
	 * Is the topic the one that was read, or one of that name that was made anew?
	 * "last_record" gives the last record that was collected of a partition: its
	 * offset as "start", its timestamp as "end"; false = none.  The reader of a later
	 * session gets them back.  "was_broken": could it have been made anew since this
	 * was asked last?  "suspects": does it look so, after "bounds"?  "verify" raises
	 * ERRCODE_SAGG_OFFSETS_GONE if one of them is another record now, or sets its
	 * "end" to SAGG_ANOTHER_RECORD if skips_lost.  NULL: it cannot be another one.
	 */
	bool		(*last_record) (SaggReader *reader, const SaggRange *range,
								SaggRange *last);
	bool		(*was_broken) (SaggReader *reader);
	bool		(*suspects) (SaggReader *reader, const SaggRange *last, int nlast);
	void		(*verify) (SaggReader *reader, SaggRange *last, int nlast);

	/* what the batch lacks of its ranges; NULL: nothing ever is lost */
	const SaggRange *(*losses) (SaggReader *reader, int *nlosses);

	/*
	 * Tell others how far the stream has come, by a consumer group; raise no
	 * error.  NULL: nobody is told.
	 */
	void		(*set_group) (SaggReader *reader, const char *group,
							  const char *stream);
	void		(*commit) (SaggReader *reader, const SaggRange *positions,
						   int npositions);
	long		(*tend_group) (SaggReader *reader, long timeout_ms);

	/* NULL: nothing can be inserted */
	const SaggSourceProducer *producer;
};

/*
 * What a kind may call.  Functions raise errors of the server's, if nothing else is
 * said.
 */
typedef struct SaggSourceServices
{
	/*
	 * What the handler of the kind's foreign-data wrapper returns, to be returned
	 * as it is.  In the current context.
	 */
	struct FdwRoutine *(*routine) (const SaggSourceKind *kind);

	/*
	 * For the wrapper's validator, of sources whose records have a format: whether
	 * an option of an object of this catalog (ForeignTableRelationId,
	 * AttributeRelationId) is one that stream_agg itself reads, such as format or
	 * path; raises an error for a wrong value.  "options_fit" raises an error for
	 * options of such an object, a list of DefElem, that do not go together.  The
	 * options schema.registry... of servers and user mappings, for format avro, are
	 * read too; the validator lets them through by itself.
	 */
	bool		(*takes_option) (Oid catalog, const char *name, const char *value);
	void		(*options_fit) (Oid catalog, List *options);

	/* topics by number, see SaggRange; the first one for a valid name only */
	int32		(*topic_number) (const char *name);
	const char *(*topic_name) (int32 topic);

	/* is "name" one of the topics?  Takes care of patterns. */
	bool		(*topics_include) (const SaggTopics *topics, const char *name);

	/* the setting stream_agg.kafka_timeout, by now */
	int			(*timeout_ms) (void);

	/*
	 * The batch of a reader.  "add" copies records; it is meant for many of them at
	 * once.  "reset" drops them, and raises no error.  "usable": has it all that its
	 * readers want of records?  Else it has to be collected anew.
	 */
	void		(*add) (SaggReader *reader, const SaggSourceRecord *records, int n);
	void		(*reset) (SaggReader *reader);
	bool		(*usable) (const SaggReader *reader);
} SaggSourceServices;

/* in stream_agg's library; raises an error for another version */
typedef const SaggSourceServices *(*SaggRegisterSourceFn) (const SaggSourceKind *kind);

/*
 * Register a kind, which has to stay as it is until the process ends.  Loads
 * stream_agg if that is not loaded yet.  Raises feature_not_supported if that has
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
