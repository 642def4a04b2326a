/*-------------------------------------------------------------------------
 *
 * group_rights.c
 *	  Decides which consumer groups a stream may commit its offsets to.
 *
 * Whoever can commit to a group moves the consumers that read by it.  Kafka
 * decides by the credentials of the connection, and these need not be the
 * stream owner's: a user mapping for PUBLIC, or a broker that asks for no
 * credentials and that only the server can reach, would lend its rights to
 * every role.  So with such a connection a stream may only use one group of
 * its own, and the server's owner allows further ones by the option
 * consumer_groups.  A TLS key does not count as a credential: a client can
 * make one itself, and a broker need not check who has signed it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "streams/streams.h"
#include "kafka_internal.h"

/*
 * Returns whether a list like "billing, reports.*" has the group.  A star at
 * the end of a name stands for anything.
 */
static bool
is_listed(const char *list, const char *group)
{
	for (const char *item = list; *item;)
	{
		const char *end = item + strcspn(item, ",");
		const char *next = *end ? end + 1 : end;

		while (item < end && *item == ' ')
			item++;
		while (end > item && end[-1] == ' ')
			end--;
		if (end > item && end[-1] == '*')
		{
			if (strncmp(item, group, end - item - 1) == 0)
				return true;
		}
		else if (end > item && strlen(group) == end - item &&
				 strncmp(item, group, end - item) == 0)
			return true;
		item = next;
	}
	return false;
}

static bool
has_prefix(const char *text, const char *prefix)
{
	return text && pg_strncasecmp(text, prefix, strlen(prefix)) == 0;
}

/*
 * Returns whether Kafka identifies the role itself: by a mapping of its own,
 * with a password that the security protocol uses.
 */
static bool
is_known_to_kafka(ForeignServer *server, Oid role)
{
	const char *protocol = sagg_find_option(server->options, "security.protocol");

	if (!has_prefix(protocol, "sasl_") ||
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
							   ObjectIdGetDatum(server->serverid)))
		return false;
	return sagg_find_option(sagg_mapping_options(server->serverid, role), "password") != NULL;
}

/*
 * Returns the group that is a stream's own.  "stream" is its key, with the
 * quotes that distinguish a dot in a name from one between names.
 */
static char *
own_group(const char *stream)
{
	char	   *database = get_database_name(MyDatabaseId);
	bool		save = quote_all_identifiers;
	char	   *group;

	quote_all_identifiers = false;
	group = psprintf("stream_agg.%s.%s", database ? quote_identifier(database) : "", stream);
	quote_all_identifiers = save;
	return group;
}

static bool
owns_server(ForeignServer *server, Oid role)
{
	return has_privs_of_role(role, server->owner);
}

/*
 * Returns whether the stream "stream", a key, of the role "owner" may commit
 * to a consumer group of the Kafka cluster of "source".  In a transaction.
 */
bool
sagg_kafka_group_allowed(Oid source, Oid owner, const char *group, const char *stream)
{
	ForeignServer *server = GetForeignServer(GetForeignServerIdByRelId(source));
	const char *list = sagg_find_option(server->options, "consumer_groups");

	return strcmp(group, own_group(stream)) == 0 ||
		superuser_arg(owner) || owns_server(server, owner) ||
		(list ? is_listed(list, group) : is_known_to_kafka(server, owner));
}

/*
 * Raises insufficient_privilege if the stream may not commit to the group; for
 * its definition.
 */
void
sagg_kafka_group_check(Oid source, Oid owner, const char *group, const char *stream)
{
	ForeignServer *server;

	if (sagg_kafka_group_allowed(source, owner, group, stream))
		return;
	server = GetForeignServer(GetForeignServerIdByRelId(source));
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("stream \"%s\" may not commit to consumer group \"%s\"",
					sagg_stream_title(stream), group),
			 sagg_find_option(server->options, "consumer_groups") ?
			 errdetail("Option \"consumer_groups\" of server \"%s\" does not have it.", server->servername) :
			 errdetail("Role \"%s\" has no credentials of its own for server \"%s\".",
					   GetUserNameFromId(owner, false), server->servername),
			 errhint("Use consumer group \"%s\", or have the owner of the server allow others by its option \"consumer_groups\".",
					 own_group(stream))));
}
