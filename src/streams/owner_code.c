/*-------------------------------------------------------------------------
 *
 * owner_code.c
 *	  Runs code of a stream's owner as the owner, without further rights.
 *
 * Functions, operators, casts, domains, aggregates, policies and triggers that
 * a stream touches are its owner's choice, and run for whoever calls a
 * function on the stream.  All code that may run them does so between
 * sagg_become_owner and sagg_restore_user (I8). src/README.md lists all
 * places.
 *
 * Where the session is not the owner's, the code runs as a security-restricted
 * operation, like REFRESH MATERIALIZED VIEW: it cannot change the role, leave
 * settings or temporary objects behind, or queue deferred triggers, which
 * would fire at the commit as somebody else.
 *
 * "The owner's session" means more than the current user: a superuser who has
 * run SET ROLE or SET SESSION AUTHORIZATION can go back, and so could the
 * owner's code; a function with SECURITY DEFINER makes the owner the current
 * user while the commit is the caller's.
 *
 * The owner's code never runs before the switch or after the switch back.
 *
 * Names without schema in it never mean temporary objects of the session before
 * others.  The server looks there first unless search_path says otherwise, and
 * the session is that of who reads the stream: a view of his in place of a
 * table that a function of the owner's names would be his code, run as the owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "stream_agg.h"
#include "streams.h"

/*
 * Returns whether the session is the owner's, from the login to the current
 * user, so that the owner's code may do what any statement of the session may
 * do.
 */
bool
sagg_session_is_of(Oid owner)
{
	return owner == GetUserId() && owner == GetSessionUserId() &&
		owner == GetAuthenticatedUserId();
}

static void
set_for_now(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Returns a search_path, in the current context, with the temporary objects of the
 * session at its end, wherever "path" has them or does not name them.
 */
char *
sagg_path_temporary_last(const char *path)
{
	StringInfoData result;
	List	   *schemas;
	ListCell   *lc;

	initStringInfo(&result);
	if (!SplitIdentifierString(pstrdup(path), ',', &schemas))
		elog(ERROR, "invalid search_path \"%s\"", path);
	foreach(lc, schemas)
	{
		const char *schema = lfirst(lc);

		if (strcmp(schema, "pg_temp") != 0 && strncmp(schema, "pg_temp_", 8) != 0)
			appendStringInfo(&result, "%s, ", quote_identifier(schema));
	}
	appendStringInfoString(&result, "pg_temp");
	list_free(schemas);
	return result.data;
}

/*
 * Switch to a role whose code may run from here on. "save" is allocated by the
 * caller and passed to sagg_restore_user; after an ERROR the end of the
 * (sub)transaction switches back.  Settings are those of the session,
 * including search_path, whose temporary objects come last if the session is not
 * the owner's; what the code sets is reverted afterwards.
 */
void
sagg_become_owner(SaggOwnerContext *save, Oid owner)
{
	bool		others = !sagg_session_is_of(owner);

	GetUserIdAndSecContext(&save->save_userid, &save->save_sec_context);
	if (others)
		SetUserIdAndSecContext(owner, save->save_sec_context |
							   SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	save->save_nestlevel = NewGUCNestLevel();
	if (others)
		set_for_now("search_path", sagg_path_temporary_last(namespace_search_path));
}

/*
 * Switch to a stream's owner and the settings of its micro-batches.  A stream
 * that is only being made has the session's settings.  Raises what
 * sagg_stream_check_owners raises, of a stream that is there.
 */
void
sagg_become_stream_owner(SaggOwnerContext *save, const SaggStream *stream)
{
	if (stream->owners)
		sagg_stream_check_owners(stream);
	sagg_become_owner(save, stream->owner);
	if (stream->timezone == NULL)
		return;
	set_for_now("timezone", stream->timezone);
	set_for_now("datestyle", stream->datestyle);
	set_for_now("intervalstyle", stream->intervalstyle);
	set_for_now("search_path", stream->search_path);
	set_for_now("row_security", "on");
}

/*
 * SET CONSTRAINTS ALL
 */
static void
set_constraints(bool deferred)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = deferred;
	AfterTriggerSetState(stmt);
}

/*
 * Run pending deferred constraints and triggers now, as the current user: in a
 * batch as the owner, before CHECKPOINT (I8).  Later ones are not deferred,
 * until the end of the (sub)transaction.
 */
void
sagg_fire_deferred_triggers(void)
{
	set_constraints(false);
}

/*
 * Does sagg_fire_deferred_triggers, but later ones are deferred again, until the
 * next call of one of the two.
 */
void
sagg_fire_triggers_so_far(void)
{
	set_constraints(false);
	set_constraints(true);
}

/*
 * Switch to a stream's owner to write rows into the sink: its deferred
 * triggers, which the owner could not defer, fire immediately.  Those that
 * were pending before the call belong to the session, and run before the
 * switch.
 */
void
sagg_become_stream_owner_to_write(SaggOwnerContext *save, const SaggStream *stream)
{
	if (!sagg_session_is_of(stream->owner))
		sagg_fire_deferred_triggers();
	sagg_become_stream_owner(save, stream);
}
