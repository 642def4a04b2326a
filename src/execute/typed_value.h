/*-------------------------------------------------------------------------
 *
 * typed_value.h
 *	  Values within states of the extension's own aggregates; see
 *	  typed_value.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_TYPED_VALUE_H
#define SAGG_TYPED_VALUE_H

#include "fmgr.h"
#include "lib/stringinfo.h"

/* the type of a value, and how it is stored */
typedef struct SaggValueType
{
	Oid			oid;
	int16		len;
	bool		byval;
} SaggValueType;

extern MemoryContext sagg_aggregate_context(FunctionCallInfo fcinfo, const char *aggregates);
extern SaggValueType sagg_value_type_of(FunctionCallInfo fcinfo, int argument,
										const SaggValueType *known, const char *aggregates);
extern void sagg_value_check_type(const SaggValueType *type, Oid expected, const char *aggregates);
extern int	sagg_value_compare(FunctionCallInfo fcinfo, const SaggValueType *type, Datum a, Datum b);
extern void sagg_value_send_type(StringInfo buf, Oid type);
extern SaggValueType sagg_value_receive_type(StringInfo buf, const char *aggregates);
extern void sagg_value_send(FunctionCallInfo fcinfo, Oid type, StringInfo buf, Datum value);
extern Datum sagg_value_receive(FunctionCallInfo fcinfo, Oid type, StringInfo buf);

#endif							/* SAGG_TYPED_VALUE_H */
