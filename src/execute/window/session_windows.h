/*-------------------------------------------------------------------------
 *
 * session_windows.h
 *	  Session windows: what session_windows.c, session_close.c and the readers
 *	  of entries share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SESSION_WINDOWS_H
#define SAGG_SESSION_WINDOWS_H

#include "window_kinds.h"

/*
 * The sessions of a partition are in one unit, which has this start, by the
 * hash of their keys.  If a hash has more than a few there, the others are in
 * a unit of that hash alone, ordered by their starts, too.
 */
#define SAGG_FEW_SESSIONS		16

/* A session in the store that is now part of a session of the batch. */
typedef struct SaggSessionPart
{
	struct SaggSessionPart *next;
	SaggStored	stored;
	int64		start;
	int64		end;
	bool		apart;			/* it is in the unit of its hash */
} SaggSessionPart;

/*
 * A session of a key that the batch has met.  A group of a query with session
 * windows always is one.
 */
typedef struct SaggSessionWindow
{
	SaggGroup	group;			/* must be first; "stored" is not used */
	int64		end;
	bool		loaded;			/* its states have been read */
	SaggSessionPart *parts;
	SaggSessionPart *last_part;
} SaggSessionWindow;

/* see session_list.c */
typedef struct SaggSessionBlock
{
	int			n;
	int			max;
	SaggSessionWindow **sessions;
} SaggSessionBlock;

typedef struct SaggSessionList
{
	int			nblocks;
	int			max;
	SaggSessionBlock *blocks;
} SaggSessionList;

typedef struct SaggSessionPlace
{
	int			block;
	int			index;
} SaggSessionPlace;

/* A key that the batch has met, with all of its open sessions. */
typedef struct SaggSessionKey
{
	uint32		hash;			/* hash as the store has it */
	int			nstored;		/* number of sessions of this hash in the unit
								 * of all sessions */
	SaggSessionList sessions;
	bool		deferred;		/* without those of the store; see
								 * batch_units.c */
	struct SaggSessionKey *next;	/* next key of its partition, where units
									 * leave memory */
	Datum	   *keys;
	bool	   *keynulls;
} SaggSessionKey;

#define SAGG_HAS_SESSIONS(ex)	((ex)->query->window.kind == SAGG_WINDOW_SESSION)

/*
 * Returns whether the watermark that the commit before left has passed a
 * session, or that of a record.
 */
static inline bool
sagg_session_passed(const SaggExecution *ex, int64 end)
{
	return ex->stream->mode != SAGG_COMPLETE && end <= ex->plan->watermark;
}

/* A walk over the stored sessions of one hash. */
typedef struct SaggSessionWalk
{
	uint32		hash;
	bool		apart;			/* it is in the unit of the hash */
	uint32		step;
	SaggUnit   *unit;			/* unit of all sessions */
	SaggScan	scan;			/* walk over the unit of the hash */
} SaggSessionWalk;

/* session_store.c */
extern void sagg_session_walk(SaggStore *store, uint32 hash, SaggSessionWalk *walk);
extern bool sagg_session_walk_next(SaggStore *store, SaggSessionWalk *walk,
								   SaggStored *stored);
extern uint32 sagg_session_scan_hash(const SaggScan *scan);
extern SaggStored sagg_session_stored(SaggExecution *ex, const SaggGroup *group,
									  bool *apart);
extern SaggStored sagg_session_put(SaggStore *store, uint32 hash, int64 start,
								   bool apart, SaggStored old, const StringInfo entry);
extern void sagg_session_bury(SaggStore *store, uint32 hash, int64 start,
							  bool apart, SaggStored stored);
extern void sagg_session_restore(SaggStore *store, uint32 hash, int64 start,
								 bool apart, SaggStored old,
								 const char *entry, Size len);
extern void sagg_session_forget(SaggStore *store, uint32 hash, int64 start,
								bool apart, SaggStored stored);

/* session_list.c */
extern SaggSessionWindow *sagg_session_at(const SaggSessionList *list,
										  SaggSessionPlace place);
extern SaggSessionPlace sagg_session_first(const SaggSessionList *list);
extern SaggSessionPlace sagg_session_next(const SaggSessionList *list,
										  SaggSessionPlace place);
extern SaggSessionPlace sagg_session_find(const SaggSessionList *list, int64 start);
extern SaggSessionPlace sagg_session_insert(SaggSessionList *list,
											SaggSessionPlace place,
											SaggSessionWindow *session);
extern void sagg_session_append(SaggSessionList *list, SaggSessionWindow *session);
extern void sagg_session_remove(SaggSessionList *list, SaggSessionPlace place);

/* session_windows.c */
extern bool sagg_sessions_met(SaggExecution *ex, const SaggGroup *group);
extern SaggSessionKey *sagg_sessions_next(SaggExecution *ex, bool restart);
extern SaggSessionKey *sagg_sessions_of(SaggExecution *ex, int partition);
extern void sagg_session_key_settle(SaggExecution *ex, SaggSessionKey *key);
extern SaggGroup *sagg_sessions_require(SaggExecution *ex,
										const SaggSessionWindow *part);
extern void sagg_session_load(SaggExecution *ex, SaggSessionWindow *session);

#endif							/* SAGG_SESSION_WINDOWS_H */
