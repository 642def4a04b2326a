/*-------------------------------------------------------------------------
 *
 * write_internal.h
 *	  What the files of write/ share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WRITE_INTERNAL_H
#define SAGG_WRITE_INTERNAL_H

#include "sink_kinds.h"
#include "write/write.h"

#include "catalog/pg_attribute.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/queryenvironment.h"
#include "utils/relcache.h"

/* The statements that put rows into a sink; see sink_put.c. */
typedef enum SinkStatement
{
	SINK_INSERT,
	SINK_UPSERT,
	SINK_UPDATE
} SinkStatement;

#define SINK_STATEMENTS (SINK_UPDATE + 1)

typedef struct SinkPlan
{
	MemoryContext context;		/* holds the next two */
	char	   *text;
	TupleDesc	desc;			/* type of batch_output */
	SPIPlanPtr	plan;			/* kept plan, or NULL */
} SinkPlan;

/* How far a micro-batch has come, for the kind of the sink. */
typedef enum SinkPhase
{
	SINK_IDLE,					/* there is none */
	SINK_WRITING,				/* it can still be rolled back */
	SINK_COMMITTING				/* only the logs say whether it committed */
} SinkPhase;

struct SaggSink
{
	MemoryContext context;		/* holds this struct */
	char	   *stream;			/* name for messages */
	Oid			relid;
	SaggOutputMode mode;
	const SaggSinkKind *kind;
	void	   *opened;			/* allocated by the kind, or NULL */
	SinkPhase	phase;
	MemoryContext batch_memory; /* for the kind, while there is a batch */
	SaggSinkRows rows;			/* rows of the batch, for a kind with "begin" */
	SinkPlan	plans[SINK_STATEMENTS];
	bool		surprised;		/* rows were missing that it should have had */
	bool		one_by_one;		/* a partition does not take several rows at
								 * once */
};

/* What the index that identifies a row has in place of its window. */
typedef enum SinkWindowKey
{
	SINK_WINDOW_ITSELF,			/* the column, or there is no window */
	SINK_WINDOW_START,			/* lower() of the column */
	SINK_WINDOW_BOUNDS			/* lower() and upper() of it */
} SinkWindowKey;

/* A part of the order in which rows are written. */
typedef struct SinkSortKey
{
	AttrNumber	attno;			/* column of the output */
	SaggWindowPart part;		/* itself, or a bound of the range */
	Oid			oper;			/* "less than", or "greater than" */
	Oid			collation;
	bool		nulls_first;
} SinkSortKey;

/* The index that holds the identity of the rows; see sink_identity.c. */
typedef struct SinkIdentity
{
	bool		indexed;		/* there is one */
	SinkWindowKey window;
	int			norder;			/* its order, as far as rows of the output
								 * have it */
	SinkSortKey *order;
} SinkIdentity;

/* A batch's use of a sink. */
typedef struct SinkBatch
{
	SaggSink   *sink;
	const SaggQuery *query;
	TupleDesc	desc;			/* type of the rows to write: the output's
								 * columns */
	Relation	rel;
	AttrNumber *columns;		/* columns of rel, by column of the output */
	SinkIdentity identity;
	char	   *name;			/* name of rel, qualified and quoted */
} SinkBatch;

/* A check whether a sink can take the results of a query; see sink_check.c. */
typedef struct SinkCheck
{
	Relation	rel;
	const SaggQuery *query;
	SaggOutputMode mode;
	bool		transactional;	/* whether it must be a table, not a foreign
								 * one */
	bool		running;		/* whether a batch checks */
	AttrNumber *columns;		/* of rel, by column of the output */
	SinkIdentity identity;
} SinkCheck;

/* error code and hint of a check: a running stream found a change */
#define SINK_ERRCODE(check, code) \
	errcode((check)->running ? ERRCODE_SAGG_DEFINITION_CHANGED : (code))
#define SINK_ERRHINT(check, ...) \
	((check)->running ? \
	 errhint("Undo the change of the table and start the stream, or drop the stream and create it again.") : \
	 errhint(__VA_ARGS__))

