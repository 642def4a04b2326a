/*-------------------------------------------------------------------------
 *
 * rate.h
 *	  The source kind rate: numbered rows that come at a given rate, with the time
 *	  of each, generated where they are read.
 *
 * stream_agg.c registers it, and no other room includes this header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_RATE_H
#define SAGG_RATE_H

#include "source_kinds.h"

extern const SaggSourceKind sagg_rate_source;

#endif							/* SAGG_RATE_H */
