/*-------------------------------------------------------------------------
 *
 * kinds.h
 *	  What a library outside of stream_agg includes to bring kinds of sources or
 *	  of sinks: #include "kinds.h".
 *
 * It is installed, with the two that it includes, which are of no use to such a
 * library by themselves or together with others of stream_agg.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_KINDS_H
#define SAGG_KINDS_H

#include "sink.h"
#include "source.h"

#endif							/* SAGG_KINDS_H */
