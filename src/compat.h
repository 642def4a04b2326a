/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The differences between PostgreSQL 15 and 18 that stream_agg meets,
 *	  all in one place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_COMPAT_H
#define SAGG_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "stream_agg needs PostgreSQL 15 or later"
#endif

#endif							/* SAGG_COMPAT_H */
