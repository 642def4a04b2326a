/*-------------------------------------------------------------------------
 *
 * http_get.c
 *	  One HTTP request by libcurl.
 *
 * The owner of a server wrote the URL, so libcurl is restricted to http and
 * https, follows no redirects, and looks for proxies, passwords and cookies
 * neither in the environment nor in files.  The size of answers is bounded.
 *
 * libcurl's multi interface never blocks: this process itself waits, on its
 * latch and the connection, and serves interrupts.  A thread that libcurl
 * starts to look up a name is started with all signals blocked, and runs no
 * code of ours (I6).  No error is raised while libcurl is on the stack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/select.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "http_get.h"
#include "read/read_internal.h"

/* longest time between calls of libcurl */
#define SLICE_MS		50

/* handle with the connection of the last request, if that is kept, or NULL */
static CURLM *kept = NULL;

typedef struct Transfer
{
	CURLM	   *multi;
	bool		keep;
	CURL	   *easy;
	struct curl_slist *headers;
	char		error[CURL_ERROR_SIZE];
	char	   *body;			/* malloc'ed, because it is appended to in a
								 * callback of libcurl */
	size_t		len;
	size_t		max_size;
} Transfer;

/* libcurl calls this in our own thread; it must not call PostgreSQL. */
static size_t
append_body(char *data, size_t size, size_t n, void *arg)
{
	Transfer   *transfer = (Transfer *) arg;
	size_t		len = size * n;
	char	   *grown;

	if (len > transfer->max_size - transfer->len)
		return 0;
	grown = realloc(transfer->body, transfer->len + len + 1);
	if (grown == NULL)
		return 0;
	memcpy(grown + transfer->len, data, len);
	transfer->body = grown;
	transfer->len += len;
	return len;
}

/*
 * Set up the transfer; returns false if libcurl rejects an option or has no
 * memory.
 */
