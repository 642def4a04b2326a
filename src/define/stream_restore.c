/*-------------------------------------------------------------------------
 *
 * stream_restore.c
 *	  Streams that come out of a dump: they are stopped.
 *
 * A stream runs in the database it was started in, which its row names.  A
 * physical copy of the row, by CREATE DATABASE ... TEMPLATE, names another
 * database than the one it is in.  A logical copy may be restored into a
 * database that happens to have the OID of the original, so its rows are
 * marked as they are inserted: of no database.  create_stream and start_stream
 * set the database by an UPDATE.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/rel.h"

#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_on_insert);

/*
 * The column may have another type if the trigger is on another table.
 */
static bool
is_streams(Relation rel)
{
	return strcmp(RelationGetRelationName(rel), "streams") == 0 &&
		RelationGetNamespace(rel) == get_namespace_oid(SAGG_SCHEMA, true);
}

/*
 * on_insert(): trigger BEFORE INSERT on stream_agg.streams.
 */
Datum
stream_agg_on_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Datum		value = ObjectIdGetDatum(InvalidOid);
	bool		isnull = false;
	int			column;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!is_streams(trigger->tg_relation))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be a trigger before INSERT for each row of table \"%s\"",
						"stream_agg.on_insert", "stream_agg.streams")));
	column = SPI_fnumber(RelationGetDescr(trigger->tg_relation), "database");
	if (column <= 0)
		elog(ERROR, "table \"%s\" has no column \"database\"",
			 RelationGetRelationName(trigger->tg_relation));
	return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_trigtuple,
													 RelationGetDescr(trigger->tg_relation),
													 1, &column, &value, &isnull));
}
