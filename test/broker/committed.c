/*
 * committed.c
 *	  What a consumer group has committed for a topic.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "kafka_tool.h"

#define TIMEOUT_MS	10000

/*
 * Print a line "partition offset" for each partition with a committed offset.
 */
int
committed_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"brokers", required_argument, NULL, 'b'},
		{"topic", required_argument, NULL, 't'},
		{"group", required_argument, NULL, 'g'},
		{0}
	};
	char		group[300] = "group.id=";
	const char *const properties[] = {group, "enable.auto.commit=false", NULL};
	const struct rd_kafka_metadata *metadata;
	const char *brokers = NULL;
	const char *topic = NULL;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_topic_t *handle;
	rd_kafka_t *client;
	rd_kafka_resp_err_t err;
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == 'b')
			brokers = optarg;
		else if (c == 't')
			topic = optarg;
		else if (c == 'g')
			strncat(group, optarg, sizeof(group) - strlen(group) - 1);
		else
			return 2;
	}
	if (brokers == NULL || topic == NULL || strcmp(group, "group.id=") == 0)
		die("--brokers, --topic or --group is missing");
	client = make_client(RD_KAFKA_CONSUMER, NULL, brokers, properties);
	handle = rd_kafka_topic_new(client, topic, NULL);
	err = rd_kafka_metadata(client, 0, handle, &metadata, TIMEOUT_MS);
	if (err || metadata->topic_cnt != 1)
		die("%s", rd_kafka_err2str(err));
	list = rd_kafka_topic_partition_list_new(metadata->topics[0].partition_cnt);
	for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
		rd_kafka_topic_partition_list_add(list, topic, metadata->topics[0].partitions[i].id);
	err = rd_kafka_committed(client, list, TIMEOUT_MS);
	if (err)
		die("%s", rd_kafka_err2str(err));
	rd_kafka_topic_partition_list_sort(list, NULL, NULL);
	for (int i = 0; i < list->cnt; i++)
	{
		if (list->elems[i].err)
			die("%s", rd_kafka_err2str(list->elems[i].err));
		if (list->elems[i].offset >= 0)
			printf("%d %lld\n", (int) list->elems[i].partition, (long long) list->elems[i].offset);
	}
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
	rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return 0;
}
