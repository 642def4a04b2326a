/*
 * crash_on.c
 *	  A function that ends its process by SIGSEGV, as one with a bug would.
 */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(crash_on);

/* crash_on(value integer, bad integer): the value, unless it is the bad one */
Datum
crash_on(PG_FUNCTION_ARGS)
{
	if (PG_GETARG_INT32(0) == PG_GETARG_INT32(1))
	{
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	}
	PG_RETURN_INT32(PG_GETARG_INT32(0));
}
