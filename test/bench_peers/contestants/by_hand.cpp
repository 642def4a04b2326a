/*
 * by_hand.cpp
 *	  The queries of the benchmark written by hand: librdkafka, simdjson and hash
 *	  tables.  No restart, no late records, no other query.
 *
 *	by_hand BROKERS TOPIC clicks|country|hop|sessions|columns OUTPUT
 *
 * reads a topic from its first to its last record and writes the result to OUTPUT,
 * which COPY can read; "columns" writes the decoded records themselves.  Prints
 * "started" and "finished", and ends when its stdin does.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <librdkafka/rdkafka.h>
#include <simdjson.h>

static const int64_t MINUTE = 60000;	/* ms */
static const int64_t CLICK_WINDOW = 5 * MINUTE;
static const int64_t HOP_PANES = 10;
static const int64_t SESSION_GAP = 30000;
static const int BATCH = 10000;

struct Record
{
	std::string_view time;
	int64_t		ms;
	int64_t		user;
	std::string_view page;
	std::string_view amount;	/* digits, or "null" */
	std::string_view country;
};

struct Sums
{
	int64_t		count = 0;
	int64_t		amounts = 0;	/* records that have one */
	int64_t		cents = 0;

	void add(const Sums &other)
	{
		count += other.count;
		amounts += other.amounts;
		cents += other.cents;
	}
};

/* Open addressing over (time, id); a slot is free while its count is 0. */
class GroupTable
{
public:
	struct Group
	{
		int64_t		time;
		int64_t		id;
		Sums		sums;
	};

	GroupTable() : slots(1024) {}

	void add(int64_t time, int64_t id, const Sums &sums)
	{
		if (used * 2 >= slots.size())
			grow();
		Group	   &group = find(time, id);
		if (group.sums.count == 0)
		{
			used++;
			group.time = time;
			group.id = id;
		}
		group.sums.add(sums);
	}

	template <typename Visit> void each(Visit visit) const
	{
		for (const Group &group : slots)
		{
			if (group.sums.count > 0)
				visit(group);
		}
	}

private:
	std::vector<Group> slots;
	size_t		used = 0;

	Group &find(int64_t time, int64_t id)
	{
		uint64_t	hash = ((uint64_t) time * 0x9e3779b97f4a7c15 ^ (uint64_t) id) * 0xbf58476d1ce4e5b9;
		size_t		i = (hash ^ hash >> 32) & (slots.size() - 1);

		while (slots[i].sums.count > 0 && (slots[i].time != time || slots[i].id != id))
			i = (i + 1) & (slots.size() - 1);
		return slots[i];
	}

	void grow()
	{
		std::vector<Group> old(slots.size() * 2);

		old.swap(slots);
		for (const Group &group : old)
		{
			if (group.sums.count > 0)
				find(group.time, group.id) = group;
		}
	}
};

/* Strings as numbers, in the order in which they came. */
class Names
{
public:
	int64_t number(std::string_view name)
	{
		key.assign(name);
		auto		found = numbers.try_emplace(key, (int64_t) names.size());

		if (found.second)
			names.push_back(key);
		return found.first->second;
	}

	const std::string &name(int64_t number) const
	{
		return names[number];
	}

private:
	std::string key;
	std::unordered_map<std::string, int64_t> numbers;
	std::vector<std::string> names;
};

/* A user's sessions; those that a record touches become one. */
class Sessions
{
public:
	struct Session
	{
		int64_t		first;
		int64_t		last;
		Sums		sums;
	};

	void add(int64_t user, int64_t ms, const Sums &sums)
	{
		std::vector<Session> &sessions = users[user];
		Session		merged = {ms, ms, sums};

		for (size_t i = sessions.size(); i-- > 0;)
		{
			if (ms - sessions[i].last > SESSION_GAP || sessions[i].first - ms > SESSION_GAP)
				continue;
			merged.first = std::min(merged.first, sessions[i].first);
			merged.last = std::max(merged.last, sessions[i].last);
			merged.sums.add(sessions[i].sums);
			sessions[i] = sessions.back();
			sessions.pop_back();
		}
		sessions.push_back(merged);
	}

	template <typename Visit> void each(Visit visit) const
	{
		for (const auto &user : users)
		{
			for (const Session &session : user.second)
				visit(user.first, session);
		}
	}

private:
	std::unordered_map<int64_t, std::vector<Session>> users;
};

static void
die(const char *what)
{
	fprintf(stderr, "by_hand: %s\n", what);
	exit(1);
}

