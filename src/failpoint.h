/*-------------------------------------------------------------------------
 *
 * failpoint.h
 *	  Places where a test can make a stream's worker fail.
 *
 * SAGG_FAILPOINT("stage.place") marks one.  Only a library built with "make
 * FAILPOINTS=1" has them; in any other the macro is empty, and the library
 * contains neither its symbols nor its strings.
 *
 * Failpoints come after what their name says, are never reached with a
 * lightweight lock held, and change nothing unless a test has armed them
 * (failpoint.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_FAILPOINT_H
#define SAGG_FAILPOINT_H

#ifdef SAGG_FAILPOINTS
extern void sagg_failpoint(const char *name);
extern void sagg_failpoint_stream(const char *stream);

#define SAGG_FAILPOINT(name)	sagg_failpoint(name)
/* this process is the worker of a stream, whose name must stay allocated */
#define SAGG_FAILPOINT_STREAM(stream)	sagg_failpoint_stream(stream)
#else
#define SAGG_FAILPOINT(name)	((void) 0)
#define SAGG_FAILPOINT_STREAM(stream)	((void) 0)
#endif

#endif							/* SAGG_FAILPOINT_H */
