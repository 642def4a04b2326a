/*-------------------------------------------------------------------------
 *
 * utility_command.c
 *	  Runs a DDL command that was built as a tree.
 *
 * Sources, views and sinks are made and dropped by the server's own commands,
 * as the current user and with that user's privileges.  A tree holds names
 * as they are, so nothing a user wrote is ever pasted into SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/makefuncs.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/guc.h"

#include "stream_agg.h"
#include "streams.h"

/*
 * Run a utility statement as if the user had sent it: event triggers fire,
 * hooks see it, its effects are visible on return.
 *
 * "text" is the text the statement was parsed from, or describes it: hooks and
 * event triggers of others show it, and error positions refer to it.
 * "location" and "len" say which part of it is the statement; -1 and 0: all.
 * "stmt" is scribbled on.
 */
void
sagg_run_utility(Node *stmt, const char *text, int location, int len)
{
	PlannedStmt *wrapper = makeNode(PlannedStmt);
	int			nest = sagg_citus_define_locally();

	wrapper->commandType = CMD_UTILITY;
	wrapper->canSetTag = false;
	wrapper->utilityStmt = stmt;
	wrapper->stmt_location = location;
	wrapper->stmt_len = len;

	ProcessUtility(wrapper, text, false, PROCESS_UTILITY_QUERY, NULL, NULL,
				   None_Receiver, NULL);
	AtEOXact_GUC(true, nest);
	CommandCounterIncrement();
}
