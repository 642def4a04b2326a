/*-------------------------------------------------------------------------
 *
 * row_receiver.c
 *	  What a DestReceiver needs that does nothing but take rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream_agg.h"

static void
begin_rows(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
end_rows(DestReceiver *self)
{
}

/*
 * Set up a receiver that calls "receive" for each row, and does nothing before and after
 * them; the caller may set other functions afterwards.  It is the caller's.
 */
void
sagg_receiver_init(DestReceiver *receiver, CommandDest dest,
				   bool (*receive) (TupleTableSlot *slot, DestReceiver *self))
{
	receiver->receiveSlot = receive;
	receiver->rStartup = begin_rows;
	receiver->rShutdown = end_rows;
	receiver->rDestroy = end_rows;
	receiver->mydest = dest;
}
