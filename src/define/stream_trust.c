/*-------------------------------------------------------------------------
 *
 * stream_trust.c
 *	  Whose stream it is, and whether those who own its query, sink and sources
 *	  are trusted.
 *
 * Whoever starts a stream trusts those owners (streams/stream_owners.c).  A
 * command that gives one of these relations to another role takes the trust
 * back in its own transaction, so that it stays so when the relation is given
 * back: meanwhile the other role has had its way with it.
 *
 * What was checked before a wait for a lock is checked again after it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "streams/streams.h"
#include "define_internal.h"

static ProcessUtility_hook_type next_process_utility = standard_ProcessUtility;

/*
 * Raise insufficient_privilege unless the current user owns the stream.
 */
void
sagg_stream_check_owner(const SaggStream *stream)
{
	if (!SAGG_OWNS_RELATION(stream->view, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of stream \"%s\"", sagg_stream_title(stream->name))));
}

/*
 * Returns the stream of a view, in the current context, as a session left it that
 * held the lock before, for which this one has waited.  Until the end of the
 * transaction the view keeps its owner.  Raises undefined_object if there is no
 * such stream any more, and insufficient_privilege if it is not the current
 * user's any more.
 */
SaggStream *
sagg_own_stream_now(Oid view)
{
	SaggStream *stream;

	LockRelationOid(view, AccessShareLock);
	AcceptInvalidationMessages();
	stream = sagg_stream_by_view(view, false);
	sagg_stream_check_owner(stream);
	return stream;
}

/*
 * Lock the sink of a stream for rows to be written, until the end of the
 * transaction, and check that its query, sink and sources still belong to
 * those who owned them when it was started, because their code is about to run
 * as the stream's owner.  Raises what sagg_stream_check_owners raises.
 */
void
sagg_stream_lock_sink(const SaggStream *stream)
{
	LockRelationOid(stream->sink, RowExclusiveLock);
	sagg_stream_check_owners(stream);
}

/*
 * Returns the owners that are trusted now, whatever snapshot the transaction has,
 * in the current context; NULL if the stream's row is gone.
 */
ArrayType *
sagg_stream_trusted_owners(Oid view)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(view);
	ArrayType  *owners = NULL;
	SaggOwnerContext save;

	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	sagg_become_extension_owner(&save);
	if (SPI_execute_with_args("SELECT started_for FROM stream_agg.streams WHERE query = $1",
							  1, &type, &value, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read stream_agg.streams");
	sagg_restore_user(&save);
	if (SPI_processed > 0)
	{
		bool		isnull;
		MemoryContext old;

		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		old = MemoryContextSwitchTo(caller);
		owners = DatumGetArrayTypePCopy(value);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	return owners;
}

/*
 * Returns whether the owners of a stream that was read before are still those
 * that are trusted.
 */
bool
sagg_stream_trust_lasts(const SaggStream *stream)
{
	ArrayType  *owners = sagg_stream_trusted_owners(stream->view);
	bool		same = owners != NULL && VARSIZE(owners) == VARSIZE(stream->owners) &&
	memcmp(owners, stream->owners, VARSIZE(owners)) == 0;

	if (owners)
		pfree(owners);
	return same;
}

/*
 * Returns whether a command may have given a relation to another role.
 */
static bool
changes_owner(const Node *command)
{
	ListCell   *lc;

	if (IsA(command, ReassignOwnedStmt))
		return true;
	if (!IsA(command, AlterTableStmt))
		return false;
	foreach(lc, ((const AlterTableStmt *) command)->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_ChangeOwner)
			return true;
	}
	return false;
}

/*
 * Trust nobody for the streams of this database of which a relation has another
 * owner now, until start_stream.  Nobody is who an empty array of owners matches.
 */
static void
distrust_new_owners(void)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(MyDatabaseId);
	SaggOwnerContext owner;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	sagg_become_extension_owner(&owner);
	if (SPI_execute_with_args("UPDATE stream_agg.streams SET started_for = '{}'"
							  " WHERE database = $1 AND started_for <> '{}'"
							  "   AND NOT stream_agg.has_owners(started_for, query, sink, source, other_sources)",
							  1, &type, &value, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not take back the trust in former owners");
	sagg_restore_user(&owner);
	SPI_finish();
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * The server has no event trigger for REASSIGN OWNED.
 */
static void
process_utility(PlannedStmt *pstmt, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc)
{
	bool		owner = changes_owner(pstmt->utilityStmt);

	next_process_utility(pstmt, text, read_only_tree, context, params,
						 environment, dest, qc);
	if (owner && sagg_extension_exists())
		distrust_new_owners();
}

/*
 * Called by _PG_init in the postmaster: registers the hook for commands that change
 * owners.
 */
void
sagg_trust_init(void)
{
	if (ProcessUtility_hook)
		next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
