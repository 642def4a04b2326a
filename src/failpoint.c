/*-------------------------------------------------------------------------
 *
 * failpoint.c
 *	  Failpoints, for libraries built with "make FAILPOINTS=1" only.
 *
 * A test arms a failpoint of one stream's worker by a file in the data
 * directory, so it needs neither SQL nor a signal, and it survives a crash:
 *
 *		failpoint.STREAM	"NAME ACTION [HIT]": at the HIT-th time (default 1)
 *							this worker comes to the place, the file becomes
 *		failpoint.STREAM.hit	before anything happens; so it happens once,
 *							whatever becomes of the process, and is seen.
 *
 * Actions: "error" and "fatal" raise one, "kill" is SIGKILL to the process,
 * "hang" waits for
 *
 *		failpoint.STREAM.go	an action as above, or "go" to go on
 *
 * While it hangs, the process serves no interrupts; the test can inspect the
 * tables, do something to the server, and let the process continue.  Files are
 * put there by rename, so that none is read half written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/elog.h"

#include "stream_agg.h"

#define POLL_MICROSECONDS	1000
#define WORD_SIZE			64

/* SQLSTATE of the ERROR; of a class nothing else has, so it is retried as unknown */
#define ERRCODE_FAILPOINT	MAKE_SQLSTATE('F','P','0','0','1')

/* the stream of this process; NULL = it is not the worker of a stream */
static const char *my_stream = NULL;

/*
 * This process is the worker of a stream.  The caller owns the name, which
 * must live as long as the process.
 */
void
sagg_failpoint_stream(const char *stream)
{
	my_stream = stream;
}

/*
 * Get the files of this process's stream; returns false in other processes.
 */
static bool
file_of_stream(char *armed)
{
	if (my_stream == NULL)
		return false;
	snprintf(armed, MAXPGPATH, "failpoint.%s", my_stream);
	return true;
}

/*
 * Read the words of a file, each of WORD_SIZE bytes; returns their number, 0
 * if there is no such file.
 */
static int
read_words(const char *path, char *first, char *second, int *number)
{
	FILE	   *file = fopen(path, "r");
	int			n;

	if (file == NULL)
		return 0;
	n = fscanf(file, "%63s %63s %d", first, second, number);
	fclose(file);
	return Max(n, 0);
}

static void
act(const char *point, const char *action)
{
	if (strcmp(action, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FAILPOINT),
				 errmsg("failpoint %s", point)));
	if (strcmp(action, "fatal") == 0)
		ereport(FATAL,
				(errcode(ERRCODE_FAILPOINT),
				 errmsg("failpoint %s", point)));
	if (strcmp(action, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	if (strcmp(action, "go") != 0)
		elog(FATAL, "failpoint %s: unknown action \"%s\"", point, action);
}

/*
 * Wait until the test says what to do.
 */
static void
hang(const char *armed, const char *point)
{
	char		go[MAXPGPATH + 8];
	char		action[WORD_SIZE];
	char		ignore[WORD_SIZE];
	int			number;

	snprintf(go, sizeof(go), "%s.go", armed);
	while (read_words(go, action, ignore, &number) == 0)
	{
		if (!PostmasterIsAlive())
			proc_exit(1);
		pg_usleep(POLL_MICROSECONDS);
	}
	unlink(go);
	act(point, action);
}

/*
 * The process has reached a failpoint.
 */
void
sagg_failpoint(const char *point)
{
	static char counted[WORD_SIZE];
	static int	hits;
	char		armed[MAXPGPATH];
	char		hit[MAXPGPATH + 8];
	char		name[WORD_SIZE];
	char		action[WORD_SIZE];
	int			number = 1;

	if (!file_of_stream(armed) ||
		read_words(armed, name, action, &number) < 2 ||
		strcmp(name, point) != 0)
		return;
	if (strcmp(counted, point) != 0)
	{
		strlcpy(counted, point, sizeof(counted));
		hits = 0;
	}
	if (++hits < number)
		return;
	hits = 0;

	snprintf(hit, sizeof(hit), "%s.hit", armed);
	if (rename(armed, hit) != 0)
		elog(FATAL, "could not rename \"%s\": %m", armed);
	if (strcmp(action, "hang") == 0)
		hang(armed, point);
	else
		act(point, action);
}
