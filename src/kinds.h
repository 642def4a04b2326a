/*-------------------------------------------------------------------------
 *
 * kinds.h
 *	  The header for libraries outside of stream_agg that register kinds of sources
 *	  or of sinks: #include "extension/stream_agg/kinds.h".
 *
 * It is installed together with the two headers that it includes.  A library needs
 * no other header of stream_agg.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_KINDS_H
#define SAGG_KINDS_H

#include "sink.h"
#include "source.h"

#endif							/* SAGG_KINDS_H */
