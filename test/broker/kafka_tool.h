/*
 * kafka_tool: the embedded broker of the tests and the demo, and programs that
 * write to and read from any Kafka.
 */
#ifndef KAFKA_TOOL_H
#define KAFKA_TOOL_H

#include <stdint.h>
#include <stdio.h>

#include <librdkafka/rdkafka.h>

extern int	serve_main(int argc, char **argv);
extern int	control_main(int argc, char **argv);
extern int	produce_main(int argc, char **argv);
extern int	generate_main(int argc, char **argv);
extern int	consume_main(int argc, char **argv);
extern int	committed_main(int argc, char **argv);
extern int	admin_main(int argc, char **argv);
extern int	proxy_main(int argc, char **argv);

/* a control socket: listen at a path; take one line, if there is one, and tell
 * whether "obey" has an error to say */
extern int	listen_on(const char *path);
extern void answer_control(int listener, const char *(*obey) (char *line));

/* options --property NAME=VALUE of a command */
#define MAX_PROPERTIES	32

/* print a message in the manner of printf to stderr and exit with status 1 */
extern void die(const char *format,...) __attribute__((noreturn, format(printf, 1, 2)));

/* a librdkafka client with properties "name=value", NULL-terminated */
extern rd_kafka_t *make_client(rd_kafka_type_t type, rd_kafka_conf_t *conf,
							   const char *brokers, const char *const *properties);

/* seconds since some moment, and CPU seconds of this process */
extern double wall_seconds(void);
extern double cpu_seconds(void);

#endif