static bool
prepare(Transfer *transfer, const SaggHttpRequest *request)
{
	char		accept[200];
	CURL	   *easy;
	bool		good = true;

#define SET(option, value) \
	(good = good && curl_easy_setopt(easy, CURLOPT_##option, value) == CURLE_OK)

	transfer->multi = kept ? kept : curl_multi_init();
	kept = NULL;
	transfer->easy = easy = curl_easy_init();
	snprintf(accept, sizeof(accept), "Accept: %s", request->accept);
	transfer->headers = curl_slist_append(NULL, accept);
	if (transfer->multi == NULL || easy == NULL || transfer->headers == NULL)
		return false;
	SET(ERRORBUFFER, transfer->error);
	SET(URL, request->url);
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(PROTOCOLS_STR, "http,https");
#else
	SET(PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	SET(FOLLOWLOCATION, 0L);
	SET(PROXY, "");
	SET(NETRC, (long) CURL_NETRC_IGNORED);
	SET(NOSIGNAL, 1L);
	SET(USERAGENT, "stream_agg");
	SET(HTTPHEADER, transfer->headers);
	SET(TIMEOUT_MS, (long) request->timeout_ms);
	SET(CONNECTTIMEOUT_MS, (long) request->timeout_ms);
	SET(WRITEFUNCTION, append_body);
	SET(WRITEDATA, transfer);
	if (request->user)
	{
		SET(HTTPAUTH, (long) CURLAUTH_BASIC);
		SET(USERNAME, request->user);
		SET(PASSWORD, request->password ? request->password : "");
	}
	if (request->ca_pem)
	{
		struct curl_blob blob = {unconstify(char *, request->ca_pem), strlen(request->ca_pem), CURL_BLOB_COPY};

		SET(CAINFO_BLOB, &blob);
	}
#undef SET
	return good && curl_multi_setopt(transfer->multi, CURLMOPT_MAXCONNECTS, 1L) == CURLM_OK &&
		curl_multi_add_handle(transfer->multi, easy) == CURLM_OK;
}

static void
release(Transfer *transfer)
{
	if (transfer->multi && transfer->easy)
		curl_multi_remove_handle(transfer->multi, transfer->easy);
	if (transfer->easy)
		curl_easy_cleanup(transfer->easy);
	if (transfer->multi && transfer->keep)
		kept = transfer->multi;
	else if (transfer->multi)
		curl_multi_cleanup(transfer->multi);
	curl_slist_free_all(transfer->headers);
	free(transfer->body);
}

/*
 * Let libcurl do what it can do without waiting.  Returns whether it is done.
 */
static bool
perform(Transfer *transfer)
{
	sigset_t	all;
	sigset_t	save;
	int			running = 0;
	CURLMcode	result;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &save);
	result = curl_multi_perform(transfer->multi, &running);
	pthread_sigmask(SIG_SETMASK, &save, NULL);
	return result != CURLM_OK || running == 0;
}

/*
 * Wait on the latch and, if there is one, a socket of the transfer.
 */
static void
wait_for_transfer(Transfer *transfer, const SaggHttpRequest *request)
{
	static uint32 wait_event = 0;
	fd_set		readable;
	fd_set		writable;
	fd_set		exceptional;
	int			fd = -1;
	long		timeout = -1;
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

	if (wait_event == 0)
		wait_event = SAGG_WAIT_EVENT("StreamAggSchemaRegistry");
	FD_ZERO(&readable);
	FD_ZERO(&writable);
	FD_ZERO(&exceptional);
	(void) curl_multi_fdset(transfer->multi, &readable, &writable, &exceptional, &fd);
	if (fd >= 0 && FD_ISSET(fd, &readable))
		events |= WL_SOCKET_READABLE;
	if (fd >= 0 && FD_ISSET(fd, &writable))
		events |= WL_SOCKET_WRITEABLE;
	if ((events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE)) == 0)
		fd = PGINVALID_SOCKET;
	(void) curl_multi_timeout(transfer->multi, &timeout);
	if (timeout < 0 || timeout > SLICE_MS)
		timeout = SLICE_MS;
	if (WaitLatchOrSocket(MyLatch, events, fd, timeout, wait_event) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (request->check)
		request->check(request->check_arg);
}

/*
 * Returns the result of a finished transfer: NULL if there is an answer,
 * otherwise why there is none.
 */
static const char *
outcome(Transfer *transfer)
{
	int			left;
	CURLMsg    *message = curl_multi_info_read(transfer->multi, &left);

	if (message == NULL || message->msg != CURLMSG_DONE)
		return "libcurl failed";
	if (message->data.result == CURLE_OK)
		return NULL;
	if (message->data.result == CURLE_WRITE_ERROR)
		return "the answer is too large";
	sagg_foreign_text_clean(transfer->error);
	return transfer->error[0] ? transfer->error : curl_easy_strerror(message->data.result);
}

static void
init_libcurl(void)
{
	static bool done = false;
	sigset_t	all;
	sigset_t	save;

	if (done)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &save);
	done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
	pthread_sigmask(SIG_SETMASK, &save, NULL);
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not initialize libcurl")));
}

/*
 * Close the connection that was kept, if there is one.
 */
void
sagg_http_close(void)
{
	if (kept)
		curl_multi_cleanup(kept);
	kept = NULL;
}

/*
 * Returns the answer of a finished transfer, in the current memory context.
 */
static SaggHttpAnswer
take_body(Transfer *transfer)
{
	SaggHttpAnswer answer = {0};
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	answer.status = (int) status;
	answer.len = transfer->len;
	answer.body = palloc(transfer->len + 1);
	if (transfer->len > 0)
		memcpy(answer.body, transfer->body, transfer->len);
	answer.body[transfer->len] = '\0';
	return answer;
}

/*
 * Send a GET request, and wait for the answer, whatever its status; it is in
 * the current memory context.  If there is none in time, the result says why.
 * Raises out_of_memory, and what interrupts raise.
 */
SaggHttpAnswer
sagg_http_get(const SaggHttpRequest *request)
{
	/* not on the stack, because it must survive a longjmp */
	Transfer   *transfer = palloc0(sizeof(Transfer));
	SaggHttpAnswer answer = {0};
	const char *trouble;

	init_libcurl();
	transfer->max_size = request->max_size;
	PG_TRY();
	{
		if (!prepare(transfer, request))
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("libcurl could not be set up")));
		while (!perform(transfer))
			wait_for_transfer(transfer, request);
		trouble = outcome(transfer);
		if (trouble)
			answer.trouble = pstrdup(trouble);
		else
			answer = take_body(transfer);
		transfer->keep = request->keep && trouble == NULL;
	}
	PG_FINALLY();
	{
		release(transfer);
	}
	PG_END_TRY();
	pfree(transfer);
	return answer;
}

/*
 * Returns why a URL must not be used; NULL if it may.  Contacts nobody.
 */
const char *
sagg_http_url_problem(const char *url)
{
	const char *rest = strncmp(url, "http://", 7) == 0 ? url + 7 :
	strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;

	if (rest == NULL || *rest == '\0' || *rest == '/' || *rest == ':')
		return "It must begin with http:// or https:// and a host.";
	if (strpbrk(rest, "@?#"))
		return "It has no user, query or fragment; a user mapping has options for the user and the password.";
	for (const char *p = rest; *p; p++)
	{
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7f)
			return "It has characters that a URL cannot have.";
	}
	return NULL;
}
