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
 * From 16 on, the functions for variable-length values have their own header.
 */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 18 puts the mark of functions that do not return in front, as C23 does. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/*
 * The library is built with hidden visibility.  Before 16 the server's headers
 * do not export SQL-callable functions explicitly (the Makefile defines
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

/* 18 asks whether a deferrable primary key is wanted, too. */
#if PG_VERSION_NUM >= 180000
#define SAGG_PRIMARY_KEY(rel)	RelationGetPrimaryKeyIndex(rel, false)
#else
#define SAGG_PRIMARY_KEY(rel)	RelationGetPrimaryKeyIndex(rel)
#endif

/*
 * Returns whether this process holds a lock in exactly this mode; 17 can also
 * ask for stronger ones.
 */
#if PG_VERSION_NUM >= 170000
#define SAGG_HOLDS_LOCK(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define SAGG_HOLDS_LOCK(tag, mode) LockHeldByMe(tag, mode)
#endif

/* From 17 on a wait event set belongs to a resource owner. */
#if PG_VERSION_NUM >= 170000
#define SAGG_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(NULL, n)
#else
#define SAGG_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

/* From 16 on, a developer may have SIGABRT sent in place of SIGQUIT. */
#if PG_VERSION_NUM >= 160000
#define SAGG_ABORTS_FOR_CRASH	send_abort_for_crash
#else
#define SAGG_ABORTS_FOR_CRASH	false
#endif

/* From 16 on the checks of privileges have one function for all objects. */
#if PG_VERSION_NUM >= 160000
#define SAGG_OWNS_RELATION(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#define SAGG_OWNS_DATABASE(oid, role) \
	object_ownercheck(DatabaseRelationId, oid, role)
#define SAGG_FUNCTION_ACLCHECK(oid, role, mode) \
	object_aclcheck(ProcedureRelationId, oid, role, mode)
#define SAGG_DATABASE_ACLCHECK(oid, role, mode) \
	object_aclcheck(DatabaseRelationId, oid, role, mode)
#define SAGG_FDW_ACLCHECK(oid, role, mode) \
	object_aclcheck(ForeignDataWrapperRelationId, oid, role, mode)
#define SAGG_SERVER_ACLCHECK(oid, role, mode) \
	object_aclcheck(ForeignServerRelationId, oid, role, mode)
#else
#define SAGG_OWNS_RELATION(relid, role) \
	pg_class_ownercheck(relid, role)
#define SAGG_OWNS_DATABASE(oid, role) \
	pg_database_ownercheck(oid, role)
#define SAGG_FUNCTION_ACLCHECK(oid, role, mode) \
	pg_proc_aclcheck(oid, role, mode)
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

/* 16 lets make_range report soft errors; 18 dropped an executor argument. */
#if PG_VERSION_NUM >= 160000
#define SAGG_MAKE_RANGE(type, lower, upper, empty) \
	make_range(type, lower, upper, empty, NULL)
#else
#define SAGG_MAKE_RANGE(type, lower, upper, empty) \
	make_range(type, lower, upper, empty)
#endif
#if PG_VERSION_NUM >= 180000
#define SAGG_EXECUTOR_RUN(desc, direction, count) \
	ExecutorRun(desc, direction, count)
#else
#define SAGG_EXECUTOR_RUN(desc, direction, count) \
	ExecutorRun(desc, direction, count, true)
#endif

/*
 * Make the entries of all indexes for a new row; returns a list of those whose
 * uniqueness is checked later.  16 made updates of some indexes optional.
 */
#if PG_VERSION_NUM >= 160000
#define SAGG_INSERT_INDEX_TUPLES(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#else
#define SAGG_INSERT_INDEX_TUPLES(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#endif

/* How a row of a partitioned table becomes one of a partition; 16 computes it
 * when it is asked for. */
#if PG_VERSION_NUM >= 160000
#define SAGG_ROOT_TO_PARTITION_MAP(rri, estate)	ExecGetRootToChildMap(rri, estate)
#else
#define SAGG_ROOT_TO_PARTITION_MAP(rri, estate)	((rri)->ri_RootToPartitionMap)
#endif

/* Before 16 there was one macro for the absolute value of any type. */
#if PG_VERSION_NUM < 160000
#define i64abs(i)	Abs(i)
#endif

/* 18 has comparison types that are independent of access methods. */
#if PG_VERSION_NUM >= 180000
#define SAGG_STRATEGY	CompareType
#else
#define SAGG_STRATEGY	int16
#endif

/*
 * The columns of a range table entry; from 18 on they can be of OLD and NEW
 * rows.
 */
#if PG_VERSION_NUM >= 180000
#define SAGG_EXPAND_RTE(rte, rtindex, names, vars) \
	expandRTE(rte, rtindex, 0, VAR_RETURNING_DEFAULT, -1, false, names, vars)
#else
#define SAGG_EXPAND_RTE(rte, rtindex, names, vars) \
	expandRTE(rte, rtindex, 0, -1, false, names, vars)
#endif

/* From 18 on EXPLAIN has three headers. */
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif

/* create_foreignscan_path got one more argument in 17 and another in 18. */
#if PG_VERSION_NUM >= 180000
#define SAGG_FOREIGN_PATH(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, NIL, outer, NULL, NIL, NIL)
#elif PG_VERSION_NUM >= 170000
#define SAGG_FOREIGN_PATH(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL, outer, NULL, NIL, NIL)
#else
#define SAGG_FOREIGN_PATH(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL, outer, NULL, NIL)
#endif

