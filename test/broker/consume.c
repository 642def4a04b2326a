/*
 * consume.c
 *	  A bare consumer: how fast a topic can be read without doing anything.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kafka_tool.h"

#define BATCH	1000

typedef struct Reading
{
	int			npartitions;
	int			left;			/* partitions not yet at their end */
	int64_t    *end;
	long		records;
	long long	bytes;
} Reading;

static rd_kafka_topic_partition_list_t *
whole_topic(rd_kafka_t *client, const char *topic, Reading *reading)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
	rd_kafka_resp_err_t err = rd_kafka_metadata(client, 0, handle, &metadata, 10000);
	rd_kafka_topic_partition_list_t *list;

	if (err)
		die("%s", rd_kafka_err2str(err));
	reading->npartitions = metadata->topics[0].partition_cnt;
	reading->end = calloc(reading->npartitions, sizeof(int64_t));
	list = rd_kafka_topic_partition_list_new(reading->npartitions);
	for (int i = 0; i < reading->npartitions; i++)
	{
		int64_t		low;

		err = rd_kafka_query_watermark_offsets(client, topic, i, &low, &reading->end[i], 10000);
		if (err)
			die("%s", rd_kafka_err2str(err));
		if (reading->end[i] == low)
			continue;
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = low;
		reading->left++;
	}
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
	return list;
}

static void
read_all(rd_kafka_t *client, Reading *reading)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);
	rd_kafka_message_t *messages[BATCH];

	while (reading->left > 0)
	{
		ssize_t		n = rd_kafka_consume_batch_queue(queue, 1000, messages, BATCH);

		for (ssize_t i = 0; i < n; i++)
		{
			rd_kafka_message_t *message = messages[i];

			if (message->err)
				die("%s", rd_kafka_message_errstr(message));
			reading->records++;
			reading->bytes += message->len;
			if (message->offset + 1 == reading->end[message->partition])
				reading->left--;
			rd_kafka_message_destroy(message);
		}
	}
	rd_kafka_queue_destroy(queue);
}

int
consume_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"brokers", required_argument, NULL, 'b'},
		{"topic", required_argument, NULL, 't'},
		{0}
	};
	static const char *const properties[] = {
		"group.id=kafka_tool", "enable.auto.commit=false", "auto.offset.reset=error",
		"queued.min.messages=1000000", "queued.max.messages.kbytes=1048576", NULL
	};
	Reading		reading = {0};
	const char *brokers = NULL;
	const char *topic = NULL;
	rd_kafka_t *client;
	rd_kafka_topic_partition_list_t *list;
	double		wall;
	double		cpu;
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == 'b')
			brokers = optarg;
		else if (c == 't')
			topic = optarg;
		else
			return 2;
	}
	if (brokers == NULL || topic == NULL)
		die("--brokers or --topic is missing");
	client = make_client(RD_KAFKA_CONSUMER, NULL, brokers, properties);
	rd_kafka_poll_set_consumer(client);
	list = whole_topic(client, topic, &reading);

	wall = wall_seconds();
	cpu = cpu_seconds();
	rd_kafka_assign(client, list);
	read_all(client, &reading);
	wall = wall_seconds() - wall;
	cpu = cpu_seconds() - cpu;
	printf("records %ld bytes %lld seconds %.3f records_per_second %.0f cpu_us_per_record %.3f\n",
		   reading.records, reading.bytes, wall, reading.records / wall,
		   reading.records > 0 ? cpu * 1e6 / reading.records : 0.0);
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	free(reading.end);
	return 0;
}
