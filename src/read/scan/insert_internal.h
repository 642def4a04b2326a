/*-------------------------------------------------------------------------
 *
 * insert_internal.h
 *	  What the files behind INSERT share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_INSERT_INTERNAL_H
#define SAGG_INSERT_INTERNAL_H

#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "read/read_internal.h"

/* record_encode.c */
typedef struct SaggEncoder SaggEncoder;

extern SaggEncoder *sagg_encoder_make(Relation rel);
extern bool sagg_encoder_has_topic(const SaggEncoder *encoder);
extern int	sagg_output_settings(void);
extern void sagg_encoder_encode(SaggEncoder *encoder, TupleTableSlot *slot,
								SaggOutRecord *record);

/* header_encode.c */
extern SaggHeader *sagg_headers_encode(Datum headers, const char *column,
									   int *nheaders);

/* delivery.c */
typedef struct SaggDelivery SaggDelivery;

extern SaggDelivery *sagg_delivery_of(Oid source);
extern SaggProducer *sagg_delivery_producer(SaggDelivery *delivery, Oid user,
											MemoryContext memory);
extern void sagg_delivery_finished(SaggDelivery *delivery);
extern void sagg_delivery_mark(SaggDelivery *delivery, TupleTableSlot *slot,
							   SaggOutRecord *record);

/* fdw_insert.c */
extern List *sagg_plan_modify(PlannerInfo *root, ModifyTable *plan,
							  Index result_relation, int subplan_index);
extern void sagg_begin_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
							  List *fdw_private, int subplan_index, int eflags);
extern void sagg_begin_insert(ModifyTableState *mtstate, ResultRelInfo *rri);
extern TupleTableSlot *sagg_exec_insert(EState *estate, ResultRelInfo *rri,
										TupleTableSlot *slot,
										TupleTableSlot *plan_slot);
extern void sagg_end_insert(EState *estate, ResultRelInfo *rri);
extern int	sagg_is_updatable(Relation rel);
extern void sagg_explain_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
								List *fdw_private, int subplan_index,
								struct ExplainState *es);

#endif							/* SAGG_INSERT_INTERNAL_H */
