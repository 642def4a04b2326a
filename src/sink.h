/*-------------------------------------------------------------------------
 *
 * sink.h
 *	  What a kind of sink is: a table of functions that take the rows of
 *	  streams.
 *
 * This header is installed.  A library outside of stream_agg includes kinds.h,
 * fills a SaggSinkKind and registers it from its _PG_init by sagg_sink_register.
 * It needs no other header of stream_agg and is not linked with it.
 *
 * The sink of a stream is a relation, which create_stream takes by name; a kind
 * claims relations by its function is_it.  A library makes a foreign-data
 * wrapper, and users make foreign tables with it.  The wrapper should have a
 * validator or a handler in the library: stream_agg loads the library by it, in
 * whatever process a stream is created or run.
 *
 * A micro-batch
 * -------------
 * The worker of a stream calls, as the stream's owner:
 *
 *		open			once in a session, in a transaction
 *		recover			after it: batches up to "last" are committed, others
 *						are not and never will be as they are
 *		begin			in the transaction of a micro-batch
 *		write			any number of times, also never
 *		prepare			when the stream has done all that can fail; from here
 *						on the rows survive a crash of the server, and nobody
 *						sees them yet
 *		committed		after the COMMIT, outside of a transaction: the rows
 *						are to be seen
 *		aborted			instead, if the transaction has failed and is going to
 *						be rolled back
 *		close			at the end of the session, unless the process ends
 *
 * After any error the session is closed and another one opened.  So "recover"
 * comes before the next batch whenever "committed" or "aborted" has not been
 * called, or has not done its work: the process was killed, the server has
 * crashed, or COMMIT has failed in a way that leaves its outcome unknown.  A
 * kind is exactly once if "recover" finishes what was prepared for batches up to
 * "last" and removes what was prepared for others.
 *
 * reset_stream and alter_stream, which take numbers for themselves, call open,
 * recover and close before they do.
 *
 * Numbers of batches rise, with gaps.  A batch that is retried has the number of
 * the one that has failed, and may have other rows.  Numbers begin at 0 again
 * where a stream has been dropped and created again, and come again after a
 * recovery of the database to a point in time: then there may be rows of batches
 * after "last" that everybody has seen.  What is prepared when a stream is dropped
 * before its next session stays as it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SINK_H
#define SAGG_SINK_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/tuplestore.h"

/* Rises whenever a library has to be compiled again. */
#define SAGG_SINK_API_VERSION	1

typedef enum SaggOutputMode
{
	SAGG_APPEND,				/* a window's rows once, when it closes */
	SAGG_UPDATE,				/* every group a batch touched, upserted */
	SAGG_COMPLETE				/* the sink is made equal to all groups */
} SaggOutputMode;

/*
 * What a batch gives out, from EXECUTE to WRITE: tuplestores made with
 * randomAccess, to be rescanned before they are read.  No identity is in two of
 * them or twice in one.  In mode append all rows are fresh, and have no identity if
 * the query does not aggregate; in mode complete "known" is the whole result.
 */
typedef struct SaggOutput
{
	Tuplestorestate *fresh;		/* rows of groups that the sink should not
								 * have; NULL = none */
	Tuplestorestate *known;		/* of groups that it should have; NULL = none */
	Tuplestorestate *removed;	/* identities, the columns of these alone,
								 * that have to leave the sink; NULL = none */
	TimestampTz replaces;		/* the rows take the place of those in the
								 * sink whose window is not before this;
								 * DT_NOBEGIN = of all, DT_NOEND = of none.
								 * DT_NOEND unless the kind is
								 * SAGG_SINK_TRANSACTIONAL */
} SaggOutput;

/* The stream that writes.  Valid during a call. */
typedef struct SaggSinkStream
{
	const char *name;			/* as stream_agg.streams has it */
	const char *title;			/* as messages have it, without quotes */
	Oid			sink;			/* the relation */
	SaggOutputMode mode;
} SaggSinkStream;

/* Its rows.  Valid during a call, or from begin to prepare. */
typedef struct SaggSinkRows
{
	TupleDesc	desc;			/* names and types of the query's columns */
	const AttrNumber *columns;	/* columns of the relation, by column of desc;
								 * InvalidAttrNumber = there is none, or the
								 * relation is not there yet */
	bool		groups;			/* each is the result of a group */
	int			nidentity;		/* columns that tell which group, window and
								 * keys; 0 = the query has one group or none */
	const AttrNumber *identity; /* columns of desc */
	const char *missing_key;	/* what the query groups by and does not
								 * select, so that "identity" is of no use; or
								 * NULL */
} SaggSinkRows;

