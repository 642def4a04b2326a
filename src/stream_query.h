/*-------------------------------------------------------------------------
 *
 * stream_query.h
 *	  The analysed query of a stream: a part of stream_agg.h, which includes it.
 *
 * define/ makes a SaggQuery in every micro-batch, execute/ and write/ use it;
 * it holds no state.
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

/*
 * The analysed query of a stream (define/ makes it, execute/ and write/ use
 * it).  Column numbers count from 1.
 */
typedef enum SaggWindowKind
{
	SAGG_WINDOW_NONE,			/* grouping by keys alone */
	SAGG_WINDOW_TUMBLE,
	SAGG_WINDOW_HOP,			/* sliding: a record falls into several, or in
								 * the gap between two into none */
	SAGG_WINDOW_SESSION,		/* as long as there are records */
	SAGG_WINDOW_CALENDAR		/* of units of time by the clocks of a zone */
} SaggWindowKind;

/* windows that are put together from states of several groups of records */
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
	bool		shown;			/* a time is in the window that clocks show, as
								 * for date_trunc */
} SaggCalendar;

typedef struct SaggWindow
{
	SaggWindowKind kind;
	int64		size;			/* microseconds */
	int64		origin;			/* microseconds since 2000-01-01, as a
								 * TimestampTz; windows start at origin + n *
								 * size, those of hop at origin + n * slide */
	Oid			type;			/* of the window column: TSTZRANGEOID for
								 * tumble; TIMESTAMPTZOID or TIMESTAMPOID (its
								 * start) for date_bin and date_trunc; DATEOID
								 * (the day of that) for casts to date */
	int64		slide;			/* of hop; else the size */
	bool		panes;			/* of hop: groups are kept by pane and combined
								 * when a window is given out; see
								 * execute/windows.c */
	int64		gap;			/* of sessions, microseconds; 0 = the record's */
	AttrNumber	gap_column;		/* of the inner query's rows, an interval, with
								 * gap 0 */
	SaggCalendar calendar;		/* of SAGG_WINDOW_CALENDAR, whose size is about
								 * right only; its zone also of type DATEOID */
} SaggWindow;

typedef struct SaggKey
{
	AttrNumber	attno;			/* column of the inner query's rows */
	char	   *name;			/* for messages */
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			eqop;			/* equality operator of the GROUP BY */
} SaggKey;

/*
 * What stored bytes are, as a digest: the same one only if they can be read as
 * they were written by this server.  Two of them are compared by memcmp.
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
								 * aggref->args, with what it sorts by */
	AttrNumber	filter;			/* boolean column of FILTER, or 0 */
	bool		keeps_inputs;	/* its state is its inputs */
	int			inputs;			/* number of the aggregate that keeps them: its
								 * own, or a lesser one */
	bool		shares_inputs;	/* it is another's */
	List	   *direct_args;	/* over the columns of the groups */
	SaggIdentity identity;		/* of its definition and its state, by OID */
} SaggAgg;

/* What a query makes of its rows. */
typedef enum SaggQueryKind
{
	SAGG_AGGREGATION,			/* groups */
	SAGG_ROWS,					/* rows of the sink, as they are */
	SAGG_DEDUPLICATION			/* the same, but one only of those with equal
								 * keys */
} SaggQueryKind;

typedef struct SaggQuery
{
	List	   *sources;		/* OIDs of the foreign tables, each once */

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
								 * GROUP BY that is none; NULL = there is none */
	int			nkeys;
	SaggKey    *keys;			/* without the window */
	int			naggs;
	SaggAgg    *aggs;

	/*
	 * Rows of groups: [window,] keys, final values of the aggregates.  They
	 * are fed to "outer" and "removed" as the ephemeral relation
	 * SAGG_ENR_GROUPS.
	 */
	TupleDesc	groups_desc;
	Query	   *outer;			/* select list and HAVING over the groups;
								 * yields the sink's columns */
	Query	   *removed;		/* identity columns of the groups that do not
								 * pass HAVING; NULL without HAVING */
	Query	   *replaced;		/* identity columns of any groups; NULL unless
								 * the window can change: sessions */
	TupleDesc	output_desc;	/* of outer: the sink's columns by name */
	AttrNumber	window_output;	/* column of output_desc that tells the window,
								 * the first if there are more; 0 = none */
	SaggWindowPart window_identity; /* what it has of the window */

	/*
	 * Columns of output_desc that identify a row (window and keys).  When the
	 * select list omits one, missing_key tells its expression and the
	 * identity is not usable.
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

	uint64		store_fingerprint;	/* the same for shared memory, whose layout
									 * may depend on the watermark's delay */
	SaggIdentity state_identity;	/* of all that by OID as well: state in memory
								 * is of this server's present types */
	SaggQueryKind kind;
	AttrNumber	first_output;	/* without aggregation: of the columns of "inner"
								 * that are those of output_desc; "keys" are of
								 * DISTINCT ON, and there are no groups */
	bool		single_row;		/* aggregates without GROUP BY: one group, which
								 * is there even for no rows */
} SaggQuery;

/*
 * Is a column of output_desc one of those that identify a row?
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
