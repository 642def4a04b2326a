/*-------------------------------------------------------------------------
 *
 * shared_rows.h
 *	  The rows that are kept of a batch that is read for several streams, or
 *	  several times by one, for shared_rows.c and shared_scan.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SHARED_ROWS_H
#define SAGG_SHARED_ROWS_H

#include "postgres.h"

#include "pgtime.h"

#include "scan_internal.h"

#define SAGG_BLOCK_ROWS		1024

/* What is known about a row. */
enum
{
	SAGG_ROW_UNKNOWN,
	SAGG_ROW_GOOD,
	SAGG_ROW_LEFT_OUT
};

/* What is known about a value. */
enum
{
	SAGG_CELL_UNKNOWN,
	SAGG_CELL_NULL,
	SAGG_CELL_VALUE,
	SAGG_CELL_OF_SETTINGS		/* a value that depends on the store's
								 * settings */
};

/* A column's part of a block. */
typedef struct SaggCells
{
	uint8		states[SAGG_BLOCK_ROWS];
	Datum		values[SAGG_BLOCK_ROWS];
} SaggCells;

/* Rows of consecutive numbers. */
typedef struct SaggRowBlock
{
	uint8		rows[SAGG_BLOCK_ROWS];
	SaggPlace	places[SAGG_BLOCK_ROWS];
	SaggCells  *columns[FLEXIBLE_ARRAY_MEMBER]; /* by attribute; NULL = all
												 * unknown */
} SaggRowBlock;

/* Whether values of a column that were converted the long way may be kept. */
typedef enum SaggKeep
{
	SAGG_KEEP_NOT_LOOKED_UP,
	SAGG_KEEP_NEVER,
	SAGG_KEEP_ALWAYS,
	SAGG_KEEP_OF_SETTINGS
} SaggKeep;

/* The meaning of the text of a date or time depends on these. */
typedef struct SaggRowSettings
{
	pg_tz	   *timezone;
	int			date_order;
	int			interval_style;
} SaggRowSettings;

typedef struct SaggRowColumn
{
	SaggKeep	keep;
	bool		byval;
	int16		len;
} SaggRowColumn;

/* Everything that is kept of a batch. */
typedef struct SaggSharedRows
{
	MemoryContext memory;
	Size		bytes;			/* in use */
	bool		full;			/* memory is used up, nothing more is kept */
	const SaggBatch *batch;		/* whose rows they are */
	int64		records;
	int64		nblocks;
	List	   *stores;
	char	   *chunk;			/* block for by-reference values */
	Size		left;			/* bytes left in it */
	int			nscans;			/* scans that have ended, and */
	int64		ndecoded;		/* records that they have decoded */
} SaggSharedRows;

/* What is kept of the records of a source. */
typedef struct SaggRowStore
{
	SaggSharedRows *rows;
	Oid			source;
	bool		stale;			/* the source has changed since then */
	bool		read;			/* a scan has begun */
	bool		has_settings;
	SaggRowSettings settings;	/* settings of all SAGG_CELL_OF_SETTINGS */
	int			natts;
	SaggRowColumn *columns;		/* by attribute */
	SaggRowBlock **blocks;		/* NULL = nothing is known */
} SaggRowStore;

/* shared_rows.c */
extern SaggRowStore *sagg_shared_store(Relation rel);
extern void *sagg_shared_memory(SaggSharedRows *rows, Size size);
extern bool sagg_shared_copy(SaggSharedRows *rows, int16 len, Datum value,
							 Datum *copy);
extern Bitmapset *sagg_shared_interest(Oid source, const Bitmapset *used);

#endif							/* SAGG_SHARED_ROWS_H */
