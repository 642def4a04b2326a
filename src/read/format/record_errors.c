/*-------------------------------------------------------------------------
 *
 * record_errors.c
 *	  Catches errors of records that must not stop a stream.
 *
 * An error can be swallowed only by rolling back what led to it: the long way
 * from JSON to a Datum runs input functions and domain constraints, including
 * users' code.  So it runs in a subtransaction here, after which the caller's
 * memory context and resource owner are restored.  Errors that are not the
 * record's fault - a cancelled query, no memory - are rethrown unchanged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decode.h"
#include "stream_agg.h"

/*
 * Returns whether an error says that memory of a size was requested that nobody
 * may have.  It is one of the server's own, but the size is that of a value.
 */
static bool
is_size_error(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_INTERNAL_ERROR && error->message_id != NULL &&
		strcmp(error->message_id, "invalid memory alloc request size %zu") == 0;
}

/*
 * Returns whether an error, raised while a value of a
 * record was converted, is the record's fault; such an error recurs.  All
 * records have the same types and input functions, so the value is to blame
 * for everything except the state of the server.  Input functions raise errors
 * of many classes: that of tsvector a syntax error, that of regclass an
 * undefined table.  A missing privilege is not the value's fault, for example
 * that for a function which a domain's constraint calls.
 */
bool
sagg_is_record_fault(const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_SAGG_INVALID_RECORD || is_size_error(error))
		return true;
	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return false;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
		case MAKE_SQLSTATE('S', 'A', '0', '0', '0'):	/* of this extension */
			return false;
		default:
			return true;
	}
}

/*
 * Returns whether an error, raised while a value of a record was converted, is an
 * internal one that is likely to be about the value: some input functions have no
 * other for a text that is no value of their type, such as those of hstore and
 * tsquery.  Those about what the catalogs no longer have, and about damaged
 * data, which are of other SQLSTATEs, would befall every record.
 */
bool
sagg_is_input_complaint(const ErrorData *error)
{
	static const char *const others[] = {
		"cache lookup failed", "could not find", "could not open", "failed to find", "tuple concurrently"
	};

	if (error->sqlerrcode != ERRCODE_INTERNAL_ERROR || error->message_id == NULL)
		return false;
	for (int i = 0; i < lengthof(others); i++)
	{
		if (strncmp(error->message_id, others[i], strlen(others[i])) == 0)
			return false;
	}
	return true;
}

/*
 * Run convert(arg).  Returns false, with the reason in the current memory
 * context, if it raised an error that is the record's fault; then everything
 * it did is rolled back.
 */
bool
sagg_record_protect(void (*convert) (void *arg), void *arg, SaggRecordError *why)
{
	ErrorData  *error = sagg_try(convert, arg);

	if (error == NULL)
		return true;

	/* in the subtransaction it would leave the session in an aborted one */
	if (!sagg_is_record_fault(error))
		ReThrowError(error);
	why->message = error->message;
	why->detail = error->detail;
	return false;
}
