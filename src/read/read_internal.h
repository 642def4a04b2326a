/*-------------------------------------------------------------------------
 *
 * read_internal.h
 *	  What the files of read/ ask of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_READ_INTERNAL_H
#define SAGG_READ_INTERNAL_H

#include "read/read.h"

#include <librdkafka/rdkafka.h>

#include "foreign/fdwapi.h"
#include "nodes/bitmapset.h"
#include "read/format/decode.h"
#include "kafka/source_topics.h"
#include "utils/rel.h"

/*
 * client_conf.c: a client's configuration from the options of the source's
 * server and of the current user's mapping.  Reads catalogs.  The caller owns
 * the result: rd_kafka_new takes it, else rd_kafka_conf_destroy.
 */
extern rd_kafka_conf_t *sagg_client_conf(Oid source);
extern List *sagg_mapping_options(Oid server, Oid user);

/* source_info.c */
extern char *sagg_find_option(List *options, const char *name);
extern bool sagg_metadata_kind(const char *word, SaggFieldKind *kind);
extern void sagg_check_metadata_type(SaggFieldKind kind, const char *word,
									 Form_pg_attribute att);
extern bool sagg_source_has_headers(Oid relid);

/*
 * foreign_text.c: what others send.  A text of a message has less than
 * SAGG_FOREIGN_TEXT bytes.
 */
#define SAGG_FOREIGN_TEXT		256

extern char *sagg_foreign_text(const char *text);
extern void sagg_foreign_text_clean(char *text);
extern void sagg_check_cluster_id(const char *id);
extern void sagg_check_topic_name(const char *name);

/*
 * source_layout.c: where each column of a source comes from, one SaggField per
 * attribute.  "used" holds the attribute numbers that are read (NULL: all);
 * the others are SAGG_FIELD_UNUSED.  Allocated in the current context.
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
extern void sagg_check_source_option(const char *name, const char *value);
extern void sagg_check_source_options(List *options);
extern void sagg_check_column_options(List *options);

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

/*
 * batch.c, batch_cursor.c: the records of a batch.  Messages are taken over by
 * sagg_batch_add, which copies and destroys them.
 */
typedef struct SaggRecord
{
	int32		topic;
	int32		partition;
	int64		offset;
	int64		timestamp_ms;	/* of the message, -1 = none */
	const char *key;			/* NULL = none */
	Size		key_len;
	const char *payload;		/* NULL = tombstone */
	Size		payload_len;
	rd_kafka_headers_t *headers;	/* NULL = none */
	bool		headers_unreadable; /* there may be some, which cannot be read */
} SaggRecord;

typedef struct SaggBatchCursor SaggBatchCursor;

extern SaggBatch *sagg_batch_create(bool headers);
extern bool sagg_batch_usable(const SaggBatch *batch);
extern void sagg_batch_keep_headers(SaggBatch *batch);
extern bool sagg_batch_keeps_headers(const SaggBatch *batch);
extern void sagg_batch_add(SaggBatch *batch, int32 topic,
						   rd_kafka_message_t *message);
extern void sagg_batch_reset(SaggBatch *batch);
extern void sagg_batch_destroy(SaggBatch *batch);
extern SaggBatchCursor *sagg_batch_open(SaggBatch *batch, bool want_headers);
extern bool sagg_batch_next(SaggBatchCursor *cursor, SaggRecord *record);
extern void sagg_batch_rewind(SaggBatchCursor *cursor);
extern void sagg_batch_end(SaggBatchCursor *cursor);

#endif							/* SAGG_READ_INTERNAL_H */
