/*
 * admin.c
 *	  Topics and settings of a real Kafka, by librdkafka's admin requests: a
 *	  fraction of what a JVM costs.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kafka_tool.h"

#define TIMEOUT_MS		30000

static rd_kafka_t *client;

static void
check(rd_kafka_resp_err_t err, const char *reason)
{
	if (err)
		die("%s", reason && *reason ? reason : rd_kafka_err2str(err));
}

static void
check_topics(const rd_kafka_topic_result_t **results, size_t n)
{
	for (size_t i = 0; i < n; i++)
		check(rd_kafka_topic_result_error(results[i]),
			  rd_kafka_topic_result_error_string(results[i]));
}

static void
check_configs(const rd_kafka_ConfigResource_t **results, size_t n)
{
	for (size_t i = 0; i < n; i++)
		check(rd_kafka_ConfigResource_error(results[i]),
			  rd_kafka_ConfigResource_error_string(results[i]));
}

/*
 * The answer to a request, checked: whole, and for each topic.
 */
static void
await_answer(rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS + 5000);
	size_t		n;

	if (event == NULL)
		die("no answer");
	check(rd_kafka_event_error(event), rd_kafka_event_error_string(event));
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
			{
				const rd_kafka_topic_result_t **results =
					rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);

				check_topics(results, n);
				break;
			}
		case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
			{
				const rd_kafka_topic_result_t **results =
					rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &n);

				check_topics(results, n);
				break;
			}
		case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
			{
				const rd_kafka_topic_result_t **results =
					rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &n);

				check_topics(results, n);
				break;
			}
		case RD_KAFKA_EVENT_ALTERCONFIGS_RESULT:
			{
				const rd_kafka_ConfigResource_t **results =
					rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(event), &n);

				check_configs(results, n);
				break;
			}
		case RD_KAFKA_EVENT_DELETERECORDS_RESULT:
			{
				const rd_kafka_topic_partition_list_t *list =
					rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));

				for (int i = 0; i < list->cnt; i++)
					check(list->elems[i].err, NULL);
				break;
			}
		default:
			die("an answer to another question");
	}
	rd_kafka_event_destroy(event);
}

static rd_kafka_AdminOptions_t *
admin_options(rd_kafka_admin_op_t op)
{
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(client, op);
	char		reason[512];

	check(rd_kafka_AdminOptions_set_request_timeout(options, TIMEOUT_MS, reason, sizeof(reason)), reason);
	/* how long the broker itself waits until all nodes know */
	if (op != RD_KAFKA_ADMIN_OP_ALTERCONFIGS)
		check(rd_kafka_AdminOptions_set_operation_timeout(options, TIMEOUT_MS - 5000, reason, sizeof(reason)), reason);
	return options;
}

/* create TOPIC PARTITIONS REPLICAS [NAME=VALUE]... */
static void
create(rd_kafka_queue_t *queue, int argc, char **argv)
{
	char		reason[512];
	rd_kafka_NewTopic_t *topic;

	if (argc < 4)
		die("usage: create TOPIC PARTITIONS REPLICAS [NAME=VALUE]...");
	topic = rd_kafka_NewTopic_new(argv[1], atoi(argv[2]), atoi(argv[3]), reason, sizeof(reason));
	if (topic == NULL)
		die("%s", reason);
	for (int i = 4; i < argc; i++)
	{
		char	   *equals = strchr(argv[i], '=');

		if (equals == NULL)
			die("not NAME=VALUE: %s", argv[i]);
		*equals = '\0';
		check(rd_kafka_NewTopic_set_config(topic, argv[i], equals + 1), NULL);
	}
	rd_kafka_CreateTopics(client, &topic, 1, admin_options(RD_KAFKA_ADMIN_OP_CREATETOPICS), queue);
	await_answer(queue);
}

/* delete TOPIC */
static void
delete(rd_kafka_queue_t *queue, int argc, char **argv)
{
	rd_kafka_DeleteTopic_t *topic;

	if (argc != 2)
		die("usage: delete TOPIC");
	topic = rd_kafka_DeleteTopic_new(argv[1]);
	rd_kafka_DeleteTopics(client, &topic, 1, admin_options(RD_KAFKA_ADMIN_OP_DELETETOPICS), queue);
	await_answer(queue);
}

/* partitions TOPIC TOTAL */
static void
partitions(rd_kafka_queue_t *queue, int argc, char **argv)
{
	char		reason[512];
	rd_kafka_NewPartitions_t *more;

	if (argc != 3)
		die("usage: partitions TOPIC TOTAL");
	more = rd_kafka_NewPartitions_new(argv[1], atoi(argv[2]), reason, sizeof(reason));
	if (more == NULL)
		die("%s", reason);
	rd_kafka_CreatePartitions(client, &more, 1, admin_options(RD_KAFKA_ADMIN_OP_CREATEPARTITIONS), queue);
	await_answer(queue);
}

