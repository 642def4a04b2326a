/*-------------------------------------------------------------------------
 *
 * catalog_access.c
 *	  Access from C code to the tables of schema stream_agg.
 *
 * Those tables belong to the owner of the extension and nobody else may write
 * them (I8).  Statements on them run between sagg_become_extension_owner and
 * sagg_restore_user, as short as possible, with a search_path that finds
 * nothing but the server's own objects.  No user's code runs in between.
 *
 * An ERROR in between needs no cleanup here: aborting the (sub)transaction
 * restores user id, security context and settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "stream_agg.h"
#include "streams.h"

static Oid
streams_relid(void)
{
	Oid			nsp = get_namespace_oid(SAGG_SCHEMA, true);

	return OidIsValid(nsp) ? get_relname_relid("streams", nsp) : InvalidOid;
}

/*
 * Returns whether the extension exists in the current database.
 */
bool
sagg_extension_exists(void)
{
	return OidIsValid(streams_relid());
}

/*
 * Switch to the owner of the extension's tables.  "save" is allocated by the
 * caller and passed to sagg_restore_user.  Raises undefined_object when the
 * extension does not exist.
 */
void
sagg_become_extension_owner(SaggOwnerContext *save)
{
	Oid			relid = streams_relid();
	HeapTuple	tuple = NULL;
	Oid			owner;

	if (OidIsValid(relid))
		tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database",
						SAGG_EXTENSION)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	GetUserIdAndSecContext(&save->save_userid, &save->save_sec_context);
	SetUserIdAndSecContext(owner,
						   save->save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	save->save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Switch back to the previous user.
 */
void
sagg_restore_user(const SaggOwnerContext *save)
{
	AtEOXact_GUC(false, save->save_nestlevel);
	SetUserIdAndSecContext(save->save_userid, save->save_sec_context);
}

static const char *const mode_names[] = {
	[SAGG_APPEND] = "append",
	[SAGG_UPDATE] = "update",
	[SAGG_COMPLETE] = "complete"
};

/*
 * Returns the name of an output mode, as users write it.
 */
const char *
sagg_mode_name(SaggOutputMode mode)
{
	return mode_names[mode];
}

/*
 * Sets the output mode of a name; returns false if there is none.
 */
bool
sagg_mode_by_name(const char *name, SaggOutputMode *mode)
{
	for (int i = 0; i < lengthof(mode_names); i++)
	{
		if (pg_strcasecmp(name, mode_names[i]) == 0)
		{
			*mode = i;
			return true;
		}
	}
	return false;
}
