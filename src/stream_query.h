/*-------------------------------------------------------------------------
 *
 * stream_query.h
 *	  The analysed query of a stream: a part of stream_agg.h, which includes it.
 *
 * define/ makes a SaggQuery, execute/ and write/ use it.  A worker keeps it until the
 * catalogs change (define/kept_query.c), so nobody changes it; but execute/ keeps
 * plans in it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef STREAM_QUERY_H
#define STREAM_QUERY_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"

/* How event time is divided into windows. */
typedef enum SaggWindowKind
{
	SAGG_WINDOW_NONE,			/* grouping by keys alone */
	SAGG_WINDOW_TUMBLE,
	SAGG_WINDOW_HOP,			/* sliding: a record falls into several
								 * windows or, in a gap between two, into none */
	SAGG_WINDOW_SESSION,		/* sessions: as long as there are records */
	SAGG_WINDOW_CALENDAR		/* units of time by the clocks of a zone */
} SaggWindowKind;

/* windows that are made of the states of several groups of records */
#define SAGG_WINDOW_COMBINES(window) \
	((window)->panes || (window)->kind == SAGG_WINDOW_SESSION)

/* What a column has of the window. */
typedef enum SaggWindowPart
{
	SAGG_WINDOW_WHOLE,
	SAGG_WINDOW_START,
	SAGG_WINDOW_END
} SaggWindowPart;

/* Windows by the clocks of a time zone; see calendar.c. */
typedef struct SaggCalendar
{
	struct pg_tz *zone;
	int32		months;			/* one of these three is greater than zero */
	int32		days;
	int64		clock;			/* microseconds, a divisor of a day */
	int64		origin;			/* local time, microseconds since 2000-01-01 */
	bool		shown;			/* a time is in the window that clocks show,
								 * as for date_trunc */
} SaggCalendar;

typedef struct SaggWindow
{
	SaggWindowKind kind;
	int64		size;			/* microseconds */
	int64		origin;			/* microseconds since 2000-01-01, as a
								 * TimestampTz; windows start at origin + n *
								 * size, those of hop at origin + n * slide */
	Oid			type;			/* type of the window column: TSTZRANGEOID for
								 * tumble; TIMESTAMPTZOID or TIMESTAMPOID (its
								 * start) for date_bin and date_trunc; DATEOID
								 * (the day of that) for casts to date */
	int64		slide;			/* of hop; otherwise the size */
	bool		panes;			/* of hop: groups are kept by pane and
								 * combined when a window is emitted; see
								 * execute/window/windows.c */
	int64		gap;			/* gap of sessions, microseconds; 0 = the
								 * record's own */
	AttrNumber	gap_column;		/* column of the inner query's rows with the
								 * gap, an interval, if gap is 0 */
	SaggCalendar calendar;		/* of SAGG_WINDOW_CALENDAR, whose size is only
								 * approximate; its zone is also that of type
								 * DATEOID */
} SaggWindow;

typedef struct SaggKey
{
	AttrNumber	attno;			/* column of the inner query's rows */
	char	   *name;			/* name for messages */
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			eqop;			/* equality operator of the GROUP BY */
} SaggKey;

/*
 * Digest of the form of stored bytes: equal only if they can be read by this
 * server as they were written.  Compared by memcmp.
 */
#define SAGG_IDENTITY_BYTES		32

typedef struct SaggIdentity
{
	uint8		digest[SAGG_IDENTITY_BYTES];
} SaggIdentity;

typedef struct SaggAgg
{
	Aggref	   *aggref;			/* as PostgreSQL analysed it */
	int			nargs;
	AttrNumber *args;			/* columns of the inner query's rows: those of
								 * aggref->args, including what it sorts by */
	AttrNumber	filter;			/* boolean column of FILTER, or 0 */
	bool		keeps_inputs;	/* its state consists of its inputs */
	int			inputs;			/* number of the aggregate that keeps them:
								 * its own, or a smaller one */
	bool		shares_inputs;	/* another aggregate has its state */
	List	   *direct_args;	/* expressions over the columns of the groups */
	SaggIdentity identity;		/* digest of its definition and its state, by
								 * OID */
} SaggAgg;

