/*-------------------------------------------------------------------------
 *
 * source.h
 *	  The contract of a kind of sources, such as Kafka topics.
 *
 * A kind is a table of functions, registered by _PG_init (stream_agg.c) under
 * the name of its foreign-data wrapper.  What it reads are records: of a topic,
 * which is a name, in partitions, which are numbers, at offsets, which ascend.
 * Other rooms call sagg_reader_* and sagg_source_* (read/read.h), which ask the
 * kind (read/source_kinds.c); none of them names a kind.  A kind includes this
 * header and read/batch/batch.h, and nothing else of the stages.
 *
 * A reader lives outside of transactions and memory contexts, from "open" to
 * "close".  Only "open" and what is said to read catalogs runs in a transaction.
 * "waits" in a comment means: up to stream_agg.kafka_timeout, with interrupts
 * served and reader->check called.  Every function is called once per batch or
 * more rarely, or once per look of the worker; none per record, except those of
 * SaggSourceProducer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SOURCE_H
#define SAGG_SOURCE_H

#include "stream_agg.h"

#include "catalog/pg_attribute.h"
#include "foreign/fdwapi.h"

/* changes with every change of the structs below */
#define SAGG_SOURCE_API_VERSION		1

typedef struct SaggSourceKind SaggSourceKind;
typedef struct SaggBatch SaggBatch;

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
	SaggBatch  *batch;			/* see read/batch/batch.h */
	struct SaggRegistry *registry;	/* of the records' schemas, or NULL */
	void		(*check) (void *arg);	/* to be called while waiting, may raise
										 * an error; NULL = none */
	void	   *check_arg;
	bool		skips_lost;		/* offsets that are gone are no error */
	bool		skips_unreadable;	/* nor are records that cannot be unpacked */
} SaggReader;

/* A record to be produced.  All pointers are the caller's. */
typedef struct SaggOutHeader
{
	const char *name;			/* UTF-8 */
	const char *value;			/* NULL = null */
	Size		len;
} SaggOutHeader;

#define SAGG_PARTITION_BY_KEY	(-1)

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
	SaggOutHeader *headers;
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
	SAGG_SOURCE_OF_BROKERS = 1 << 0,	/* create_source makes such sources */
	SAGG_SOURCE_LOSES_NOTHING = 1 << 1	/* offsets are never gone, so an end
										 * before a position means that nothing
										 * has come since */
} SaggSourceFlags;

struct SaggSourceKind
{
	int			api_version;	/* SAGG_SOURCE_API_VERSION */
	const char *name;			/* lower case, of the kind: "kafka" */
	const char *title;			/* who has the records, in messages: "Kafka" */
	const char *wrapper;		/* name of the foreign-data wrapper */
	int			flags;			/* SaggSourceFlags */

	/*
	 * Definitions.  These read catalogs and contact nobody.
	 */

	/* the topics of a source, in the current context */
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
	 * By partition, sorted, the first offset that there is and the end, in the
	 * current context.  Waits.
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

	/* is there a record that no batch has taken?  Does not wait. */
	bool		(*has_records) (SaggReader *reader);

	/*
	 * Before a sleep of "timeout_ms": returns for how many of them to sleep.
	 * Questions come every "interval_ms" when there is something to do.  NULL:
	 * all.
	 */
	long		(*rest) (SaggReader *reader, long interval_ms, long timeout_ms);

	/*
	 * Begin a batch of these ranges.  A batch that was collected of the very same
	 * ranges is kept: a retry need not read it again.
	 */
	void		(*begin) (SaggReader *reader, const SaggRange *ranges, int nranges);

	/*
	 * Where a partition goes on behind offsets that have no record, from the start
	 * of the range on; "pass": the reader goes on there.  Does not wait.  NULL: at
	 * the start.
	 */
	int64		(*gap_end) (SaggReader *reader, const SaggRange *range, bool pass);

	/*
	 * Put what has come into the batch.  Returns true when it has all records of
	 * its ranges.  Raises ERRCODE_SAGG_OFFSETS_GONE for offsets that are gone.
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
	 * Is the topic the one that was read?  See read/read.h.  NULL: it cannot be
	 * another one.
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

/* read/source_kinds.c */
extern void sagg_source_register(const SaggSourceKind *kind);
extern const SaggSourceKind *sagg_source_kind(Oid relid);

/*
 * For the kind of sink (sink.h) that sources of a kind are: its functions
 * (read/delivery.c).
 */
extern void sagg_delivery_check(const SaggSinkStream *stream, const SaggSinkRows *rows);
extern void *sagg_delivery_open(const SaggSinkStream *stream);
extern void sagg_delivery_begin(void *sink, const SaggSinkRows *rows, int64 batch);
extern void sagg_delivery_close(void *sink);

/*
 * What the handler of a kind's foreign-data wrapper returns (read/scan/fdw.c).
 */
extern FdwRoutine *sagg_source_routine(const SaggSourceKind *kind);

/*
 * What a kind may use of read/: options of foreign tables (source_info.c), and
 * those of sources whose records have a format (source_options.c).
 */
extern char *sagg_find_option(List *options, const char *name);
extern List *sagg_mapping_options(Oid server, Oid user);
extern void sagg_check_source_option(const char *name, const char *value);
extern void sagg_check_source_options(List *options);
extern void sagg_check_column_options(List *options);
extern bool sagg_value_has_userinfo(const char *value);

/* source_topics.c */
extern bool sagg_topic_matches(const char *name, const char *pattern);
extern bool sagg_topics_include(const SaggTopics *topics, const char *name);

#endif							/* SAGG_SOURCE_H */
