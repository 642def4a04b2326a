/*
 * generate.c
 *	  A clickstream: the same for the same seed.
 */
#include <getopt.h>
#include <stdlib.h>
#include <time.h>

#include "kafka_tool.h"

#define LATE_BY		1800		/* seconds */

/* splitmix64, by Sebastiano Vigna (public domain algorithm) */
static uint64_t state;

static uint64_t
next_random(void)
{
	uint64_t	z = (state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static double
random_share(void)
{
	return (next_random() >> 11) / 9007199254740992.0;
}

/* of that many, each user has one; 0 = records have none */
static long countries;

static void
print_record(double seconds, long user, int partition)
{
	static const char *const events[] = {"view", "click", "search", "cart", "purchase"};
	time_t		whole = (time_t) seconds;
	int			event = (int) (next_random() % 5);
	struct tm	tm;
	char		time[32];

	gmtime_r(&whole, &tm);
	strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%S", &tm);
	if (partition >= 0)
		printf("%d", partition);
	printf("\t%ld\t{\"ts\":\"%s.%03dZ\",\"user_id\":%ld,\"event\":\"%s\",\"page\":\"/product/%d\","
		   "\"session\":\"%016llx\",\"referrer\":\"campaign-%d\",\"purchase_amount\":",
		   user, time, (int) ((seconds - whole) * 1000), user, events[event],
		   (int) (next_random() % 10000), (unsigned long long) next_random(),
		   (int) (next_random() % 20));
	if (event == 4)
		printf("%d.%02d", (int) (next_random() % 500), (int) (next_random() % 100));
	else
		printf("null");
	if (countries > 0)
		printf(",\"country\":\"C%02ld\"", user % countries);
	printf("}\n");
}

static void
keep_rate(double started, long done, double rate)
{
	double		early = started + done / rate - wall_seconds();

	fflush(stdout);
	if (early > 0)
	{
		struct timespec pause = {(time_t) early, (long) ((early - (time_t) early) * 1e9)};

		nanosleep(&pause, NULL);
	}
}

int
generate_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"records", required_argument, NULL, 'n'},
		{"seed", required_argument, NULL, 's'},
		{"users", required_argument, NULL, 'u'},
		{"start", required_argument, NULL, 'S'},
		{"span", required_argument, NULL, 'd'},
		{"disorder", required_argument, NULL, 'o'},
		{"late", required_argument, NULL, 'l'},
		{"partitions", required_argument, NULL, 'p'},
		{"rate", required_argument, NULL, 'r'},
		{"countries", required_argument, NULL, 'c'},
		{0}
	};
	long		records = 1000;
	long		users = 1000;
	double		start = 1767225600; /* 2026-01-01 */
	double		span = 3600;
	double		disorder = 5;
	double		late = 0;
	int			partitions = 0;
	double		rate = 0;
	double		started = wall_seconds();
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'n':
				records = atol(optarg);
				break;
			case 's':
				state = strtoull(optarg, NULL, 10);
				break;
			case 'u':
				users = atol(optarg);
				break;
			case 'S':
				start = atof(optarg);
				break;
			case 'd':
				span = atof(optarg);
				break;
			case 'o':
				disorder = atof(optarg);
				break;
			case 'l':
				late = atof(optarg);
				break;
			case 'p':
				partitions = atoi(optarg);
				break;
			case 'r':
				rate = atof(optarg);
				break;
			case 'c':
				countries = atol(optarg);
				break;
			default:
				return 2;
		}
	}
	for (long i = 0; i < records; i++)
	{
		double		seconds = start + span * i / records - disorder * random_share();

		if (random_share() < late)
			seconds -= LATE_BY;
		print_record(seconds, (long) (next_random() % users),
					 partitions > 0 ? (int) (i % partitions) : -1);
		if (rate > 0)
			keep_rate(started, i + 1, rate);
	}
	return 0;
}
