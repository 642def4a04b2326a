/*-------------------------------------------------------------------------
 *
 * write_internal.h
 *	  What the files of write/ ask of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WRITE_INTERNAL_H
#define SAGG_WRITE_INTERNAL_H

#include "write/write.h"

#include "catalog/pg_attribute.h"
#include "lib/stringinfo.h"
#include "utils/queryenvironment.h"
#include "utils/relcache.h"

/* A batch's use of a sink. */
typedef struct SinkBatch
{
	SaggSink   *sink;
	const SaggQuery *query;
	TupleDesc	desc;			/* of the rows to write: the output's columns */
	Relation	rel;
	AttrNumber *columns;		/* of rel, by column of the output */
	char	   *name;			/* of rel, qualified and quoted */
} SinkBatch;

/* sink_make.c */
extern void sagg_sink_check_schema(Oid namespaceId, const char *relname);

/* sink_check.c */
extern Relation sagg_sink_lock(Oid sink, const SaggQuery *query,
							   SaggOutputMode mode, bool running,
							   AttrNumber **columns);
extern char *sagg_sink_identity_list(const SaggQuery *query);

/* sink_rows.c */
extern void sagg_sink_register(EphemeralNamedRelation enr, char *name,
							   TupleDesc desc, Tuplestorestate *rows,
							   double estimate);
extern void sagg_sink_unregister(const char *name);
extern void sagg_sink_append_equality(StringInfo buf, Form_pg_attribute att,
									  const char *left, const char *right);
extern void sagg_sink_append_collation(StringInfo buf, Oid collation);
extern TupleDesc sagg_sink_identity_desc(const SinkBatch *batch);

/* sink_complete.c */
extern void sagg_sink_difference(SinkBatch *batch, Tuplestorestate *output,
								 Tuplestorestate **changed,
								 Tuplestorestate **removed);

#endif							/* SAGG_WRITE_INTERNAL_H */