/* What a query makes of its rows. */
typedef enum SaggQueryKind
{
	SAGG_AGGREGATION,			/* groups */
	SAGG_ROWS,					/* rows of the sink, unchanged */
	SAGG_DEDUPLICATION			/* rows of the sink, but only one of those
								 * with equal keys */
} SaggQueryKind;

/*
 * The analysed query of a stream (define/ makes it, execute/ and write/ use
 * it).  Column numbers count from 1.
 */
typedef struct SaggQuery
{
	List	   *sources;		/* OIDs of the foreign tables, each once */
	bool		repeats_sources;	/* "inner" scans one more than once */

	/*
	 * Rows to aggregate, one column each: event time (timestamptz or
	 * timestamp; a NULL constant when has_event_time is false), keys,
	 * aggregate arguments (guarded by their FILTER), filters, and the
	 * record's number within the batch where joins may repeat it.  Rewritten,
	 * as "outer" and "removed": ready to be planned.
	 */
	Query	   *inner;
	bool		has_event_time;
	AttrNumber	event_time;		/* always 1 */
	AttrNumber	record;			/* column of type tid, or 0; see
								 * SAGG_TID_RECORD */

	SaggWindow	window;
	char	   *window_hint;	/* what would make a window of a date_trunc in
								 * GROUP BY that is not one; NULL = there is
								 * none */
	int			nkeys;
	SaggKey    *keys;			/* keys without the window */
	int			naggs;
	SaggAgg    *aggs;

	/*
	 * Rows of groups: [window,] keys, final values of the aggregates.  They
	 * are fed to "outer" and "removed" as the ephemeral relation
	 * SAGG_ENR_GROUPS.
	 */
	TupleDesc	groups_desc;
	Query	   *outer;			/* query of the select list and HAVING over
								 * the groups; yields the sink's columns */
	Query	   *removed;		/* query for identity columns of the groups
								 * that do not pass HAVING; NULL without
								 * HAVING */
	Query	   *replaced;		/* query for identity columns of any groups;
								 * NULL unless the window can change: sessions */
	TupleDesc	output_desc;	/* row type of outer: the sink's columns by
								 * name */
	AttrNumber	window_output;	/* column of output_desc that identifies the
								 * window, the first if there are several; 0 =
								 * none */
	SaggWindowPart window_identity; /* what that column has of the window */

	/*
	 * Columns of output_desc that identify a row (window and keys).  When the
	 * select list omits one, missing_key has its expression and the identity
	 * is not usable.
	 */
	int			nidentity;
	AttrNumber *identity;
	char	   *missing_key;

	/*
	 * Changes whenever stored state could no longer be read as it was
	 * written: types and collations of keys by name, aggregates, window; see
	 * query_fingerprint.c.
	 */
	uint64		fingerprint;

	uint64		store_fingerprint;	/* fingerprint for shared memory, whose
									 * layout may also depend on the
									 * watermark's delay */
	SaggIdentity state_identity;	/* identity of all that, by OID as well:
									 * state in memory belongs to this
									 * server's present types */
	SaggQueryKind kind;
	AttrNumber	first_output;	/* without aggregation: of the columns of
								 * "inner" that are those of output_desc;
								 * "keys" are of DISTINCT ON, and there are no
								 * groups */
	bool		single_row;		/* aggregates without GROUP BY: one group,
								 * which exists even if there are no rows */
	bool		dealt;			/* set by worker/: its rows come in several
								 * processes, so that states are combined */

	uint64		catalog_changes;	/* sagg_catalog_changes() before the
									 * catalogs were read for it */
	struct SaggKeptPlans *plans;	/* kept with the query, NULL = plans are
									 * made for one use (execute/kept_plans.c) */
} SaggQuery;

/*
 * Returns whether a column of output_desc is one of those that identify a row.
 */
static inline bool
sagg_is_identity(const SaggQuery *query, AttrNumber attno)
{
	for (int i = 0; i < query->nidentity; i++)
	{
		if (query->identity[i] == attno)
			return true;
	}
	return false;
}

#endif							/* STREAM_QUERY_H */
