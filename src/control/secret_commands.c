/*-------------------------------------------------------------------------
 *
 * secret_commands.c
 *	  Keeps statements that hold secrets out of the server's log when they
 *	  fail.
 *
 * CREATE and ALTER USER MAPPING hold passwords and keys, and so does a server
 * that is given them by mistake.  The server writes the statement of an error
 * into its log, whatever it was about: a mapping that exists already, a missing
 * privilege, a typing error in the server's name or in another option.  Here the
 * statement is left out, in two places:
 *
 * - While such a command runs, by the context of errors.  What encloses the
 *	 command, a function or a DO block, would quote it to the client as well, who
 *	 need not be the one that wrote the function; so its context is left out.
 * - Before any error is written, by its text: for statements that never came to
 *	 be run, because of a syntax error or a failed transaction, and for strings
 *	 of several statements of which another has failed.
 *
 * Details of errors are treated alike: the detail of a crash, which the
 * postmaster writes, quotes the statement that was running, and the detail of
 * a deadlock quotes those of others.
 *
 * This covers the servers of all foreign-data wrappers: the name of one that
 * does not exist says nothing about its wrapper, and their secrets matter as
 * much.
 *
 * What log_statement, log_min_duration_statement and similar settings ask for
 * is written nevertheless: they ask for every statement, whatever it contains.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/elog.h"

#include "stream_agg.h"
#include "control.h"

static ProcessUtility_hook_type next_process_utility = standard_ProcessUtility;
static emit_log_hook_type prev_emit_log = NULL;

/* names of options with secrets, including librdkafka's properties */
static const char *const secret_words[] = {
	"password", "passwd", "secret", "private", "ssl.key", "ssl.certificate.pem",
	"BEGIN RSA", "BEGIN ENCRYPTED", "basic.auth", "jaas"
};

#define HIDDEN_DETAIL "Statements are not shown, because they may hold secrets."

static void
hide_statement(void *arg)
{
	errhidestmt(true);
	if (arg)
		errcontext("%s, whose text is not shown", (const char *) arg);
}

/*
 * Returns the position of a word, in any case, in [text, end); NULL if it is
 * not there.
 */
static const char *
find_word(const char *text, const char *end, const char *word)
{
	size_t		len = strlen(word);

	for (; end - text >= (ptrdiff_t) len; text++)
	{
		if (pg_tolower((unsigned char) *text) == pg_tolower((unsigned char) *word) &&
			pg_strncasecmp(text, word, len) == 0)
			return text;
	}
	return NULL;
}

/*
 * Returns whether a user with a password stands in front of a host,
 * "user:password@".
 */
static bool
has_userinfo(const char *text)
{
	for (const char *at = strchr(text, '@'); at; at = strchr(at + 1, '@'))
	{
		for (const char *p = at; p > text && strchr(" \t\r\n'\"$@", p[-1]) == NULL; p--)
		{
			if (p[-1] == ':')
				return true;
		}
	}
	return false;
}

/*
 * Returns whether a text might hold the secrets of a server or a user mapping.
 * It is not parsed, because it need not be a statement.  A text with one of
 * the words but without a secret is withheld, too.
 */
static bool
may_hold_secrets(const char *text)
{
	const char *end;

	if (text == NULL)
		return false;
	end = text + strlen(text);
	if (find_word(text, end, "mapping") != NULL &&
		find_word(text, end, "options") != NULL)
		return true;
	if (find_word(text, end, "mapping") == NULL &&
		find_word(text, end, "server") == NULL &&
		find_word(text, end, "create_source") == NULL)
		return false;
	for (int i = 0; i < lengthof(secret_words); i++)
	{
		if (find_word(text, end, secret_words[i]))
			return true;
	}
	return has_userinfo(text);
}

static bool
has_secret_option(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const char *name = option->defname;

		if (option->arg && has_userinfo(defGetString(option)))
			return true;

		for (int i = 0; i < lengthof(secret_words); i++)
		{
			if (find_word(name, name + strlen(name), secret_words[i]))
				return true;
		}
	}
	return false;
}

/*
 * Returns the name of the command if a statement may hold secrets; otherwise
 * NULL.
 */
static const char *
secret_command(Node *stmt)
{
	if (IsA(stmt, CreateUserMappingStmt))
		return "CREATE USER MAPPING";
	if (IsA(stmt, AlterUserMappingStmt))
		return "ALTER USER MAPPING";
	if (IsA(stmt, CreateForeignServerStmt) &&
		has_secret_option(((CreateForeignServerStmt *) stmt)->options))
		return "CREATE SERVER";
	if (IsA(stmt, AlterForeignServerStmt) &&
		has_secret_option(((AlterForeignServerStmt *) stmt)->options))
		return "ALTER SERVER";
	return NULL;
}

static void
process_utility(PlannedStmt *pstmt, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *qc)
{
	const char *secret = secret_command(pstmt->utilityStmt);
	ErrorContextCallback *save = error_context_stack;
	ErrorContextCallback callback = {NULL, hide_statement,
	save ? unconstify(char *, secret) : NULL};

	if (secret)
		error_context_stack = &callback;	/* in place of the enclosing
											 * callbacks */
	next_process_utility(pstmt, text, read_only_tree, context, params,
						 environment, dest, qc);
	error_context_stack = save;
}

/*
 * Replace the detail of an error by another text if it may be one that quotes
 * statements.  The hook is called in the memory context that is freed with the
 * error.
 */
static void
hide_detail(ErrorData *error)
{
	if (!may_hold_secrets(error->detail_log ? error->detail_log : error->detail))
		return;
	error->detail_log = error->detail && !may_hold_secrets(error->detail) ?
		psprintf("%s\n%s", error->detail, HIDDEN_DETAIL) : pstrdup(HIDDEN_DETAIL);
}

/*
 * Called before a message is written.  The server looks at the flags set here
 * only after that; the query that an error is in has no such flag, so it is
 * removed for the client, too.  An error of the parser quotes the text it
 * could not read, perhaps up to its end: then another message is written.
 */
static void
emit_log(ErrorData *error)
{
	bool		hide = !error->hide_stmt && may_hold_secrets(debug_query_string);

	if (may_hold_secrets(error->internalquery))
	{
		error->internalquery = NULL;
		error->internalpos = 0;
		hide = true;
	}
	if (!error->hide_ctx && may_hold_secrets(error->context))
		error->hide_ctx = true;
	hide_detail(error);
	if (hide)
		error->hide_stmt = true;
	if (hide && error->elevel == ERROR && error->sqlerrcode == ERRCODE_SYNTAX_ERROR)
	{
		error->output_to_server = false;
		ereport(LOG_SERVER_ONLY,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errhidestmt(true), errhidecontext(true),
				 errmsg("syntax error in a statement that is not shown, because it may hold secrets")));
	}
	if (prev_emit_log)
		prev_emit_log(error);
}

/*
 * Called by _PG_init in the postmaster.
 */
void
sagg_secret_commands_init(void)
{
	if (ProcessUtility_hook)
		next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_emit_log = emit_log_hook;
	emit_log_hook = emit_log;
}
