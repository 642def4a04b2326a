/*-------------------------------------------------------------------------
 *
 * read_internal.h
 *	  What the files of read/ share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_READ_INTERNAL_H
#define SAGG_READ_INTERNAL_H

#include "read/read.h"

#include "nodes/bitmapset.h"
#include "read/batch/batch.h"
#include "read/format/decode.h"
#include "utils/rel.h"

/* source_info.c */
extern bool sagg_metadata_kind(const char *word, SaggFieldKind *kind);
extern void sagg_check_metadata_type(SaggFieldKind kind, const char *word,
									 Form_pg_attribute att);
extern bool sagg_source_has_headers(Oid relid);

/*
 * source_layout.c: the origin of each column of a source, one SaggField per
 * attribute. "used" holds the attribute numbers that are read (NULL: all); the
 * others are SAGG_FIELD_UNUSED.  Allocated in the current context.
 */
extern SaggLayout *sagg_source_layout(Relation rel, const Bitmapset *used);
extern struct SaggRegistry *sagg_source_registry(Oid relid, Oid user);

/* source_options.c */
extern const SaggFormat *sagg_format_by_name(const char *name);
extern char **sagg_path_parse(const char *option, const char *path_text,
							  int *npath);
extern bool sagg_unit_by_name(const char *word, SaggUnit *unit);
extern bool sagg_tombstones_by_name(const char *word, SaggTombstones *tombstones);
extern bool sagg_scan_errors_by_name(const char *word, SaggScanErrors *errors);

/*
 * fdw_plan.c to fdw_scan.c: ForeignScan.fdw_private is a list of two integer
 * lists.  The first holds the attribute numbers read.  The second holds a pair
 * per pushed-down condition, SaggFieldKind (TOPIC, PARTITION, OFFSET or TIMESTAMP) and
 * btree strategy number; "column <op> expression", the expression being the
 * element of fdw_exprs at the same position, of type bigint.  Of topics the
 * operator is =, and the type text; or it is SAGG_STRATEGY_ANY, and text[].  Of
 * timestamps it is >=, > or =, and timestamptz.  A NULL value: no rows.
 * fdw_recheck_quals are conditions on metadata, tested before decoding.
 */
#define SAGG_STRATEGY_ANY		0


enum SaggScanPrivate
{
	SAGG_SCAN_ATTRIBUTES,
	SAGG_SCAN_BOUNDS
};

extern void sagg_get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid relid);
extern void sagg_get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid relid);
extern ForeignScan *sagg_get_plan(PlannerInfo *root, RelOptInfo *baserel,
								  Oid relid, ForeignPath *path, List *tlist,
								  List *clauses, Plan *outer_plan);
extern void sagg_explain_topics(Oid source, struct ExplainState *es);
extern void sagg_explain_scan(ForeignScanState *node, struct ExplainState *es);

/* fdw_scan.c */
extern void sagg_begin_scan(ForeignScanState *node, int eflags);
extern TupleTableSlot *sagg_iterate_scan(ForeignScanState *node);
extern void sagg_rescan(ForeignScanState *node);
extern bool sagg_scan_attached(Oid source, int64 *records);
extern void sagg_end_scan(ForeignScanState *node);

/* source_kinds.c */
extern void sagg_source_kind_add(const SaggSourceKind *kind);
extern void sagg_source_handled(const SaggSourceKind *kind, const FdwRoutine *routine);
extern const SaggSourceKind *sagg_kind_of_source(Oid source);
extern const SaggSourceProducer *sagg_source_producer(Oid source);
extern SaggTopics *sagg_source_topics(Oid relid);

/* source_topics.c */
extern SaggTopics *sagg_sources_topics(List *sources);

/* sample_names.c */
extern bool sagg_name_is_plain(const char *name, int len);
extern char *sagg_column_name(List *path, List **taken);

#endif							/* SAGG_READ_INTERNAL_H */
