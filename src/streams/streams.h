/*-------------------------------------------------------------------------
 *
 * streams.h
 *	  The tables of schema stream_agg and owners: access to the tables, the
 *	  user that code runs as, the name of a stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_STREAMS_H
#define SAGG_STREAMS_H

#include "stream_agg.h"

/* catalog_access.c */
typedef struct SaggOwnerContext
{
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
} SaggOwnerContext;

extern void sagg_become_extension_owner(SaggOwnerContext *save);
extern void sagg_restore_user(const SaggOwnerContext *save);
extern bool sagg_extension_exists(void);
extern const char *sagg_mode_name(SaggOutputMode mode);
extern bool sagg_mode_by_name(const char *name, SaggOutputMode *mode);

/* citus.c */
extern const char *sagg_citus_table(Oid relation);
extern int	sagg_citus_define_locally(void);

/* owner_code.c */
extern bool sagg_session_is_of(Oid owner);
extern char *sagg_path_temporary_last(const char *path);
extern void sagg_become_owner(SaggOwnerContext *save, Oid owner);
extern void sagg_become_stream_owner(SaggOwnerContext *save,
									 const SaggStream *stream);
extern void sagg_become_stream_owner_to_write(SaggOwnerContext *save,
											  const SaggStream *stream);
extern void sagg_fire_deferred_triggers(void);
extern void sagg_fire_triggers_so_far(void);

/* stream_owners.c */
extern Oid	sagg_relation_owner(Oid relid);
extern ArrayType *sagg_stream_owners(Oid view, Oid sink, List *sources);
extern bool sagg_stream_has_owners(ArrayType *owners, Oid view, Oid sink,
								   List *sources);
extern void sagg_stream_check_owners(const SaggStream *stream);
extern List *sagg_source_list(Oid source, ArrayType *others);

/* stream_title.c */
extern const char *sagg_stream_title(const char *name);

/* utility_command.c */
extern void sagg_run_utility(Node *stmt, const char *text, int location,
							 int len);

#endif							/* SAGG_STREAMS_H */