/* "2026-01-01T00:05:00.123Z" as ms since 1970; the day is computed when it changes */
static int64_t
milliseconds(std::string_view time)
{
	static char day[11];
	static int64_t day_ms;
	auto		number = [&](int at, int digits)
	{
		int			value = 0;

		for (int i = 0; i < digits; i++)
			value = value * 10 + (time[at + i] - '0');
		return value;
	};

	if (time.size() != 24)
		die("a time is not as it should be");
	if (memcmp(day, time.data(), 10) != 0)
	{
		struct tm	tm = {};

		memcpy(day, time.data(), 10);
		tm.tm_year = number(0, 4) - 1900;
		tm.tm_mon = number(5, 2) - 1;
		tm.tm_mday = number(8, 2);
		day_ms = (int64_t) timegm(&tm) * 1000;
	}
	return day_ms + number(11, 2) * 60 * MINUTE + number(14, 2) * MINUTE +
		number(17, 2) * 1000 + number(20, 3);
}

static Sums
sums_of(const Record &record)
{
	Sums		sums;

	sums.count = 1;
	if (record.amount[0] == 'n')
		return sums;
	sums.amounts = 1;
	for (char c : record.amount)
	{
		if (c >= '0' && c <= '9')
			sums.cents = sums.cents * 10 + (c - '0');
	}
	return sums;
}

static void
print_time(FILE *output, int64_t ms)
{
	time_t		whole = ms / 1000;
	struct tm	tm;
	char		text[32];

	gmtime_r(&whole, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	fprintf(output, "%s.%03d+00\t", text, (int) (ms % 1000));
}

static void
print_sums(FILE *output, const Sums &sums)
{
	fprintf(output, "%lld\t", (long long) sums.count);
	if (sums.amounts == 0)
		fprintf(output, "\\N\n");
	else
		fprintf(output, "%lld.%02d\n", (long long) sums.cents / 100, (int) (sums.cents % 100));
}

/* to six digits, rounded half up */
static void
print_average(FILE *output, const Sums &sums)
{
	int64_t		millionths;

	fprintf(output, "%lld\t", (long long) sums.count);
	if (sums.amounts == 0)
	{
		fprintf(output, "\\N\n");
		return;
	}
	millionths = (sums.cents * 20000 + sums.amounts) / (2 * sums.amounts);
	fprintf(output, "%lld.%06d\n", (long long) millionths / 1000000, (int) (millionths % 1000000));
}

class Query
{
public:
	virtual ~Query() = default;
	virtual void take(const Record &record) = 0;
	virtual void finish(FILE *output) = 0;
};

class Clicks : public Query
{
	GroupTable	groups;

	void take(const Record &record) override
	{
		groups.add(record.ms - record.ms % CLICK_WINDOW, record.user, sums_of(record));
	}
	void finish(FILE *output) override
	{
		groups.each([&](const GroupTable::Group &group)
		{
			print_time(output, group.time);
			fprintf(output, "%lld\t", (long long) group.id);
			print_sums(output, group.sums);
		});
	}
};

class Country : public Query
{
	GroupTable	groups;
	Names		countries;

	void take(const Record &record) override
	{
		groups.add(record.ms - record.ms % MINUTE, countries.number(record.country), sums_of(record));
	}
	void finish(FILE *output) override
	{
		groups.each([&](const GroupTable::Group &group)
		{
			print_time(output, group.time);
			fprintf(output, "%s\t", countries.name(group.id).c_str());
			print_average(output, group.sums);
		});
	}
};

class Hop : public Query
{
	GroupTable	panes;
	Names		pages;

	void take(const Record &record) override
	{
		panes.add(record.ms - record.ms % MINUTE, pages.number(record.page), sums_of(record));
	}
	void finish(FILE *output) override
	{
		GroupTable	windows;

		panes.each([&](const GroupTable::Group &pane)
		{
			for (int64_t i = 0; i < HOP_PANES; i++)
				windows.add(pane.time - i * MINUTE, pane.id, pane.sums);
		});
		windows.each([&](const GroupTable::Group &group)
		{
			print_time(output, group.time);
			fprintf(output, "%s\t", pages.name(group.id).c_str());
			print_sums(output, group.sums);
		});
	}
};

class UserSessions : public Query
{
	Sessions	sessions;

	void take(const Record &record) override
	{
		sessions.add(record.user, record.ms, sums_of(record));
	}
	void finish(FILE *output) override
	{
		sessions.each([&](int64_t user, const Sessions::Session &session)
		{
			print_time(output, session.first);
			print_time(output, session.last + SESSION_GAP);
			fprintf(output, "%lld\t", (long long) user);
			print_sums(output, session.sums);
		});
	}
};

/* What is not computed is written as it comes. */
class Columns : public Query
{
	FILE	   *output;

	void take(const Record &record) override
	{
		fprintf(output, "%.*s\t%lld\t%.*s\t%.*s\t%.*s\n",
				(int) record.time.size(), record.time.data(), (long long) record.user,
				(int) record.page.size(), record.page.data(),
				record.amount[0] == 'n' ? 2 : (int) record.amount.size(),
				record.amount[0] == 'n' ? "\\N" : record.amount.data(),
				(int) record.country.size(), record.country.data());
	}
	void finish(FILE *) override {}

public:
	Columns(FILE *file) : output(file) {}
};

static Query *
query_named(const std::string &name, FILE *output)
{
	if (name == "clicks")
		return new Clicks;
	if (name == "country")
		return new Country;
	if (name == "hop")
		return new Hop;
	if (name == "sessions")
		return new UserSessions;
	if (name == "columns")
		return new Columns(output);
	die("no such query");
	return nullptr;
}

static void
take_message(Query *query, const rd_kafka_message_t *message)
{
	static simdjson::ondemand::parser parser;
	static std::vector<char> buffer;
	Record		record;

	if (buffer.size() < message->len + simdjson::SIMDJSON_PADDING)
		buffer.resize(message->len * 2 + simdjson::SIMDJSON_PADDING);
	memcpy(buffer.data(), message->payload, message->len);
	auto		document = parser.iterate(buffer.data(), message->len, buffer.size()).value();

	record.time = document["ts"].get_string().value();
	record.user = document["user_id"].get_int64().value();
	record.page = document["page"].get_string().value();
	record.amount = document["purchase_amount"].raw_json_token().value();
	record.country = document["country"].get_string().value();
	record.ms = milliseconds(record.time);
	query->take(record);
}

static rd_kafka_t *
make_consumer(const char *brokers)
{
	static const char *const properties[][2] = {
		{"group.id", "by_hand"}, {"enable.auto.commit", "false"},
		{"queued.min.messages", "1000000"}
	};
	char		reason[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client;

	rd_kafka_conf_set(conf, "bootstrap.servers", brokers, reason, sizeof(reason));
	for (const auto &property : properties)
	{
		if (rd_kafka_conf_set(conf, property[0], property[1], reason, sizeof(reason)) != RD_KAFKA_CONF_OK)
			die(reason);
	}
	client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, reason, sizeof(reason));
	if (client == nullptr)
		die(reason);
	rd_kafka_poll_set_consumer(client);
	return client;
}

/* All partitions from their first records, and where each ends. */
static rd_kafka_topic_partition_list_t *
whole_topic(rd_kafka_t *client, const char *topic, std::vector<int64_t> &ends)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, nullptr);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);

	if (rd_kafka_metadata(client, 0, handle, &metadata, 10000))
		die("no metadata");
	for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
	{
		int64_t		low;
		int64_t		high;

		if (rd_kafka_query_watermark_offsets(client, topic, i, &low, &high, 10000))
			die("no offsets");
		if (high == low)
			die("a partition is empty");
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = low;
		ends.push_back(high);
	}
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
	return list;
}

