/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The differences between PostgreSQL 15 and 18 that stream_agg meets,
 *	  all in one place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_COMPAT_H
#define SAGG_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "stream_agg needs PostgreSQL 15 or later"
#endif

/*
 * The library is built with hidden visibility.  Before 16 the server's headers
 * do not export SQL-callable functions in spite of it (the Makefile defines
 * PGDLLEXPORT).
 */
#if PG_VERSION_NUM < 160000
#include "fmgr.h"
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(funcname) \
extern PGDLLEXPORT Datum funcname(PG_FUNCTION_ARGS); \
extern PGDLLEXPORT const Pg_finfo_record * CppConcat(pg_finfo_,funcname)(void); \
const Pg_finfo_record * \
CppConcat(pg_finfo_,funcname) (void) \
{ \
	static const Pg_finfo_record my_finfo = { 1 }; \
	return &my_finfo; \
} \
extern int no_such_variable
#endif

/* From 17 on an extension's wait events have names. */
#if PG_VERSION_NUM >= 170000
#define SAGG_WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define SAGG_WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

/* From 17 on a wait event set belongs to a resource owner. */
#if PG_VERSION_NUM >= 170000
#define SAGG_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(NULL, n)
#else
#define SAGG_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

/* From 16 on the checks of privileges have one function for all objects. */
#if PG_VERSION_NUM >= 160000
#define SAGG_OWNS_RELATION(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#define SAGG_DATABASE_ACLCHECK(oid, role, mode) \
	object_aclcheck(DatabaseRelationId, oid, role, mode)
#define SAGG_FDW_ACLCHECK(oid, role, mode) \
	object_aclcheck(ForeignDataWrapperRelationId, oid, role, mode)
#define SAGG_SERVER_ACLCHECK(oid, role, mode) \
	object_aclcheck(ForeignServerRelationId, oid, role, mode)
#else
#define SAGG_OWNS_RELATION(relid, role) \
	pg_class_ownercheck(relid, role)
#define SAGG_DATABASE_ACLCHECK(oid, role, mode) \
	pg_database_aclcheck(oid, role, mode)
#define SAGG_FDW_ACLCHECK(oid, role, mode) \
	pg_foreign_data_wrapper_aclcheck(oid, role, mode)
#define SAGG_SERVER_ACLCHECK(oid, role, mode) \
	pg_foreign_server_aclcheck(oid, role, mode)
#endif

/* From 16 on the permissions a query needs are a list of their own. */
#if PG_VERSION_NUM >= 160000
#define SAGG_CHECK_PERMISSIONS(query) \
	((void) ExecCheckPermissions((query)->rtable, (query)->rteperminfos, true))
#else
#define SAGG_CHECK_PERMISSIONS(query) \
	((void) ExecCheckRTPerms((query)->rtable, true))
#endif

/* From 16 on the plan tells as whom a foreign scan runs; 0 = current user. */
#if PG_VERSION_NUM >= 160000
#define SAGG_SCAN_USER(node) \
	(((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#else
#define SAGG_SCAN_USER(node) \
	(exec_rt_fetch(((Scan *) (node)->ss.ps.plan)->scanrelid, \
				   (node)->ss.ps.state)->checkAsUser)
#endif

#endif							/* SAGG_COMPAT_H */