/* delete-records TOPIC PARTITION BEFORE-OFFSET */
static void
delete_records(rd_kafka_queue_t *queue, int argc, char **argv)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *records;

	if (argc != 4)
		die("usage: delete-records TOPIC PARTITION BEFORE-OFFSET");
	rd_kafka_topic_partition_list_add(list, argv[1], atoi(argv[2]))->offset = atoll(argv[3]);
	records = rd_kafka_DeleteRecords_new(list);
	rd_kafka_DeleteRecords(client, &records, 1, admin_options(RD_KAFKA_ADMIN_OP_DELETERECORDS), queue);
	await_answer(queue);
}

/* alter topic|broker NAME [NAME=VALUE]...: all others go back to their defaults */
static void
alter(rd_kafka_queue_t *queue, int argc, char **argv)
{
	rd_kafka_ConfigResource_t *resource;

	if (argc < 3)
		die("usage: alter topic|broker NAME [NAME=VALUE]...");
	resource = rd_kafka_ConfigResource_new(strcmp(argv[1], "broker") == 0 ?
										   RD_KAFKA_RESOURCE_BROKER : RD_KAFKA_RESOURCE_TOPIC, argv[2]);
	for (int i = 3; i < argc; i++)
	{
		char	   *equals = strchr(argv[i], '=');

		if (equals == NULL)
			die("not NAME=VALUE: %s", argv[i]);
		*equals = '\0';
		check(rd_kafka_ConfigResource_set_config(resource, argv[i], equals + 1), NULL);
	}
	rd_kafka_AlterConfigs(client, &resource, 1, admin_options(RD_KAFKA_ADMIN_OP_ALTERCONFIGS), queue);
	await_answer(queue);
}

static const struct rd_kafka_metadata *
ask_metadata(const char *topic, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = topic ? rd_kafka_topic_new(client, topic, NULL) : NULL;

	check(rd_kafka_metadata(client, topic == NULL, handle, &metadata, timeout_ms), NULL);
	if (handle)
		rd_kafka_topic_destroy(handle);
	return metadata;
}

/* leader TOPIC PARTITION: prints the node's number; status 1 without a leader */
static void
leader(int argc, char **argv)
{
	const struct rd_kafka_metadata *metadata;
	int			partition;

	if (argc != 3)
		die("usage: leader TOPIC PARTITION");
	metadata = ask_metadata(argv[1], TIMEOUT_MS);
	check(metadata->topics[0].err, NULL);
	partition = atoi(argv[2]);
	for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
	{
		const rd_kafka_metadata_partition_t *part = &metadata->topics[0].partitions[i];

		if (part->id == partition && part->leader >= 0)
			printf("%d %d\n", (int) part->leader, part->isr_cnt);
		else if (part->id == partition)
			die("no leader");
	}
}

/* await-node NODE: status 0 if the node answers, is known to the cluster, and there is a controller */
static void
await_node(int argc, char **argv)
{
	const struct rd_kafka_metadata *metadata;
	bool		found = false;

	if (argc != 2)
		die("usage: await-node NODE");
	metadata = ask_metadata(NULL, 2000);
	for (int i = 0; i < metadata->broker_cnt; i++)
		found = found || metadata->brokers[i].id == atoi(argv[1]);
	if (!found)
		die("node %s is not in the cluster yet", argv[1]);
	if (rd_kafka_controllerid(client, 2000) < 0)
		die("no controller yet");
}

/*
 * One request.
 */
int
admin_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"brokers", required_argument, NULL, 'b'},
		{"property", required_argument, NULL, 'P'},
		{0}
	};
	static const struct
	{
		const char *name;
		void		(*request) (rd_kafka_queue_t *queue, int argc, char **argv);
		void		(*question) (int argc, char **argv);
	}			commands[] = {
		{"create", create, NULL},
		{"delete", delete, NULL},
		{"partitions", partitions, NULL},
		{"delete-records", delete_records, NULL},
		{"alter", alter, NULL},
		{"leader", NULL, leader},
		{"await-node", NULL, await_node}
	};
	const char *properties[MAX_PROPERTIES + 1] = {0};
	const char *brokers = NULL;
	int			nproperties = 0;
	int			c;

	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1)
	{
		if (c == 'b')
			brokers = optarg;
		else if (c == 'P' && nproperties < MAX_PROPERTIES)
			properties[nproperties++] = optarg;
		else
			return 2;
	}
	argc -= optind;
	argv += optind;
	if (brokers == NULL || argc == 0)
		die("--brokers or a command is missing");
	client = make_client(RD_KAFKA_PRODUCER, NULL, brokers, properties);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
	{
		if (strcmp(argv[0], commands[i].name) != 0)
			continue;
		if (commands[i].request)
			commands[i].request(rd_kafka_queue_new(client), argc, argv);
		else
			commands[i].question(argc, argv);
		return 0;
	}
	die("unknown command: %s", argv[0]);
}
