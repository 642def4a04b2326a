/*-------------------------------------------------------------------------
 *
 * secret_commands.c
 *	  Commands that hold secrets do not go into the log when they fail.
 *
 * CREATE and ALTER USER MAPPING for a server of Kafka hold passwords and keys.
 * The server writes the statement of an error into its log, whatever it was
 * about: a mapping that exists already, a missing privilege, a typing error in
 * another option.  Here the statement is left out.
 *
 * What log_statement asks for is written all the same: that is before anybody
 * knows what the statement is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "stream_agg.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

static void
hide_statement(void *arg)
{
	errhidestmt(true);
}

/*
 * Whether a server, which need not exist, is one of Kafka.
 */
static bool
is_ours(const char *servername)
{
	ForeignServer *server = GetForeignServerByName(servername, true);

	return server != NULL &&
		strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, SAGG_FDW) == 0;
}

static bool
holds_secrets(Node *stmt)
{
	if (IsA(stmt, CreateUserMappingStmt))
		return is_ours(((CreateUserMappingStmt *) stmt)->servername);
	if (IsA(stmt, AlterUserMappingStmt))
		return is_ours(((AlterUserMappingStmt *) stmt)->servername);
	return false;
}

static void
process_utility(PlannedStmt *pstmt, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *qc)
{
	ErrorContextCallback callback = {error_context_stack, hide_statement, NULL};
	ErrorContextCallback *save = error_context_stack;

	if (holds_secrets(pstmt->utilityStmt))
		error_context_stack = &callback;
	if (prev_process_utility)
		prev_process_utility(pstmt, text, read_only_tree, context, params,
							 environment, dest, qc);
	else
		standard_ProcessUtility(pstmt, text, read_only_tree, context, params,
								environment, dest, qc);
	error_context_stack = save;
}

/*
 * Called by _PG_init in the postmaster.
 */
void
sagg_secret_commands_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
