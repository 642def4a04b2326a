/*-------------------------------------------------------------------------
 *
 * user_locks.c
 *	  Advisory locks that the code of a stream's owner takes while a micro-batch
 *	  is only tried.
 *
 * Session-level locks outlive the subtransaction that is rolled back.  The
 * session of the user who inspects the stream would keep them unnoticed, also
 * after an error; and the stream's worker may wait for them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"

#include "inspect_internal.h"

/*
 * Returns the advisory locks that this session holds, in the current context:
 * pointers to LockInstanceData.
 */
List *
sagg_user_locks(void)
{
	LockData   *all = GetLockStatusData();
	List	   *locks = NIL;

	for (int i = 0; i < all->nelements; i++)
	{
		LockInstanceData *lock = &all->locks[i];

		if (lock->pid == MyProcPid && lock->holdMask != 0 &&
			lock->locktag.locktag_lockmethodid == USER_LOCKMETHOD)
			locks = lappend(locks, lock);
	}
	return locks;
}

static LOCKMASK
held_before(const List *before, const LOCKTAG *tag)
{
	ListCell   *lc;

	foreach(lc, before)
	{
		const LockInstanceData *lock = lfirst(lc);

		if (memcmp(&lock->locktag, tag, sizeof(LOCKTAG)) == 0)
			return lock->holdMask;
	}
	return 0;
}

/*
 * Release the advisory locks that are held and are not among "before", which
 * sagg_user_locks has returned.  There must be no new transaction-level ones.
 */
void
sagg_user_locks_release(const List *before)
{
	ListCell   *lc;

	foreach(lc, sagg_user_locks())
	{
		const LockInstanceData *lock = lfirst(lc);
		LOCKMASK	fresh = lock->holdMask & ~held_before(before, &lock->locktag);

		for (LOCKMODE mode = AccessShareLock; mode <= AccessExclusiveLock; mode++)
		{
			while ((fresh & LOCKBIT_ON(mode)) && SAGG_HOLDS_LOCK(&lock->locktag, mode))
			{
				if (!LockRelease(&lock->locktag, mode, true))
					break;
			}
		}
	}
}
