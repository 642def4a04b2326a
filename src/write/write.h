/*-------------------------------------------------------------------------
 *
 * write.h
 *	  Stage 3, WRITE: writes a batch's output rows into the sink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WRITE_H
#define SAGG_WRITE_H

#include "stream_agg.h"

#include "utils/tuplestore.h"

/* a stream's sink, of whatever kind, while a session is open */
typedef struct SaggSink SaggSink;

/* sink_table.c */
extern const SaggSinkKind sagg_table_sink;

/* sink_make.c */
extern Oid	sagg_sink_make(Oid namespaceId, const char *relname,
						   const SaggQuery *query, SaggOutputMode mode);

/* sink_check.c */
extern void sagg_sink_check(Oid sink, const SaggQuery *query,
							SaggOutputMode mode);

/* sink_alter.c */
extern void sagg_sink_add_column(Oid sink, Form_pg_attribute att);
extern void sagg_sink_rename_column(Oid sink, const char *name, const char *new_name);
extern void sagg_sink_drop_column(Oid sink, const char *name);

/* sink_retention.c */
extern void sagg_sink_check_retention(Oid sink, const SaggQuery *query,
									  SaggOutputMode mode);
pg_noreturn extern void sagg_sink_reject_retention(void);
extern int64 sagg_sink_leave_out(const SaggQuery *query, SaggOutput *output, int64 before);
extern void sagg_sink_prepare(SaggSink *sink, const SaggQuery *query, int64 until,
							  const SaggOutput *output);
extern int64 sagg_sink_expire(SaggSink *sink, const SaggQuery *query, int64 before,
							  int64 max_rows);

/* sink_partitions.c */
extern List *sagg_sink_expired_partitions(const SaggSink *sink, const SaggQuery *query,
										  int64 before);
extern void sagg_sink_drop_partitions(SaggSink *sink, const List *partitions);

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

/* sink_commit.c: a sink with a commit of its own follows the transaction */
extern bool sagg_sink_is_transactional(const SaggSink *sink);
extern void sagg_sink_recover(SaggSink *sink, int64 last);
extern void sagg_sink_settle(const SaggStream *stream, int64 last);
extern void sagg_sink_begin(SaggSink *sink, const SaggQuery *query, int64 batch);
extern void sagg_sink_end(SaggSink *sink);
extern void sagg_sink_prepare_commit(SaggSink *sink);
extern void sagg_sink_committing(SaggSink *sink);
extern void sagg_sink_committed(SaggSink *sink);
extern void sagg_sink_aborted(SaggSink *sink);

/* sink_replaced.c */
extern int64 sagg_sink_count(const SaggStream *stream, const SaggQuery *query,
							 TimestampTz from, TimestampTz to, int64 *first);

/* rows of a sink by their window */
typedef struct SaggSinkWindow
{
	bool		known;			/* the window is known */
	int64		told;			/* by the column that identifies it, start or
								 * end; of a range the start */
	int64		end;			/* end of a range, DT_NOEND = there is none */
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
