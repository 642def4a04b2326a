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
 * Lock query, sink and sources of a stream, so that they keep their owners until the
 * end of the transaction, which is about to trust these.  Waits for a command that
 * gives one of them to another role.
 */
void
sagg_stream_lock_owners(const SaggStream *stream)
{
	ListCell   *lc;

	LockRelationOid(stream->view, AccessShareLock);
	if (OidIsValid(stream->sink))
		LockRelationOid(stream->sink, AccessShareLock);
	foreach(lc, stream->sources)
	{
		if (OidIsValid(lfirst_oid(lc)))
			LockRelationOid(lfirst_oid(lc), AccessShareLock);
	}
	AcceptInvalidationMessages();
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
 * Returns whether a command may have given relations to another role.
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
 * Returns whether this transaction has locked one of these relations as a command
 * does that gives it away.
 */
static bool
has_locked_one(List *relations)
{
	ListCell   *lc;

	foreach(lc, relations)
	{
		LOCKTAG		tag;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, lfirst_oid(lc));
		if (SAGG_HOLDS_LOCK(&tag, AccessExclusiveLock))
			return true;
	}
	return false;
}

/*
 * Returns the views, as an array of OIDs, of the streams of this database that trust
 * the former owner of a relation that this transaction has given away; (Datum) 0 for
 * none.  Connected to SPI, as the owner of the extension.
 */
static Datum
streams_given_away(void)
{
	Oid			type = OIDOID;
	Datum		database = ObjectIdGetDatum(MyDatabaseId);
	Datum	   *views;
	int			n = 0;

	sagg_execute_latest("SELECT query::oid, sink::oid, source::oid, other_sources FROM stream_agg.streams"
						" WHERE database = $1 AND started_for <> '{}'"
						"   AND NOT stream_agg.has_owners(started_for, query, sink, source, other_sources)",
						1, &type, &database, SPI_OK_SELECT);
	views = palloc(sizeof(Datum) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		oids[4];
		bool		isnull;

		for (int column = 0; column < lengthof(oids); column++)
			oids[column] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
										 column + 1, &isnull);
		if (has_locked_one(lcons_oid(DatumGetObjectId(oids[0]),
									 lcons_oid(DatumGetObjectId(oids[1]),
											   sagg_source_list(DatumGetObjectId(oids[2]),
																isnull ? NULL : DatumGetArrayTypeP(oids[3]))))))
			views[n++] = oids[0];
	}
	return n == 0 ? (Datum) 0 :
		PointerGetDatum(construct_array(views, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/*
 * Trust nobody for the streams of which a relation has just been given to another
 * owner, until start_stream.  Nobody is who an empty array of owners matches.
 *
 * It waits for no row of another stream, which can be locked as long as its owner
 * likes.  No trust in the former owner is missed, whatever the snapshot of the
 * transaction: who makes others trusted holds a lock on all of their relations.
 */
static void
distrust_new_owners(void)
{
	Oid			type = OIDARRAYOID;
	Datum		views;
	SaggOwnerContext owner;

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	sagg_become_extension_owner(&owner);
	views = streams_given_away();
	if (views)
		sagg_execute_latest("UPDATE stream_agg.streams SET started_for = '{}'"
							" WHERE query = ANY ($1) AND started_for <> '{}'"
							"   AND NOT stream_agg.has_owners(started_for, query, sink, source, other_sources)",
							1, &type, &views, SPI_OK_UPDATE);
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
