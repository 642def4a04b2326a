/*
 * serve.c
 *	  The embedded broker: librdkafka's mock cluster in a process of its own.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kafka_tool.h"

#include <librdkafka/rdkafka_mock.h>

#define BROKER_ID	1

/* number of a request in Kafka's protocol */
#define OFFSET_COMMIT	8

static volatile sig_atomic_t stop;

static void
on_signal(int signo)
{
	(void) signo;
	stop = 1;
}

static void
create_topic(rd_kafka_mock_cluster_t *cluster, const char *name, int partitions)
{
	rd_kafka_resp_err_t err = rd_kafka_mock_topic_create(cluster, name, partitions, 1);

	if (err)
		die("cannot create topic %s: %s", name, rd_kafka_err2str(err));
}

static void
write_ready_file(const char *path, const char *text)
{
	char		temporary[1024];
	FILE	   *file;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	file = fopen(temporary, "w");
	if (file == NULL || fprintf(file, "%s\n", text) < 0 || fclose(file) != 0 ||
		rename(temporary, path) != 0)
		die("cannot write %s: %s", path, strerror(errno));
}

static struct sockaddr_un
socket_address(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path))
		die("path of socket is too long: %s", path);
	strcpy(address.sun_path, path);
	return address;
}

int
listen_on(const char *path)
{
	struct sockaddr_un address = socket_address(path);
	int			fd = socket(AF_UNIX, SOCK_STREAM, 0);

	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(fd, 8) != 0)
		die("cannot listen on %s: %s", path, strerror(errno));
	return fd;
}

static rd_kafka_mock_cluster_t *cluster;

/*
 * The next n requests to commit offsets to a group are refused.
 */
static void
refuse_commits(int n)
{
	rd_kafka_mock_clear_request_errors(cluster, OFFSET_COMMIT);
	for (int i = 0; i < n; i++)
		rd_kafka_mock_push_request_errors(cluster, OFFSET_COMMIT, 1,
										  RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED);
}

static const char *
obey(char *line)
{
	char	   *word = strtok(line, " \n");
	char	   *first = strtok(NULL, " \n");
	char	   *second = strtok(NULL, " \n");

	if (word && strcmp(word, "down") == 0)
		rd_kafka_mock_broker_set_down(cluster, BROKER_ID);
	else if (word && strcmp(word, "up") == 0)
		rd_kafka_mock_broker_set_up(cluster, BROKER_ID);
	else if (word && first && strcmp(word, "rtt") == 0)
		rd_kafka_mock_broker_set_rtt(cluster, BROKER_ID, atoi(first));
	else if (word && first && strcmp(word, "hide") == 0)
		rd_kafka_mock_topic_set_error(cluster, first, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
	else if (word && first && strcmp(word, "show") == 0)
		rd_kafka_mock_topic_set_error(cluster, first, RD_KAFKA_RESP_ERR_NO_ERROR);
	else if (word && first && strcmp(word, "refuse-commits") == 0)
		refuse_commits(atoi(first));
	else if (word && first && second && strcmp(word, "topic") == 0)
	{
		rd_kafka_resp_err_t err = rd_kafka_mock_topic_create(cluster, first, atoi(second), 1);

		if (err)
			return rd_kafka_err2str(err);
	}
	else
		return "unknown command";
	return NULL;
}

void
answer_control(int listener, const char *(*obey_line) (char *line))
{
	char		line[512];
	int			fd = accept(listener, NULL, NULL);
	ssize_t		len;
	const char *error;

	if (fd < 0)
		return;
	len = read(fd, line, sizeof(line) - 1);
	line[len > 0 ? len : 0] = '\0';
	error = obey_line(line);
	dprintf(fd, error ? "error %s\n" : "ok\n", error);
	close(fd);
}

/*
 * Run a broker until told to stop.
 */
int
serve_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"ready-file", required_argument, NULL, 'r'},
		{"topic", required_argument, NULL, 't'},
		{"control", required_argument, NULL, 'c'},
		{"parent", required_argument, NULL, 'p'},
		{0}
	};
	char		reason[512];
	rd_kafka_t *client;
	const char *ready_file = NULL;
	char	   *topics[64];
	int			ntopics = 0;
	pid_t		parent = 0;
	struct pollfd waiting = {.fd = -1, .events = POLLIN};
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == 'r')
			ready_file = optarg;
		else if (c == 't' && ntopics < 64)
			topics[ntopics++] = optarg;
		else if (c == 'c')
			waiting.fd = listen_on(optarg);
		else if (c == 'p')
			parent = atoi(optarg);
		else
			return 2;
	}
	if (ready_file == NULL)
		die("--ready-file is missing");
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	signal(SIGPIPE, SIG_IGN);

	client = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), reason, sizeof(reason));
	if (client == NULL || (cluster = rd_kafka_mock_cluster_new(client, 1)) == NULL)
		die("cannot make a broker");
	for (int i = 0; i < ntopics; i++)
	{
		char	   *colon = strrchr(topics[i], ':');

		if (colon)
			*colon = '\0';
		create_topic(cluster, topics[i], colon ? atoi(colon + 1) : 1);
	}
	write_ready_file(ready_file, rd_kafka_mock_cluster_bootstraps(cluster));
	while (!stop && (parent == 0 || kill(parent, 0) == 0 || errno == EPERM))
	{
		if (poll(&waiting, 1, 1000) > 0)
			answer_control(waiting.fd, obey);
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(client);
	return 0;
}

/*
 * Send one command to a running broker.
 */
int
control_main(int argc, char **argv)
{
	struct sockaddr_un address;
	char		reply[512];
	ssize_t		len;
	int			fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (argc < 3)
		die("usage: control SOCKET COMMAND...");
	address = socket_address(argv[1]);
	if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
		die("cannot connect to %s: %s", argv[1], strerror(errno));
	snprintf(reply, sizeof(reply), "%s %s %s\n", argv[2], argc > 3 ? argv[3] : "",
			 argc > 4 ? argv[4] : "");
	if (write(fd, reply, strlen(reply)) < 0)
		die("cannot write to %s: %s", argv[1], strerror(errno));
	len = read(fd, reply, sizeof(reply) - 1);
	reply[len > 0 ? len : 0] = '\0';
	fputs(reply, stdout);
	return strcmp(reply, "ok\n") == 0 ? 0 : 1;
}
