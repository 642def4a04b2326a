/*-------------------------------------------------------------------------
 *
 * owner_code.c
 *	  Code of a stream's owner runs as the owner, and with no more rights.
 *
 * Functions, operators, casts, domains, aggregates, policies and triggers that a
 * stream touches are its owner's choice, and run for whoever calls a function on
 * the stream.  Whatever may run them does so between sagg_become_owner and
 * sagg_restore_user (I8).  The list of all places is in src/README.md.
 *
 * Where the session is not the owner's, what runs is a security-restricted
 * operation, as REFRESH MATERIALIZED VIEW is one: it cannot change the role, leave
 * settings or temporary objects behind, or queue deferred triggers, which would
 * fire at the commit as somebody else.
 *
 * "Not the owner's" is about the one who pays in the end, not only about the
 * current user: a superuser who has said SET ROLE or SET SESSION AUTHORIZATION can
 * go back, and so could the owner's code; a function with SECURITY DEFINER
 * makes the owner the current user while the commit is the caller's.
 *
 * Never: the owner's code before the switch or after the way back.
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
 * Whether the session is the owner's, from the login to the current user, so
 * that the owner's code may do what any statement of the session may.
 */
bool
sagg_session_is_of(Oid owner)
{
	return owner == GetUserId() && owner == GetSessionUserId() &&
		owner == GetAuthenticatedUserId();
}

/*
 * Switch to a role whose code may run from here on.  "save" is the caller's and
 * goes to sagg_restore_user; after an ERROR the end of the (sub)transaction does
 * that.  Settings are the session's, the search_path included; what the
 * code sets is gone afterwards.
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
 * Switch to a stream's owner and the settings of its micro-batches.  Those of a
 * stream that is only being made are the session's.
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
 * Constraints and triggers that wait for the commit run now, as the current
 * user: in a batch as the owner, before CHECKPOINT (I8).  Those to come do not
 * wait, until the end of the (sub)transaction.
 */
void
sagg_fire_deferred_triggers(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * The same to write rows into the sink: its deferred triggers, which the owner
 * then cannot have deferred, are not.  Those that wait since before the call
 * are the session's, and run before the switch.
 */
void
sagg_become_stream_owner_to_write(SaggOwnerContext *save, const SaggStream *stream)
{
	if (!sagg_session_is_of(stream->owner))
		sagg_fire_deferred_triggers();
	sagg_become_stream_owner(save, stream);
}
