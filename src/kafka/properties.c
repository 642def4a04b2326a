/*-------------------------------------------------------------------------
 *
 * properties.c
 *	  The options: an allow-list of librdkafka's properties.
 *
 * librdkafka can load plugins, run programs and read any file the server can,
 * as soon as a property is set.  So what is not listed here never reaches it:
 * plugin.*, ssl.engine.* and SASL mechanisms that run programs (GSSAPI) or
 * fetch URLs (OAUTHBEARER, with which librdkafka 2.0.2 also crashes, when it
 * renews a token) are not available to anybody; file locations only to
 * superusers.  Properties that stream_agg itself decides (group.id, offsets,
 * callbacks) cannot be set either.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <stdio.h>
#include <librdkafka/rdkafka.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "kafka_internal.h"
#include "properties.h"

#define SERVER		SAGG_OPT_SERVER
#define PRIVATE		(SAGG_OPT_MAPPING | SAGG_OPT_SECRET)

static const SaggOption options[] = {
	{"brokers", "bootstrap.servers", SERVER},
	{"broker.address.family", "broker.address.family", SERVER},
	{"broker.address.ttl", "broker.address.ttl", SERVER},
	{"check.crcs", "check.crcs", SERVER},
	{"client.id", "client.id", SERVER},
	{"client.rack", "client.rack", SERVER},
	{"compression.level", "compression.level", SERVER},
	{"compression.type", "compression.type", SERVER},
	{"connections.max.idle.ms", "connections.max.idle.ms", SERVER},
	{"enable.ssl.certificate.verification", "enable.ssl.certificate.verification", SERVER},
	{"fetch.error.backoff.ms", "fetch.error.backoff.ms", SERVER},
	{"fetch.max.bytes", "fetch.max.bytes", SERVER},
	{"fetch.message.max.bytes", "fetch.message.max.bytes", SERVER},
	{"fetch.min.bytes", "fetch.min.bytes", SERVER},
	{"fetch.wait.max.ms", "fetch.wait.max.ms", SERVER},
	{"isolation.level", "isolation.level", SERVER},
	{"max.partition.fetch.bytes", "max.partition.fetch.bytes", SERVER},
	{"message.max.bytes", "message.max.bytes", SERVER},
	{"metadata.max.age.ms", "metadata.max.age.ms", SERVER},
	{"receive.message.max.bytes", "receive.message.max.bytes", SERVER},
	{"reconnect.backoff.max.ms", "reconnect.backoff.max.ms", SERVER},
	{"reconnect.backoff.ms", "reconnect.backoff.ms", SERVER},
	{"retry.backoff.ms", "retry.backoff.ms", SERVER},
	{"sasl.mechanism", "sasl.mechanism", SERVER},
	{"sasl.mechanisms", "sasl.mechanisms", SERVER},
	{"security.protocol", "security.protocol", SERVER},
	{"socket.connection.setup.timeout.ms", "socket.connection.setup.timeout.ms", SERVER},
	{"socket.keepalive.enable", "socket.keepalive.enable", SERVER},
	{"socket.nagle.disable", "socket.nagle.disable", SERVER},
	{"socket.receive.buffer.bytes", "socket.receive.buffer.bytes", SERVER},
	{"socket.timeout.ms", "socket.timeout.ms", SERVER},
	{"ssl.ca.location", "ssl.ca.location", SERVER | SAGG_OPT_SUPERUSER},
	{"ssl.ca.pem", "ssl.ca.pem", SERVER | SAGG_OPT_MAPPING},
	{"ssl.cipher.suites", "ssl.cipher.suites", SERVER},
	{"ssl.crl.location", "ssl.crl.location", SERVER | SAGG_OPT_SUPERUSER},
	{"ssl.curves.list", "ssl.curves.list", SERVER},
	{"ssl.endpoint.identification.algorithm", "ssl.endpoint.identification.algorithm", SERVER},
	{"ssl.sigalgs.list", "ssl.sigalgs.list", SERVER},
	{"topic.metadata.refresh.interval.ms", "topic.metadata.refresh.interval.ms", SERVER},

	{"user", "sasl.username", SAGG_OPT_MAPPING},
	{"password", "sasl.password", PRIVATE},
	{"ssl.certificate.pem", "ssl.certificate.pem", PRIVATE},
	{"ssl.key.pem", "ssl.key.pem", PRIVATE},
	{"ssl.key.password", "ssl.key.password", PRIVATE},
	{"ssl.certificate.location", "ssl.certificate.location", SAGG_OPT_MAPPING | SAGG_OPT_SUPERUSER},
	{"ssl.key.location", "ssl.key.location", SAGG_OPT_MAPPING | SAGG_OPT_SUPERUSER},

	{"consumer_groups", NULL, SERVER},
	{"schema.registry", NULL, SERVER},
	{"schema.registry.ca.pem", NULL, SERVER},
	{"schema.registry.user", NULL, SAGG_OPT_MAPPING},
	{"schema.registry.password", NULL, PRIVATE},

	{"topic", NULL, SAGG_OPT_TABLE},
	{"topics", NULL, SAGG_OPT_TABLE},
	{"topic_pattern", NULL, SAGG_OPT_TABLE},
	{"format", NULL, SAGG_OPT_TABLE},
	{"delimiter", NULL, SAGG_OPT_TABLE},
	{"quote", NULL, SAGG_OPT_TABLE},
	{"null", NULL, SAGG_OPT_TABLE},
	{"other_operations", NULL, SAGG_OPT_TABLE},
	{"tombstones", NULL, SAGG_OPT_TABLE},
	{"proto", NULL, SAGG_OPT_TABLE},
	{"descriptor_set", NULL, SAGG_OPT_TABLE},
	{"message", NULL, SAGG_OPT_TABLE},
	{"on_error", NULL, SAGG_OPT_TABLE},

	{"field", NULL, SAGG_OPT_COLUMN},
	{"any_case", NULL, SAGG_OPT_COLUMN},
	{"path", NULL, SAGG_OPT_COLUMN},
	{"envelope", NULL, SAGG_OPT_COLUMN},
	{"unit", NULL, SAGG_OPT_COLUMN},
	{"metadata", NULL, SAGG_OPT_COLUMN}
};

/*
 * Returns the option of this name for a kind of object (one of
 * SAGG_OPT_SERVER, _MAPPING, _TABLE, _COLUMN), or NULL.
 */
