/*-------------------------------------------------------------------------
 *
 * http_get.h
 *	  One HTTP request, for the schema registry only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_HTTP_GET_H
#define SAGG_HTTP_GET_H

#include "postgres.h"

typedef struct SaggHttpRequest
{
	const char *url;
	const char *accept;			/* media type to ask for */
	const char *user;			/* NULL = none */
	const char *password;		/* or NULL */
	const char *ca_pem;			/* certificates to trust; NULL = those of the
								 * system */
	int			timeout_ms;
	Size		max_size;		/* limit of the answer, in bytes */
	bool		keep;			/* the connection, until sagg_http_close */
	void		(*check) (void *arg);	/* called from time to time while
										 * waiting, or NULL */
	void	   *check_arg;
} SaggHttpRequest;

typedef struct SaggHttpAnswer
{
	int			status;			/* status; 0 = there is no answer */
	const char *trouble;		/* why there is none */
	char	   *body;			/* palloc'd, with a NUL behind it */
	Size		len;
} SaggHttpAnswer;

/* http_get.c */
extern SaggHttpAnswer sagg_http_get(const SaggHttpRequest *request);
extern void sagg_http_close(void);
extern const char *sagg_http_url_problem(const char *url);

#endif							/* SAGG_HTTP_GET_H */
