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

/* From 17 on an extension's wait events have names. */
#if PG_VERSION_NUM >= 170000
#define SAGG_WAIT_EVENT(name)	WaitEventExtensionNew(name)
#else
#define SAGG_WAIT_EVENT(name)	PG_WAIT_EXTENSION
#endif

/* From 17 on a wait event set belongs to a resource owner. */
#if PG_VERSION_NUM >= 170000
#define SAGG_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(NULL, n)
#else
#define SAGG_CREATE_WAIT_EVENT_SET(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

#endif							/* SAGG_COMPAT_H */