static void
read_all(rd_kafka_t *client, const std::vector<int64_t> &ends, Query *query)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);
	std::vector<rd_kafka_message_t *> messages(BATCH);
	size_t		left = ends.size();

	while (left > 0)
	{
		ssize_t		n = rd_kafka_consume_batch_queue(queue, 1000, messages.data(), BATCH);

		for (ssize_t i = 0; i < n; i++)
		{
			if (messages[i]->err)
				die(rd_kafka_message_errstr(messages[i]));
			take_message(query, messages[i]);
			if (messages[i]->offset + 1 == ends[messages[i]->partition])
				left--;
			rd_kafka_message_destroy(messages[i]);
		}
	}
	rd_kafka_queue_destroy(queue);
}

int
main(int argc, char **argv)
{
	std::vector<int64_t> ends;

	if (argc != 5)
		die("arguments are BROKERS TOPIC QUERY OUTPUT");

	FILE	   *output = fopen(argv[4], "w");

	if (output == nullptr)
		die("cannot write the result");

	Query	   *query = query_named(argv[3], output);
	rd_kafka_t *client = make_consumer(argv[1]);
	rd_kafka_topic_partition_list_t *list = whole_topic(client, argv[2], ends);

	puts("started");
	fflush(stdout);
	rd_kafka_assign(client, list);
	read_all(client, ends, query);
	query->finish(output);
	if (fclose(output) != 0)
		die("cannot write the result");
	puts("finished");
	fflush(stdout);
	while (getchar() != EOF)
		;
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	delete query;
	return 0;
}
