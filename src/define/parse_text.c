/*-------------------------------------------------------------------------
 *
 * parse_text.c
 *	  SQL that users hand over as text: parsed, never pasted together.
 *
 * Errors show their position in that text, not in the statement that called
 * the function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "parser/parser.h"

#include "define_internal.h"

static void
move_position(void *arg)
{
	const char *text = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(text);
	}
}

/*
 * From here on, the positions of errors refer to "text".  "callback" is
 * allocated by the caller, who ends it with sagg_text_errors_end.
 */
void
sagg_text_errors_begin(ErrorContextCallback *callback, const char *text)
{
	callback->callback = move_position;
	callback->arg = unconstify(char *, text);
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

/*
 * End what sagg_text_errors_begin began; not needed after an ERROR.
 */
void
sagg_text_errors_end(ErrorContextCallback *callback)
{
	error_context_stack = callback->previous;
}

/*
 * Returns the raw parse trees of the statements in "text"; raises
 * syntax_error.
 */
List *
sagg_parse_text(const char *text)
{
	ErrorContextCallback callback;
	List	   *statements;

	sagg_text_errors_begin(&callback, text);
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	sagg_text_errors_end(&callback);
	return statements;
}
