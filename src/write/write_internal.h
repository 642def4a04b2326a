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

#include "utils/relcache.h"

/* sink_make.c */
extern void sagg_sink_check_schema(Oid namespaceId, const char *relname);

/* sink_check.c */
extern Relation sagg_sink_lock(Oid sink, const SaggQuery *query,
							   SaggOutputMode mode, bool running,
							   AttrNumber **columns);
extern char *sagg_sink_identity_list(const SaggQuery *query);

#endif							/* SAGG_WRITE_INTERNAL_H */