/* sink_make.c */
extern void sagg_sink_check_schema(Oid namespaceId, const char *relname);

/* sink_write.c */
extern void sagg_sink_batch_open(SinkBatch *batch, bool running);

/* sink_check.c */
extern Relation sagg_sink_lock(Oid sink, const SaggQuery *query,
							   SaggOutputMode mode, const SaggSinkKind *kind,
							   bool running, AttrNumber **columns,
							   SinkIdentity *identity);
extern void sagg_sink_check_privileges(Oid sink, SaggOutputMode mode,
									   const SaggSinkKind *kind);

/* sink_identity.c */
extern bool sagg_sink_window_is_range(const SaggQuery *query);
extern char *sagg_sink_index_list(const SaggQuery *query);
extern char *sagg_sink_conflict_list(const SinkBatch *batch);
extern void sagg_sink_check_identity(SinkCheck *check);
extern void sagg_sink_find_order(SinkCheck *check);
extern void sagg_sink_check_unique_indexes(const SinkCheck *check);

/*
 * In texts: two values are null.  Not IS NULL, which composite values of nulls are, too.
 */
#define SINK_BOTH_NULL(a, b) \
	a " IS NOT DISTINCT FROM NULL AND " b " IS NOT DISTINCT FROM NULL"

/* sink_rows.c */
extern void sagg_enr_register(EphemeralNamedRelation enr, char *name,
							  TupleDesc desc, Tuplestorestate *rows,
							  double estimate);
extern void sagg_enr_unregister(const char *name);
extern void sagg_sink_append_equality(StringInfo buf, Form_pg_attribute att,
									  const char *left, const char *right);
extern void sagg_sink_append_collation(StringInfo buf, Oid collation);
extern TupleDesc sagg_sink_identity_desc(const SinkBatch *batch);

extern const char *sagg_sink_column(TupleDesc desc, AttrNumber attno);
extern void sagg_sink_append_match(StringInfo buf, const SinkBatch *batch, int i);

/* sink_plan.c */
extern SPIPlanPtr sagg_sink_plan(SaggSink *sink, SinkStatement statement,
								 const char *text, TupleDesc desc);
extern void sagg_sink_plan_forget(SinkPlan *kept);

/* sink_sort.c */
extern Tuplestorestate *sagg_sink_sort(const SinkBatch *batch, Tuplestorestate *rows);

/* sink_multi_insert.c */
extern bool sagg_sink_takes_several(const SinkBatch *batch);
extern int64 sagg_sink_multi_insert(SinkBatch *batch, SPIPlanPtr plan, const char *text,
									EphemeralNamedRelation rows);

/* sink_put.c */
extern int64 sagg_sink_put(SinkBatch *batch, Tuplestorestate *fresh,
						   Tuplestorestate *known);

/* sink_replaced.c */
extern char *sagg_sink_row_time(const SinkBatch *batch, const char *alias);
extern char *sagg_sink_replaced_rows(const SinkBatch *batch, TimestampTz replaces);

/* sink_window.c */
extern bool sagg_sink_has_windows(Relation rel, const SaggQuery *query,
								  AttrNumber column, bool exact);
extern void sagg_sink_check_windows(Relation rel, const SaggQuery *query,
									AttrNumber column, bool exact, int code);

/* sink_delete.c */
extern List *sagg_sink_null_patterns(Tuplestorestate *rows, TupleDesc desc,
									 const AttrNumber *columns, int ncolumns);
extern void sagg_sink_append_identity(StringInfo buf, const SinkBatch *batch,
									  const Bitmapset *nulls);
extern int64 sagg_sink_delete(SinkBatch *batch, Tuplestorestate *removed);

/* sink_partitions.c */
extern void sagg_sink_check_partitions(Relation rel, const SaggQuery *query,
									   AttrNumber column);
extern void sagg_sink_make_partitions(SinkBatch *batch, int64 until,
									  const SaggOutput *output);

/* sink_complete.c */
extern void sagg_sink_difference(SinkBatch *batch, Tuplestorestate *result,
								 SaggOutput *difference);

#endif							/* SAGG_WRITE_INTERNAL_H */
