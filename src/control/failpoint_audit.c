/*-------------------------------------------------------------------------
 *
 * failpoint_audit.c
 *	  Functions by which the fault tests inspect shared memory.  For libraries
 *	  built with "make FAILPOINTS=1" only; the tests declare the functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"

#include "control.h"

PG_FUNCTION_INFO_V1(stream_agg_failpoint_store);
PG_FUNCTION_INFO_V1(stream_agg_failpoint_segment);

/*
 * failpoint_store(query regclass, OUT handle bigint, OUT in_batch bool, OUT
 * batch bigint, OUT bytes bigint, OUT objects bigint, OUT reachable bigint,
 * OUT deaths int).  All but deaths are null if the stream has no store.
 */
Datum
stream_agg_failpoint_store(PG_FUNCTION_ARGS)
{
	Oid			view = PG_GETARG_OID(0);
	dsa_handle	handle = DSM_HANDLE_INVALID;
	int			crashes = 0;
	SaggSlot   *slot;
	SaggStoreAudit audit;
	TupleDesc	tupdesc;
	Datum		values[8] = {0};
	bool		nulls[8] = {true, true, true, true, true, true, false, true};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	slot = sagg_slot_find(MyDatabaseId, view);
	if (slot)
	{
		handle = slot->store;
		crashes = slot->crashes;
	}
	LWLockRelease(sagg_shared->lock);

	values[6] = Int32GetDatum(crashes);
	if (sagg_store_audit(handle, &audit))
	{
		memset(nulls, 0, sizeof(nulls));
		values[0] = Int64GetDatum((int64) handle);
		values[1] = BoolGetDatum(audit.in_batch);
		values[2] = Int64GetDatum(audit.batch);
		values[3] = Int64GetDatum(audit.allocated_bytes);
		values[4] = Int64GetDatum(audit.allocated_objects);
		values[5] = Int64GetDatum(audit.reachable_objects);
		values[7] = Int64GetDatum(audit.units_out);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * failpoint_segment(handle bigint): returns whether such a store still takes
 * memory.
 */
Datum
stream_agg_failpoint_segment(PG_FUNCTION_ARGS)
{
	SaggStoreAudit audit;

	PG_RETURN_BOOL(sagg_store_audit((dsa_handle) PG_GETARG_INT64(0), &audit));
}
