/*
 * transaction_block.c
 *	  Whether statements run in a transaction block.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(in_transaction_block);

/* in_transaction_block() returns boolean */
Datum
in_transaction_block(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(IsTransactionBlock());
}
