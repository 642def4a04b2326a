/*-------------------------------------------------------------------------
 *
 * sessions.h
 *	  Session windows: what sessions.c, session_close.c and those who read
 *	  entries of groups ask of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SESSIONS_H
#define SAGG_SESSIONS_H

#include "execute_internal.h"

/* all sessions of a partition are in one table, which is called this */
#define SAGG_SESSIONS_TABLE		INT64CONST(0)

/* A session in the store that is now part of a session of the batch. */
typedef struct SaggSessionPart
{
	struct SaggSessionPart *next;
	dsa_pointer version;
	int64		start;
	int64		end;
} SaggSessionPart;

/*
 * A session of a key that the batch has met.  A group of a query with session
 * windows always is one.
 */
typedef struct SaggSession
{
	SaggGroup	group;			/* first; "stored" is not used */
	int64		end;
	bool		loaded;			/* its states have been read */
	SaggSessionPart *parts;
} SaggSession;

/* A key that the batch has met, with all of its open sessions. */
typedef struct SaggSessionKey
{
	uint32		hash;
	int			n;
	int			max;
	SaggSession **sessions;		/* by start; they do not touch each other */
	Datum	   *keys;
	bool	   *keynulls;
} SaggSessionKey;

#define SAGG_HAS_SESSIONS(ex)	((ex)->query->window.kind == SAGG_WINDOW_SESSION)

/*
 * Whether the watermark that the commit before left has passed a session, or
 * that of a record.
 */
static inline bool
sagg_session_passed(const SaggExecution *ex, int64 end)
{
	return ex->stream->mode != SAGG_COMPLETE && end <= ex->plan->watermark;
}

/* sessions.c */
extern void sagg_sessions_init(SaggExecution *ex);
extern void sagg_sessions_forget(SaggExecution *ex);
extern void sagg_session_row(SaggExecution *ex, TupleTableSlot *slot);
extern bool sagg_sessions_met(SaggExecution *ex, const SaggGroup *group);
extern SaggSessionKey *sagg_sessions_next(SaggExecution *ex, bool restart);
extern void sagg_session_load(SaggExecution *ex, SaggSession *session);

/* session_close.c */
extern void sagg_sessions_close(SaggExecution *ex);
extern void sagg_sessions_emit_stored(SaggExecution *ex);

/* store_due.c */
extern void sagg_due_prepare(SaggStore *store);
extern int64 sagg_due_first(const SaggStore *store);
extern void sagg_due_add(SaggStore *store, int64 end, uint32 hash);
extern uint32 *sagg_due_take(SaggStore *store, int64 until, int64 *n);

#endif							/* SAGG_SESSIONS_H */