const SaggOption *
sagg_option_find(const char *name, int object)
{
	for (int i = 0; i < lengthof(options); i++)
	{
		if ((options[i].flags & object) && strcmp(options[i].name, name) == 0)
			return &options[i];
	}
	return NULL;
}

/*
 * Returns the names of all options for a kind of object, for a hint; palloc'd.
 */
char *
sagg_option_names(int object)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(options); i++)
	{
		if (options[i].flags & object)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
							 options[i].name);
	}
	return names.data;
}

/*
 * Returns a sentence for a hint about the options of a kind of object: the
 * option that was most likely meant, or all of them; palloc'd.
 */
static char *
option_hint(const char *name, int object, const char *object_name)
{
	SaggClosest closest;

	sagg_closest_begin(&closest, name);
	for (int i = 0; i < lengthof(options); i++)
	{
		if (options[i].flags & object)
			sagg_closest_try(&closest, options[i].name);
	}
	return closest.match ? psprintf("Perhaps you meant the option \"%s\".", closest.match) :
		psprintf("Options of a %s are: %s.", object_name, sagg_option_names(object));
}

/*
 * Returns whether librdkafka has a property of this name, of clients or of
 * topics.  Searches the table that librdkafka prints, whose lines start with a
 * name: setting a property in order to find out can do harm, and getting one
 * also fails for those without a value.
 */
static bool
is_property(const char *name)
{
	char	   *table = NULL;
	size_t		table_len = 0;
	size_t		len = strlen(name);
	FILE	   *out = open_memstream(&table, &table_len);
	bool		found = false;

	if (out == NULL)
		return false;
	rd_kafka_conf_properties_show(out);
	if (fclose(out) == 0 && len > 0 && strcspn(name, " |\n") == len)
	{
		for (const char *line = table; line && !found; line = strchr(line, '\n'))
		{
			line += *line == '\n';
			found = strncmp(line, name, len) == 0 && line[len] == ' ';
		}
	}
	free(table);
	return found;
}

/*
 * Returns the option that sets a property, if that has a name of its own or
 * belongs to another kind of object; NULL if there is none.
 */
static const SaggOption *
option_of_property(const char *name)
{
	for (int i = 0; i < lengthof(options); i++)
	{
		if (options[i].property && strcmp(options[i].property, name) == 0)
			return &options[i];
	}
	return NULL;
}

