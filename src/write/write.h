/*-------------------------------------------------------------------------
 *
 * write.h
 *	  Stage 3, WRITE: a batch's output rows into the sink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WRITE_H
#define SAGG_WRITE_H

#include "stream_agg.h"

#include "utils/tuplestore.h"

typedef struct SaggSink SaggSink;

/* sink_make.c */
extern Oid	sagg_sink_make(Oid namespaceId, const char *relname,
						   const SaggQuery *query, SaggOutputMode mode);

/* sink_check.c */
extern void sagg_sink_check(Oid sink, const SaggQuery *query,
							SaggOutputMode mode, bool foreign);
extern AttrNumber *sagg_sink_identity(Oid sink, const SaggQuery *query);

/* sink_alter.c */
extern void sagg_sink_add_column(Oid sink, Form_pg_attribute att);
extern void sagg_sink_rename_column(Oid sink, const char *name, const char *new_name);
extern void sagg_sink_drop_column(Oid sink, const char *name);

/* sink_retention.c */
extern void sagg_sink_check_retention(Oid sink, const SaggQuery *query,
									  SaggOutputMode mode);
extern int64 sagg_sink_leave_out(const SaggQuery *query, SaggOutput *output, int64 before);
extern void sagg_sink_prepare(SaggSink *sink, const SaggQuery *query, int64 until);
extern int64 sagg_sink_expire(SaggSink *sink, const SaggQuery *query, int64 before,
							  int64 max_rows);

/* sink_fill.c */
extern int64 sagg_sink_fill(const SaggStream *stream, const SaggQuery *query,
							const SaggOutput *output, List *columns);

/* sink_index.c */
extern Size sagg_sink_max_key_bytes(Oid sink, const SaggQuery *query);

/* sink_write.c */
extern SaggSink *sagg_sink_open(const SaggStream *stream);
extern void sagg_sink_write(SaggSink *sink, const SaggQuery *query,
							const SaggOutput *output,
							int64 *rows_out, int64 *rows_removed);
extern void sagg_sink_close(SaggSink *sink);
extern int64 sagg_sink_count(const SaggStream *stream, const SaggQuery *query,
							 TimestampTz from, TimestampTz to, int64 *first);

/* rows of a sink by their window */
typedef struct SaggSinkWindow
{
	bool		known;			/* the rows tell one */
	int64		told;			/* by the column that tells it, start or end;
								 * of a range the start */
	int64		end;			/* of a range, DT_NOEND = none is there */
	int64		rows;
} SaggSinkWindow;

extern SaggSinkWindow *sagg_sink_windows(const SaggStream *stream, const SaggQuery *query,
										 TimestampTz from, int64 *n);
extern void sagg_sink_replaced(const SaggStream *stream, const SaggQuery *query,
							   TimestampTz replaces, Tuplestorestate *result,
							   TupleDesc desc);

/* sink_repair.c */
extern void sagg_sink_repair(SaggSink *sink, const SaggQuery *query,
							 Tuplestorestate *rows, AttrNumber window,
							 Datum windows);

#endif							/* SAGG_WRITE_H */
