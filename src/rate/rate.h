/*-------------------------------------------------------------------------
 *
 * rate.h
 *	  The source kind rate: numbered rows that come at a given rate, with the time
 *	  of each, made up where they are read.
 *
 * It is registered by stream_agg.c, and no other room includes this header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_RATE_H
#define SAGG_RATE_H

#include "source_kinds.h"

extern const SaggSourceKind sagg_rate_source;

#endif							/* SAGG_RATE_H */
