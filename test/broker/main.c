/*
 * main.c
 *	  Subcommands of kafka_tool, and what they share.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "kafka_tool.h"

static const char usage[] =
"kafka_tool serve --ready-file FILE [--topic NAME:PARTITIONS]... [--control SOCKET] [--parent PID]\n"
"    runs a broker inside this process, until SIGTERM or until PID is gone, and\n"
"    writes its address to FILE.  It speaks Kafka's protocol over TCP, without\n"
"    transactions, and keeps at most 5 MiB (uncompressed batches as they were\n"
"    sent) per partition: what is older goes.  Nothing is kept on disk.\n"
"kafka_tool control SOCKET down|up|rtt MS|topic NAME PARTITIONS|hide NAME|show NAME|refuse-commits N\n"
"    tells a running broker to refuse connections, to accept them again, to\n"
"    answer late, to create a topic, to deny that it has one, to own up again,\n"
"    to refuse the next N commits of offsets\n"
"kafka_tool produce --brokers LIST --topic NAME [--partition N] [--tab] [--check] [--compression CODEC] [--linger MS]\n"
"                   [--timestamp MS] [--header NAME=VALUE] [--property NAME=VALUE]...\n"
"                   [--transaction ID [--abort]]\n"
"    sends the lines of stdin as records; with --tab a line is\n"
"    partition<TAB>key<TAB>payload, where partition and key may be empty and the\n"
"    payload \\N is none.  Ends with status 0 when all are acknowledged, and\n"
"    with --check only if the broker still has the first of them.  All are one\n"
"    transaction with --transaction, which needs a real Kafka.\n"
"kafka_tool generate --records N [--seed S] [--users N] [--start SECONDS] [--span SECONDS]\n"
"        [--disorder SECONDS] [--late SHARE] [--partitions N] [--rate N] [--countries N]\n"
"    prints clickstream records for produce --tab; --start counts since 1970\n"
"kafka_tool consume --brokers LIST --topic NAME\n"
"    reads a topic from its first to its last record and tells how long it took\n"
"kafka_tool committed --brokers LIST --topic NAME --group NAME\n"
"    prints partition and offset of what a consumer group has committed\n"
"kafka_tool admin --brokers LIST [--property NAME=VALUE]... COMMAND\n"
"        create TOPIC PARTITIONS REPLICAS [NAME=VALUE]... | delete TOPIC |\n"
"        partitions TOPIC TOTAL | delete-records TOPIC PARTITION BEFORE |\n"
"        alter topic|broker NAME [NAME=VALUE]... | leader TOPIC PARTITION |\n"
"        await-node NODE\n"
"    changes a real Kafka, or asks it\n"
"kafka_tool proxy --listen PORT --to PORT --control SOCKET [--parent PID]\n"
"    carries connections from one port of 127.0.0.1 to another; told by control\n"
"    cut (ends all, takes none), block (carries nothing), slow BYTES-PER-SECOND\n"
"    or pass\n";

void
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fprintf(stderr, "kafka_tool: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

rd_kafka_t *
make_client(rd_kafka_type_t type, rd_kafka_conf_t *conf, const char *brokers,
			const char *const *properties)
{
	char		reason[512];
	rd_kafka_t *client;

	if (conf == NULL)
		conf = rd_kafka_conf_new();
	if (brokers && rd_kafka_conf_set(conf, "bootstrap.servers", brokers,
									 reason, sizeof(reason)) != RD_KAFKA_CONF_OK)
		die("%s", reason);
	for (; properties && *properties; properties++)
	{
		char		name[128];
		const char *equals = strchr(*properties, '=');

		snprintf(name, sizeof(name), "%.*s", (int) (equals - *properties), *properties);
		if (rd_kafka_conf_set(conf, name, equals + 1, reason, sizeof(reason)) != RD_KAFKA_CONF_OK)
			die("%s", reason);
	}
	client = rd_kafka_new(type, conf, reason, sizeof(reason));
	if (client == NULL)
		die("%s", reason);
	return client;
}

double
wall_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

double
cpu_seconds(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
		(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int
main(int argc, char **argv)
{
	static const struct
	{
		const char *name;
		int			(*run) (int argc, char **argv);
	}			commands[] = {
		{"serve", serve_main},
		{"control", control_main},
		{"produce", produce_main},
		{"generate", generate_main},
		{"consume", consume_main},
		{"admin", admin_main},
		{"committed", committed_main},
		{"proxy", proxy_main}
	};

	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++)
	{
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}
	fputs(usage, argc > 1 && strcmp(argv[1], "--help") == 0 ? stdout : stderr);
	return argc > 1 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
}
