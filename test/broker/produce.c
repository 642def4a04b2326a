/*
 * produce.c
 *	  Lines of stdin as records, all acknowledged or status 1.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kafka_tool.h"

static long acknowledged;
static long failed;

static void
on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque)
{
	(void) client;
	(void) opaque;
	if (message->err)
	{
		if (failed++ < 5)
			fprintf(stderr, "kafka_tool: %s\n", rd_kafka_err2str(message->err));
	}
	else
		acknowledged++;
}

/* of every record: milliseconds, 0 = now; a header, NULL = none */
static int64_t timestamp_ms;
static char *header_name;
static char *header_value;

static void
send_record(rd_kafka_t *client, const char *topic, int partition,
			const char *key, const char *payload, size_t len)
{
	rd_kafka_headers_t *headers;

	for (;;)
	{
		rd_kafka_resp_err_t err;

		headers = rd_kafka_headers_new(1);
		if (header_name)
			rd_kafka_header_add(headers, header_name, -1, header_value, -1);
		err = rd_kafka_producev(client,
													RD_KAFKA_V_TOPIC(topic),
													RD_KAFKA_V_PARTITION(partition),
													RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
													RD_KAFKA_V_KEY(key, key ? strlen(key) : 0),
													RD_KAFKA_V_VALUE((void *) payload, len),
													RD_KAFKA_V_TIMESTAMP(timestamp_ms),
													RD_KAFKA_V_HEADERS(headers),
													RD_KAFKA_V_END);
		if (err)
			rd_kafka_headers_destroy(headers);

		if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
			rd_kafka_poll(client, 100);
		else if (err)
			die("%s", rd_kafka_err2str(err));
		else
			break;
	}
	rd_kafka_poll(client, 0);
}

static void
send_line(rd_kafka_t *client, const char *topic, int partition, char *line,
		  size_t len, bool tab)
{
	const char *key = NULL;
	char	   *payload = line;

	if (tab)
	{
		char	   *first = strchr(line, '\t');
		char	   *second = first ? strchr(first + 1, '\t') : NULL;

		if (second == NULL)
			die("a line has no two tabs: %s", line);
		*first = *second = '\0';
		if (*line)
			partition = atoi(line);
		if (first[1])
			key = first + 1;
		payload = second + 1;
		len -= payload - line;
		if (strcmp(payload, "\\N") == 0)
			payload = NULL;
	}
	send_record(client, topic, partition, key, payload, payload ? len : 0);
}

static void
check_error(rd_kafka_error_t *error)
{
	if (error)
		die("%s", rd_kafka_error_string(error));
}

/*
 * Nothing may have been pushed out of the topic.
 */
static void
check_kept(rd_kafka_t *client, const char *topic)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
	rd_kafka_resp_err_t err = rd_kafka_metadata(client, 0, handle, &metadata, 10000);

	if (err)
		die("%s", rd_kafka_err2str(err));
	for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
	{
		int64_t		low;
		int64_t		high;

		err = rd_kafka_query_watermark_offsets(client, topic, i, &low, &high, 10000);
		if (err)
			die("%s", rd_kafka_err2str(err));
		if (low > 0)
			die("partition %d has lost its first %lld records", i, (long long) low);
	}
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
}

int
produce_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"brokers", required_argument, NULL, 'b'},
		{"topic", required_argument, NULL, 't'},
		{"partition", required_argument, NULL, 'p'},
		{"compression", required_argument, NULL, 'z'},
		{"tab", no_argument, NULL, 'T'},
		{"timestamp", required_argument, NULL, 'm'},
		{"header", required_argument, NULL, 'h'},
		{"check", no_argument, NULL, 'C'},
		{"linger", required_argument, NULL, 'l'},
		{"property", required_argument, NULL, 'P'},
		{"transaction", required_argument, NULL, 'x'},
		{"abort", no_argument, NULL, 'A'},
		{0}
	};
	static char transactional_id[256] = "transactional.id=";
	char		compression[64] = "compression.codec=none";
	char		linger[64] = "linger.ms=5";
	const char *properties[6 + MAX_PROPERTIES + 1] = {
		"acks=all", linger, "batch.num.messages=10000",
		"queue.buffering.max.messages=200000", compression
	};
	int			nproperties = 5;
	bool		transaction = false;
	bool		abort = false;
	const char *brokers = NULL;
	const char *topic = NULL;
	int			partition = RD_KAFKA_PARTITION_UA;
	bool		tab = false;
	bool		check = false;
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client;
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		len;
	long		sent = 0;
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == 'b')
			brokers = optarg;
		else if (c == 't')
			topic = optarg;
		else if (c == 'p')
			partition = atoi(optarg);
		else if (c == 'z')
			snprintf(compression, sizeof(compression), "compression.codec=%s", optarg);
		else if (c == 'l')
			snprintf(linger, sizeof(linger), "linger.ms=%s", optarg);
		else if (c == 'T')
			tab = true;
		else if (c == 'm')
			timestamp_ms = atoll(optarg);
		else if (c == 'h')
		{
			header_name = optarg;
			header_value = strchr(optarg, '=');
			if (header_value == NULL)
				die("a header is name=value: %s", optarg);
			*header_value++ = '\0';
		}
		else if (c == 'C')
			check = true;
		else if (c == 'P' && nproperties < 5 + MAX_PROPERTIES)
			properties[nproperties++] = optarg;
		else if (c == 'x')
		{
			strncat(transactional_id, optarg, sizeof(transactional_id) - strlen(transactional_id) - 1);
			transaction = true;
		}
		else if (c == 'A')
			abort = true;
		else
			return 2;
	}
	if (brokers == NULL || topic == NULL)
		die("--brokers or --topic is missing");
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	if (transaction)
		properties[nproperties++] = transactional_id;
	client = make_client(RD_KAFKA_PRODUCER, conf, brokers, properties);
	if (transaction)
	{
		check_error(rd_kafka_init_transactions(client, 30000));
		check_error(rd_kafka_begin_transaction(client));
	}
	for (; (len = getline(&line, &size, stdin)) > 0; sent++)
	{
		if (line[len - 1] == '\n')
			line[--len] = '\0';
		send_line(client, topic, partition, line, len, tab);
	}
	while (rd_kafka_outq_len(client) > 0)
		rd_kafka_poll(client, 100);
	if (transaction)
		check_error(abort ? rd_kafka_abort_transaction(client, 30000) :
					rd_kafka_commit_transaction(client, 30000));
	if (check)
		check_kept(client, topic);
	rd_kafka_destroy(client);
	free(line);
	printf("produced %ld\n", acknowledged);
	return acknowledged == sent ? 0 : 1;
}
