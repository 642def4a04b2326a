/*
 * proxy.c
 *	  A stretch of network between a client and a broker, to be cut, blocked or
 *	  slowed down while connections run over it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kafka_tool.h"

#define MAX_CONNECTIONS	128
#define BUFFER_SIZE		65536
#define TICK_MS			20

/* one direction: bytes read and not yet written, and where they go */
typedef struct Flow
{
	int			from;
	int			to;
	size_t		held;
	char		buffer[BUFFER_SIZE];
} Flow;

typedef struct Connection
{
	bool		used;
	Flow		flows[2];
} Connection;

static Connection connections[MAX_CONNECTIONS];
static volatile sig_atomic_t stop;

/* what the control socket has said */
static bool cut;
static bool blocked;
static long rate;				/* bytes a second in each direction, 0 = any */
static long allowance[2];		/* of this tick, all connections together */

static void
on_signal(int signo)
{
	(void) signo;
	stop = 1;
}

static struct sockaddr_in
loopback(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};

	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static int
listen_on_port(int port)
{
	struct sockaddr_in address = loopback(port);
	int			one = 1;
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(fd, 64) != 0)
		die("cannot listen on port %d: %s", port, strerror(errno));
	return fd;
}

static void
close_connection(Connection *connection)
{
	close(connection->flows[0].from);
	close(connection->flows[1].from);
	connection->used = false;
}

static void
accept_connection(int listener, int port)
{
	struct sockaddr_in address = loopback(port);
	int			client = accept(listener, NULL, NULL);
	int			one = 1;
	int			server;

	if (client < 0)
		return;
	server = cut ? -1 : socket(AF_INET, SOCK_STREAM, 0);
	for (int i = 0; server >= 0 && i < MAX_CONNECTIONS; i++)
	{
		Connection *connection = &connections[i];

		if (connection->used)
			continue;
		if (connect(server, (struct sockaddr *) &address, sizeof(address)) != 0)
			break;
		fcntl(client, F_SETFL, O_NONBLOCK);
		fcntl(server, F_SETFL, O_NONBLOCK);
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		connection->used = true;
		connection->flows[0].from = connection->flows[1].to = client;
		connection->flows[0].to = connection->flows[1].from = server;
		connection->flows[0].held = connection->flows[1].held = 0;
		return;
	}
	close(client);
	if (server >= 0)
		close(server);
}

/*
 * Move what can be moved; returns false when the connection has ended.
 */
static bool
move(Flow *flow, int direction)
{
	ssize_t		n;
	size_t		most;

	if (flow->held < BUFFER_SIZE)
	{
		n = read(flow->from, flow->buffer + flow->held, BUFFER_SIZE - flow->held);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		if (n > 0)
			flow->held += n;
	}
	most = flow->held;
	if (rate > 0 && most > (size_t) allowance[direction])
		most = allowance[direction];
	if (most == 0)
		return true;
	n = write(flow->to, flow->buffer, most);
	if (n < 0)
		return errno == EAGAIN;
	allowance[direction] -= n;
	flow->held -= n;
	memmove(flow->buffer, flow->buffer + n, flow->held);
	return true;
}

static const char *
obey(char *line)
{
	char	   *word = strtok(line, " \n");
	char	   *first = strtok(NULL, " \n");

	if (word == NULL)
		return "no command";
	if (strcmp(word, "pass") == 0)
	{
		cut = blocked = false;
		rate = 0;
	}
	else if (strcmp(word, "cut") == 0)
	{
		cut = true;
		for (int i = 0; i < MAX_CONNECTIONS; i++)
		{
			if (connections[i].used)
				close_connection(&connections[i]);
		}
	}
	else if (strcmp(word, "block") == 0)
		blocked = true;
	else if (strcmp(word, "slow") == 0 && first)
		rate = atol(first);
	else
		return "unknown command";
	return NULL;
}

static void
move_all(void)
{
	static double filled;
	double		now = wall_seconds();

	if (rate > 0 && now - filled >= TICK_MS / 1000.0)
	{
		allowance[0] = allowance[1] = rate * TICK_MS / 1000 + 1;
		filled = now;
	}
	for (int i = 0; i < MAX_CONNECTIONS; i++)
	{
		Connection *connection = &connections[i];

		if (connection->used &&
			(!move(&connection->flows[0], 0) || !move(&connection->flows[1], 1)))
			close_connection(connection);
	}
}

/*
 * Until something can be moved, or somebody comes.
 */
static void
wait_for_work(int listener, int control)
{
	struct pollfd fds[2 + 2 * MAX_CONNECTIONS];
	int			n = 0;
	bool		held = false;

	fds[n++] = (struct pollfd) {.fd = control, .events = POLLIN};
	if (!blocked)
		fds[n++] = (struct pollfd) {.fd = listener, .events = POLLIN};
	for (int i = 0; i < MAX_CONNECTIONS && !blocked; i++)
	{
		for (int j = 0; connections[i].used && j < 2; j++)
		{
			Flow	   *flow = &connections[i].flows[j];

			held = held || flow->held > 0;
			if (flow->held < BUFFER_SIZE)
				fds[n++] = (struct pollfd) {.fd = flow->from, .events = POLLIN};
		}
	}
	poll(fds, n, held ? TICK_MS / 4 : 500);
}

/*
 * Carry connections from one port to another until told to stop.
 */
int
proxy_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"listen", required_argument, NULL, 'l'},
		{"to", required_argument, NULL, 't'},
		{"control", required_argument, NULL, 'c'},
		{"parent", required_argument, NULL, 'p'},
		{0}
	};
	int			from = 0;
	int			to = 0;
	int			control = -1;
	int			listener;
	pid_t		parent = 0;
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == 'l')
			from = atoi(optarg);
		else if (c == 't')
			to = atoi(optarg);
		else if (c == 'c')
			control = listen_on(optarg);
		else if (c == 'p')
			parent = atoi(optarg);
		else
			return 2;
	}
	if (from == 0 || to == 0 || control < 0)
		die("--listen, --to or --control is missing");
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	signal(SIGPIPE, SIG_IGN);
	listener = listen_on_port(from);
	fcntl(control, F_SETFL, O_NONBLOCK);
	while (!stop && (parent == 0 || kill(parent, 0) == 0 || errno == EPERM))
	{
		wait_for_work(listener, control);
		answer_control(control, obey);
		if (blocked)
			continue;
		accept_connection(listener, to);
		move_all();
	}
	return 0;
}