/* From 16 on, names can be parsed without raising errors. */
#if PG_VERSION_NUM >= 160000
#define SAGG_NAME_LIST(name)	stringToQualifiedNameList(name, NULL)
#else
#define SAGG_NAME_LIST(name)	stringToQualifiedNameList(name)
#endif

/*
 * Replace the columns of joins, and from 18 on those of GROUP BY, by the
 * expressions they stand for.
 */
#if PG_VERSION_NUM >= 180000
#define SAGG_FLATTEN_VARS(query, node) \
	flatten_group_exprs(NULL, query, flatten_join_alias_vars(NULL, query, node))
#define SAGG_FORGET_GROUP_RTE(query)	sagg_forget_group_rte(query)

static inline void
sagg_forget_group_rte(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		/* other entries keep their numbers; this one yields no row */
		if (rte->rtekind == RTE_GROUP)
		{
			rte->rtekind = RTE_RESULT;
			rte->groupexprs = NIL;
			rte->eref->colnames = NIL;
		}
	}
	query->hasGroupRTE = false;
}
#elif PG_VERSION_NUM >= 160000
#define SAGG_FLATTEN_VARS(query, node) flatten_join_alias_vars(NULL, query, node)
#define SAGG_FORGET_GROUP_RTE(query)	((void) 0)
#else
#define SAGG_FLATTEN_VARS(query, node) flatten_join_alias_vars(query, node)
#define SAGG_FORGET_GROUP_RTE(query)	((void) 0)
#endif

/* From 16 on, the plan says as whom a foreign scan runs; 0 = current user. */
#if PG_VERSION_NUM >= 160000
#define SAGG_SCAN_USER(node) \
	(((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#else
#define SAGG_SCAN_USER(node) \
	(exec_rt_fetch(((Scan *) (node)->ss.ps.plan)->scanrelid, \
				   (node)->ss.ps.state)->checkAsUser)
#endif

/*
 * Returns as whom rows are inserted, also by way of a partitioned table; 0 =
 * current user.
 */
#if PG_VERSION_NUM >= 160000
#define SAGG_MODIFY_USER(rri, estate)	ExecGetResultRelCheckAsUser(rri, estate)
#else
#define SAGG_MODIFY_USER(rri, estate) \
	(exec_rt_fetch((rri)->ri_RangeTableIndex != 0 ? (rri)->ri_RangeTableIndex : \
				   (rri)->ri_RootResultRelInfo->ri_RangeTableIndex, \
				   estate)->checkAsUser)
#endif

/* 16 moved the permission checks out of the range table entry */
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#define SAGG_SELECTED_COLUMNS(query, rte) \
	(getRTEPermissionInfo((query)->rteperminfos, (rte))->selectedCols)
#else
#define SAGG_SELECTED_COLUMNS(query, rte) ((rte)->selectedCols)
#endif

/* Removes from a query, before it is compared, what is about permissions. */
static inline void
sagg_forget_permissions(Query *query)
{
	ListCell   *lc;

#if PG_VERSION_NUM >= 160000
	query->rteperminfos = NIL;
#endif
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

#if PG_VERSION_NUM >= 160000
		rte->perminfoindex = 0;
#else
		rte->requiredPerms = 0;
		rte->selectedCols = NULL;
#endif
	}
}

/*
 * From 16 on the actions of a parser of JSON return whether it goes on, from 17
 * on its lexer may be in the caller's memory.  Only for files that include
 * common/jsonapi.h and mb/pg_wchar.h.
 */
#if PG_VERSION_NUM >= 160000
#define SaggJsonAction JsonParseErrorType
#define SAGG_JSON_GO_ON return JSON_SUCCESS
#else
#define SaggJsonAction void
#define SAGG_JSON_GO_ON return
#endif
#if PG_VERSION_NUM >= 170000
#define SAGG_JSON_LEXER(text, len) makeJsonLexContextCstringLen(NULL, text, len, GetDatabaseEncoding(), true)
#else
#define SAGG_JSON_LEXER(text, len) makeJsonLexContextCstringLen(text, len, GetDatabaseEncoding(), true)
#endif

/* 16 lets parseTypeString return soft errors */
#if PG_VERSION_NUM >= 160000
#define SAGG_PARSE_TYPE(text, type, typmod) ((void) parseTypeString(text, type, typmod, NULL))
#else
#define SAGG_PARSE_TYPE(text, type, typmod) parseTypeString(text, type, typmod, false)
#endif

/*
 * Returns the zone of a name, as AT TIME ZONE and date_trunc read it,
 * including an abbreviation with its offset; 16 has a function for it.  Raises
 * invalid_parameter_value for an unknown zone.  Only for files that include
 * utils/datetime.h, whose macros are not for all files.
 */
#ifdef DATETIME_H
#include "parser/scansup.h"

static inline pg_tz *
sagg_time_zone(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return DecodeTimezoneNameToTz(name);
#else
	pg_tz	   *zone = NULL;
	char	   *lower = downcase_truncate_identifier(name, strlen(name), false);
	int			offset;
	int			type = DecodeTimezoneAbbrev(0, lower, &offset, &zone);

	if (type == TZ || type == DTZ)
		return pg_tzset_offset(-offset);
	if (type != DYNTZ)
		zone = pg_tzset(name);
	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name)));
	return zone;
#endif
}
#endif							/* DATETIME_H */

#endif							/* SAGG_COMPAT_H */