/*
 * Raise the error for an option of servers that was given to a user mapping,
 * or the other way round.  Everybody can read the options of servers: a secret
 * given as one goes neither into the message nor, with the statement, into the
 * log.
 */
static void
reject_misplaced(const SaggOption *option, const char *object_name)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errhidestmt((option->flags & SAGG_OPT_SECRET) != 0),
			 errmsg("option \"%s\" cannot be set for a %s", option->name, object_name),
			 (option->flags & SAGG_OPT_SECRET) ?
			 errdetail("Everybody can read the options of a server.") : 0,
			 errhint("Use option \"%s\" of a %s.", option->name,
					 option->flags & SAGG_OPT_SERVER ? "server" : "user mapping")));
}

/*
 * Raise fdw_invalid_option_name for an option that an object cannot have.
 * "object_name" is for the message, such as "server".
 */
void
sagg_option_reject(const char *name, int object, const char *object_name)
{
	const SaggOption *option = option_of_property(name);
	bool		kafka = (object & (SAGG_OPT_SERVER | SAGG_OPT_MAPPING)) != 0;
	const SaggOption *misplaced = sagg_option_find(name, SAGG_OPT_SERVER | SAGG_OPT_MAPPING);

	if (kafka && misplaced)
		reject_misplaced(misplaced, object_name);
	if (kafka && option)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errhidestmt((option->flags & SAGG_OPT_SECRET) != 0),
				 errmsg("property \"%s\" cannot be set for a %s", name, object_name),
				 errhint("Use option \"%s\" of a %s.", option->name,
						 option->flags & SAGG_OPT_SERVER ? "server" : "user mapping")));
	if (kafka && is_property(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("property \"%s\" cannot be set", name),
				 errdetail("It is decided by stream_agg itself, has no effect, or could make the server run programs or open files."),
				 errhint("Options of a %s are: %s.", object_name, sagg_option_names(object))));
	if (object == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\" for a %s", name, object_name),
				 errhint("A %s has no options.", object_name)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\" for a %s", name, object_name),
			 errhint("%s", option_hint(name, object, object_name))));
}

/*
 * Returns whether an option belongs to a source and not to its server; not
 * those that create_source has parameters for.
 */
bool
sagg_option_of_table(const char *name)
{
	return strncmp(name, "topic", 5) != 0 && strcmp(name, "format") != 0 &&
		sagg_option_find(name, SAGG_OPT_TABLE) != NULL;
}

/*
 * Raise fdw_invalid_option_name for a name that is an option neither of a
 * source nor of its server, nor a property of librdkafka (the validator
 * rejects those with a reason).
 */
void
sagg_option_check_name(const char *name)
{
	const int	objects = SAGG_OPT_TABLE | SAGG_OPT_SERVER;

	if (sagg_option_find(name, objects | SAGG_OPT_MAPPING) || is_property(name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\" for a source or its server", name),
			 errhint("%s", option_hint(name, objects, "source and its server"))));
}

static void
check_mechanism(const char *value)
{
	static const char *const allowed[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"};

	for (int i = 0; i < lengthof(allowed); i++)
	{
		if (pg_strcasecmp(value, allowed[i]) == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("SASL mechanism \"%s\" cannot be used", value),
			 errhint("Mechanisms are PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.")));
}

/*
 * Returns whether [host, end) is the name of a host, an IPv4 address or an
 * IPv6 address in brackets.
 */
static bool
host_is_sane(const char *host, const char *end)
{
	const char *allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

	if (end - host > 2 && host[0] == '[' && end[-1] == ']')
	{
		/* IPv6, perhaps with an IPv4 address in it, or a zone behind it */
		allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%";
		host++;
		end--;
	}
	return end > host && strspn(host, allowed) >= end - host;
}

/*
 * Returns whether [host, end) is a host and, from "colon" on if not NULL, a
 * port.  Anything else might be a password, for everybody to read.
 */
static bool
broker_is_sane(const char *host, const char *colon, const char *end)
{
	while (end > host && isspace((unsigned char) end[-1]))
		end--;
	if (!host_is_sane(host, colon ? colon : end))
		return false;
	if (colon)
	{
		size_t		digits = strspn(colon + 1, "0123456789");
		long		port = strtol(colon + 1, NULL, 10);

		return digits > 0 && colon + 1 + digits == end && port > 0 && port <= 65535;
	}
	return true;
}

/*
 * Returns whether [start, end) is a protocol that librdkafka accepts in front
 * of a broker.
 */
static bool
is_protocol(const char *start, const char *end)
{
	static const char *const known[] = {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"};

	for (int i = 0; i < lengthof(known); i++)
	{
		if (end - start == strlen(known[i]) &&
			pg_strncasecmp(start, known[i], end - start) == 0)
			return true;
	}
	return false;
}

/*
 * Raise the error for an invalid list of brokers.  What may be a password goes
 * neither into the message nor, with the statement, into the log.
 */
static void
reject_brokers(const char *value)
{
	if (strchr(value, '@') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errhidestmt(true),
				 errmsg("option \"brokers\" cannot hold credentials"),
				 errhint("Use the options \"user\" and \"password\" of a user mapping.")));
	if (sagg_value_has_userinfo(value))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errhidestmt(true),
				 errmsg("invalid value for option \"brokers\""),
				 errdetail("A broker has a host, with an IPv6 address in brackets, and a port."),
				 errhint("Write host:port, more than one of them with commas between. User and password are options of a user mapping.")));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"brokers\": \"%s\"", value),
			 errhint("Write host:port, more than one of them with commas between.")));
}

