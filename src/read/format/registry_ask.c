/*-------------------------------------------------------------------------
 *
 * registry_ask.c
 *	  Sends a request to a schema registry.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "read/read_internal.h"
#include "schema_registry.h"

#define MAX_ANSWER_SIZE		(4 * 1024 * 1024)

/*
 * Request a path of the registry, which begins with a slash, and wait for the
 * answer, in the current memory context.  Raises what interrupts raise.
 */
SaggHttpAnswer
sagg_registry_ask(const SaggRegistryAccess *access, const char *path)
{
	SaggHttpRequest request = {
		.url = psprintf("%s%s", access->url, path),
		.accept = "application/vnd.schemaregistry.v1+json",
		.user = access->user,
		.password = access->password,
		.ca_pem = access->ca_pem,
		.timeout_ms = sagg_kafka_timeout_ms,
		.max_size = MAX_ANSWER_SIZE,
		.keep = access->keep,
		.check = access->check,
		.check_arg = access->check_arg
	};

	return sagg_http_get(&request);
}
