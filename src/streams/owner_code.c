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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/guc.h"

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

/*
 * Switch to a role whose code may run from here on. "save" is allocated by the
 * caller and passed to sagg_restore_user; after an ERROR the end of the
 * (sub)transaction switches back.  Settings are those of the session,
 * including search_path; what the code sets is reverted afterwards.
 */
void
sagg_become_owner(SaggOwnerContext *save, Oid owner)
{
	GetUserIdAndSecContext(&save->save_userid, &save->save_sec_context);
	if (!sagg_session_is_of(owner))
		SetUserIdAndSecContext(owner, save->save_sec_context |
							   SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	save->save_nestlevel = NewGUCNestLevel();
}

static void
set_for_now(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Switch to a stream's owner and the settings of its micro-batches.  A stream
 * that is only being made has the session's settings.
 */
void
sagg_become_stream_owner(SaggOwnerContext *save, const SaggStream *stream)
{
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