/*
 * Check a list of "host:port", "host" or "[IPv6]:port", each perhaps behind
 * "protocol://".  The check is loose: whether such a host exists turns out
 * when it is used.
 */
static void
check_brokers(const char *value)
{
	const char *item = value;

	for (;;)
	{
		const char *end = item + strcspn(item, ",");
		const char *host;
		const char *colon = NULL;

		while (item < end && isspace((unsigned char) *item))
			item++;
		host = item;
		for (const char *p = item; p < end; p++)
		{
			if (strncmp(p, "://", 3) == 0 && host == item)
			{
				colon = NULL;
				host = is_protocol(item, p) ? p + 3 : end;
				if (host == end)
					break;
				p += 2;
			}
			else if (*p == ':')
				colon = p;
			else if (*p == ']')
				colon = NULL;
		}
		if (!broker_is_sane(host, colon, end))
			reject_brokers(value);
		if (*end == '\0')
			return;
		item = end + 1;
	}
}

/*
 * Check a backoff: without a pause after a broken connection or a failed
 * request, librdkafka's threads would do nothing else.
 */
static void
check_pause(const char *name, const char *value)
{
	static const struct
	{
		const char *name;
		int			least;
	}			pauses[] = {
		{"fetch.error.backoff.ms", 10},
		{"reconnect.backoff.max.ms", 100},
		{"reconnect.backoff.ms", 10},
		{"retry.backoff.ms", 10}
	};

	for (int i = 0; i < lengthof(pauses); i++)
	{
		if (strcmp(name, pauses[i].name) == 0 &&
			strtol(value, NULL, 0) < pauses[i].least)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
					 errhint("It must be at least %d.", pauses[i].least)));
	}
}

/*
 * Check an option's value before it is stored, without contacting anybody or
 * opening a file.  Raises fdw_invalid_attribute_value or
 * insufficient_privilege.
 */
void
sagg_option_check_value(const SaggOption *option, const char *value)
{
	rd_kafka_conf_t *conf;
	rd_kafka_conf_res_t result;
	char		reason[256] = "";

	if ((option->flags & SAGG_OPT_SUPERUSER) && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only superusers may set option \"%s\"", option->name),
				 errdetail("It names a file of the server."),
				 errhint("Give keys and certificates as text, by the options that end in .pem.")));
	if (strncmp(option->name, "sasl.mechanism", strlen("sasl.mechanism")) == 0)
		check_mechanism(value);
	if (strcmp(option->name, "brokers") == 0)
		check_brokers(value);
	check_pause(option->name, value);
	if (option->property == NULL || (option->flags & SAGG_OPT_SECRET) ||
		(option->flags & SAGG_OPT_SUPERUSER) || strstr(option->name, ".pem"))
		return;

	conf = rd_kafka_conf_new();
	result = rd_kafka_conf_set(conf, option->property, value, reason, sizeof(reason));
	rd_kafka_conf_destroy(conf);
	if (result != RD_KAFKA_CONF_OK)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
				 errdetail("librdkafka reports: %s.", reason)));
}
