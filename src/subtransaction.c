/*-------------------------------------------------------------------------
 *
 * subtransaction.c
 *	  Runs code that may fail without failing the transaction.
 *
 * Never swallows an error by itself: the caller decides which errors it expects,
 * and raises the others again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "stream_agg.h"

/*
 * Run function(arg) in a subtransaction.  Returns NULL, or the error that it
 * raised, as a copy in the current memory context; then everything it did is
 * rolled back.  Memory context and resource owner are those of the caller
 * afterwards.
 */
ErrorData *
sagg_try(void (*function) (void *arg), void *arg)
{
	MemoryContext memory = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(memory);
	PG_TRY();
	{
		function(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(memory);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Returns whether an error says that a partitioned table has no partition for a row:
 * a check_violation that names a table and no constraint.
 */
bool
sagg_error_of_partition(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_CHECK_VIOLATION &&
		error->table_name != NULL && error->constraint_name == NULL;
}

/*
 * Returns whether an error is a data error: one that other data would not have
 * raised.  Errors of the server, of connections, of other transactions, of the
 * definition, and of this extension are not.  Whether a missing partition is the
 * row's fault is for the caller to say: it might come.  Classes that begin with 5 to
 * 9 and I to Z are for RAISE ...  ERRCODE of users, unless they are the server's.
 */
bool
sagg_error_of_data(const ErrorData *error)
{
	int			sqlstate = error->sqlerrcode;
	char		first;

	if (sagg_error_of_partition(error))
		return false;
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('2', '1', '0', '0', '0'):	/* cardinality */
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):	/* data exception */
		case MAKE_SQLSTATE('2', '3', '0', '0', '0'):	/* constraint */
		case MAKE_SQLSTATE('2', 'F', '0', '0', '0'):	/* routines */
		case MAKE_SQLSTATE('3', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('3', '9', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '4', '0', '0', '0'):	/* check option */
		case MAKE_SQLSTATE('5', '4', '0', '0', '0'):	/* too long, too deep */
		case MAKE_SQLSTATE('P', '0', '0', '0', '0'):	/* RAISE */
			return true;
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('7', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('S', 'A', '0', '0', '0'):
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):
			return false;
	}
	first = PGUNSIXBIT(sqlstate);
	return (first >= '5' && first <= '9') || (first >= 'I' && first <= 'Z');
}