/*
 * Rows reach the sink once, whatever fails: the kind has prepare, committed and
 * recover, or is transactional.  Without this flag a stream needs the option
 * delivery => at_least_once.
 */
#define SAGG_SINK_EXACTLY_ONCE	0x0001

/*
 * The sink changes rows that it has: "known" rows take the place of those with
 * the same identity, and "removed" ones go.  Without this flag rows are only
 * added: there is no mode complete, and none of what would remove a row.
 */
#define SAGG_SINK_TAKES_CHANGES	0x0002

/*
 * The rows are in the relation, a table of this server, by the transaction:
 * they can be rolled back, read and deleted by SQL.  Only such a kind has
 * preview of the sink, live views, retention, repair_late and results that are
 * computed again.  It is written by SQL and has no function "write".
 */
#define SAGG_SINK_TRANSACTIONAL	0x0004

typedef struct SaggSinkKind
{
	int			api_version;	/* SAGG_SINK_API_VERSION */
	const char *name;			/* unique among the kinds */
	uint32		flags;

	/* for messages, of the form "Its sink is a Kafka topic" */
	const char *title;			/* with its article */
	const char *noun;			/* without: "topic" */
	const char *rows;			/* what it has, with the article of the title:
								 * "records of a topic" */
	const char *not_exactly_once;	/* a sentence that says why not, or NULL */

	/*
	 * Returns whether the relation is a sink of this kind.  In a transaction;
	 * called for relations of any sort.  Required.
	 */
	bool		(*is_it) (Oid relid);

	/*
	 * Raises an error unless the stream can write such rows.  Flags, columns
	 * and privileges have been looked at.  Called by create_stream and
	 * alter_stream.  May be NULL.
	 */
	void		(*check) (const SaggSinkStream *stream, const SaggSinkRows *rows);

	/*
	 * Returns what the functions below get as "sink".  The current memory
	 * context lives until "close".  May be NULL, and "sink" is NULL then.
	 */
	void	   *(*open) (const SaggSinkStream *stream);

	/*
	 * "last" is the last batch that is committed, -1 = none.  Raises an error
	 * where it cannot do its work, and is called again later.  May be NULL.
	 */
	void		(*recover) (void *sink, int64 last);

	/*
	 * A micro-batch is going to write.  The current memory context, also of
	 * the other functions up to "aborted", lives until the next batch.  May
	 * be NULL.
	 */
	void		(*begin) (void *sink, const SaggSinkRows *rows, int64 batch);

	/*
	 * Takes rows; the tuplestores stay the caller's.  Adds to *rows_out the
	 * rows taken, and to *rows_removed those taken away.  The relation is
	 * locked, and the stream's owner may insert into it.  NULL: SQL
	 * statements put the rows into the relation, of a foreign table one
	 * INSERT per call.
	 */
	void		(*write) (void *sink, const SaggOutput *output,
						  int64 *rows_out, int64 *rows_removed);

	/* See the top of this file.  May be NULL. */
	void		(*prepare) (void *sink);
	void		(*committed) (void *sink);

	/*
	 * These two raise no error and run no SQL.  The first is only a chance to
	 * be quick: "recover" comes after it.  May be NULL.
	 */
	void		(*aborted) (void *sink);
	void		(*close) (void *sink);
} SaggSinkKind;

/* in stream_agg's library; raises an error for another version */
typedef void (*SaggRegisterSinkFn) (const SaggSinkKind *kind);

/*
 * Register a kind, which has to stay as it is until the process ends.  Loads
 * stream_agg if that is not loaded yet.  Raises feature_not_supported if that has
 * another version of this header, duplicate_object if there is a kind of this
 * name.
 */
static inline void
sagg_sink_register(const SaggSinkKind *kind)
{
	SaggRegisterSinkFn fn;

	fn = (SaggRegisterSinkFn) load_external_function("$libdir/stream_agg",
													 "stream_agg_register_sink",
													 true, NULL);
	fn(kind);
}

#endif							/* SAGG_SINK_H */
