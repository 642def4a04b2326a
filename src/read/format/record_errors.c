/*-------------------------------------------------------------------------
 *
 * record_errors.c
 *	  Errors of records that are not to stop a stream.
 *
 * An error can be swallowed only by rolling back what led to it: the long way
 * from JSON to a Datum runs input functions and domain constraints, users'
 * code among them.  So it gets a subtransaction here, with the caller's memory
 * context and resource owner put back after it.  Errors that are not the
 * record's fault - a cancelled query, no memory - pass as they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decode.h"
#include "stream_agg.h"

/*
 * Is an error with this SQLSTATE, raised while a value of a record was made,
 * the record's fault?  Then it is lasting.  The types and the input functions
 * are those of all records, so the value is to blame for all but the state of
 * the server.  Input functions raise errors of many classes: that of tsvector
 * a syntax error, that of regclass an undefined table.  A privilege that is missing
 * is not the value's: that of a function which a domain checks by, for example.
 */
bool
sagg_is_record_fault(int sqlerrcode)
{
	if (sqlerrcode == ERRCODE_SAGG_INVALID_RECORD)
		return true;
	if (sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return false;
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
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
 * Run convert(arg).  Returns false, with the reason in the current memory
 * context, if it raised an error that is the record's fault; all it did is
 * undone then.
 */
bool
sagg_record_protect(void (*convert) (void *arg), void *arg, SaggRecordError *why)
{
	ErrorData  *error = sagg_try(convert, arg);

	if (error == NULL)
		return true;

	/* in the subtransaction it would leave a session in a failed one */
	if (!sagg_is_record_fault(error->sqlerrcode))
		ReThrowError(error);
	why->message = error->message;
	why->detail = error->detail;
	return false;
}
