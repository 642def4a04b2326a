/*
 * file_source.c
 *	  A kind of sources, by the installed header of stream_agg alone.
 *
 * A foreign table of wrapper file_source is a directory, and a topic: its files 0,
 * 1, ... are partitions.  A record is a line of RECORD_SIZE bytes, so that the one
 * at an offset is found without an index.  It begins with its timestamp, 13 digits
 * in milliseconds, and is padded with spaces.  INSERT appends to the files.
 */
#include "postgres.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/reloptions.h"
#include "catalog/pg_foreign_table.h"
#include "commands/defrem.h"
#include "extension/stream_agg/kinds.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

PG_FUNCTION_INFO_V1(file_source_handler);
PG_FUNCTION_INFO_V1(file_source_validator);
PG_FUNCTION_INFO_V1(register_another_version);
PG_FUNCTION_INFO_V1(register_incomplete);
PG_FUNCTION_INFO_V1(register_with_brokers);
PG_FUNCTION_INFO_V1(register_again);

#define RECORD_SIZE		32
#define TIME_DIGITS		13
#define AT_ONCE			1024	/* records that are read at once */
#define POLL_MS			20

static const SaggSourceServices *services;

typedef struct FileTopic
{
	int32		topic;
	char	   *directory;
} FileTopic;

typedef struct FilePartition
{
	int32		topic;
	int32		number;
	const char *directory;
	int64		position;		/* of the next record that is in no batch */
	int64		first;			/* range of the batch */
	int64		behind;
} FilePartition;

typedef struct FileReader
{
	SaggReader	base;
	int			ntopics;
	FileTopic  *topics;
	int			nfiles;			/* at the last "bounds" */
	int			npartitions;	/* that were assigned */
	FilePartition *partitions;
	bool		has_batch;
	bool		complete;
} FileReader;

static char *
directory_of(Oid relid)
{
	ListCell   *lc;

	foreach(lc, GetForeignTable(relid)->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "directory") == 0)
			return pstrdup(defGetString(option));
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
			 errmsg("source \"%s\" has no option \"directory\"", get_rel_name(relid))));
}

static char *
path_of(const char *directory, int partition)
{
	return psprintf("%s/%d", directory, partition);
}

/* records of a partition, -1 = there is no such partition */
static int64
records_of(const char *directory, int partition)
{
	char	   *path = path_of(directory, partition);
	struct stat st;
	int64		result = stat(path, &st) == 0 ? st.st_size / RECORD_SIZE : -1;

	pfree(path);
	return result;
}

static int
count_files(const char *directory)
{
	int			n = 0;

	while (records_of(directory, n) >= 0)
		n++;
	return n;
}

/* Read n records from an offset on; the file stays open for no longer. */
static void
read_records(const char *directory, int partition, int64 offset, int n, char *buffer)
{
	char	   *path = path_of(directory, partition);
	int			fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	ssize_t		size = (ssize_t) n * RECORD_SIZE;
	ssize_t		got = fd < 0 ? 0 : pg_pread(fd, buffer, size, offset * RECORD_SIZE);

	if (fd >= 0)
		close(fd);
	if (got != size)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OFFSETS_GONE),
				 errmsg("file \"%s\" does not have the records from " INT64_FORMAT " to " INT64_FORMAT,
						path, offset, offset + n - 1)));
	pfree(path);
}

static int64
time_of(const char *record)
{
	int64		ms = 0;

	for (int i = 0; i < TIME_DIGITS; i++)
	{
		if (record[i] < '0' || record[i] > '9')
			return -1;
		ms = ms * 10 + record[i] - '0';
	}
	return ms;
}

/* --- definitions */

/* the topic of a directory: its path, with dots */
static char *
topic_of(const char *directory)
{
	char	   *name = pstrdup(directory);

	for (char *c = name; *c; c++)
	{
		if (!isalnum((unsigned char) *c))
			*c = *c == '/' ? '.' : '_';
	}
	return name;
}

static SaggTopics *
topics(Oid source)
{
	SaggTopics *result = palloc0(sizeof(SaggTopics));
	char	   *directory = directory_of(source);
	char	   *name = topic_of(directory);

	result->one = name;
	result->nnames = 1;
	result->names = palloc(sizeof(char *));
	result->names[0] = name;
	result->subject = psprintf("directory \"%s\"", directory);
	return result;
}

/* --- readers */

static const char *
directory_by_topic(const FileReader *reader, int32 topic)
{
	for (int i = 0; i < reader->ntopics; i++)
	{
		if (reader->topics[i].topic == topic)
			return reader->topics[i].directory;
	}
	return NULL;
}

static void
open_reader(SaggReader *base, List *sources)
{
	FileReader *reader = (FileReader *) base;
	ListCell   *lc;

	reader->topics = palloc(sizeof(FileTopic) * list_length(sources));
	foreach(lc, sources)
	{
		char	   *directory = directory_of(lfirst_oid(lc));
		int32		topic = services->topic_number(topic_of(directory));

		if (directory_by_topic(reader, topic))
			continue;
		reader->topics[reader->ntopics].topic = topic;
		reader->topics[reader->ntopics++].directory = directory;
	}
}

static void
close_reader(SaggReader *base)
{
	/* all there is is memory of the reader */
}

static const char *
identity(SaggReader *base)
{
	return "files";
}

static int
count_all(const FileReader *reader)
{
	int			n = 0;

	for (int i = 0; i < reader->ntopics; i++)
		n += count_files(reader->topics[i].directory);
	return n;
}

static SaggRange *
bounds(SaggReader *base, int *npartitions)
{
	FileReader *reader = (FileReader *) base;
	int			total = count_all(reader);
	int			n = 0;
	SaggRange  *result = palloc0(sizeof(SaggRange) * Max(total, 1));

	/* the order does not matter: backwards */
	for (int i = 0; i < reader->ntopics; i++)
	{
		const FileTopic *topic = &reader->topics[i];

		for (int p = Min(count_files(topic->directory), total - n) - 1; p >= 0; p--)
		{
			result[n].topic = topic->topic;
			result[n].partition = p;
			result[n++].end = records_of(topic->directory, p);
		}
	}
	*npartitions = reader->nfiles = n;
	return result;
}

/* the first record of that time or later: times ascend in a file */
static void
offsets_at(SaggReader *base, TimestampTz time, SaggRange *ranges, int nranges)
{
	FileReader *reader = (FileReader *) base;
	int64		ms = time / 1000 + (time % 1000 > 0) +
	(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400000);
	char		record[RECORD_SIZE];

	for (int i = 0; i < nranges; i++)
	{
		int64		low = ranges[i].start;
		int64		high = ranges[i].end;

		while (low < high)
		{
			int64		middle = low + (high - low) / 2;

			read_records(directory_by_topic(reader, ranges[i].topic), ranges[i].partition,
						 middle, 1, record);
			if (time_of(record) < ms)
				low = middle + 1;
			else
				high = middle;
		}
		ranges[i].start = low;
	}
}

static bool
partitions_changed(SaggReader *base)
{
	FileReader *reader = (FileReader *) base;

	return count_all(reader) != reader->nfiles;
}

static FilePartition *
partition_of(FileReader *reader, const SaggRange *range)
{
	FilePartition *part;
	Size		size = sizeof(FilePartition) * (reader->npartitions + 1);

	for (int i = 0; i < reader->npartitions; i++)
	{
		part = &reader->partitions[i];
		if (part->topic == range->topic && part->number == range->partition)
			return part;
	}
	reader->partitions = reader->partitions ? repalloc(reader->partitions, size) :
		MemoryContextAlloc(reader->base.memory, size);
	part = &reader->partitions[reader->npartitions++];
	memset(part, 0, sizeof(FilePartition));
	part->topic = range->topic;
	part->number = range->partition;
	part->directory = directory_by_topic(reader, range->topic);
	part->position = -1;
	return part;
}

static void
release(SaggReader *base)
{
	FileReader *reader = (FileReader *) base;

	services->reset(base);
	for (int i = 0; i < reader->npartitions; i++)
		reader->partitions[i].first = reader->partitions[i].behind = 0;
	reader->has_batch = reader->complete = false;
}

static void
assign(SaggReader *base, const SaggRange *positions, int npositions)
{
	bool		changed = false;

	for (int i = 0; i < npositions; i++)
	{
		FilePartition *part = partition_of((FileReader *) base, &positions[i]);

		changed |= part->position != positions[i].start;
		part->position = positions[i].start;
	}
	if (changed)
		release(base);
}

static bool
has_records(SaggReader *base)
{
	FileReader *reader = (FileReader *) base;

	for (int i = 0; i < reader->npartitions; i++)
	{
		const FilePartition *part = &reader->partitions[i];

		/* fewer: the file is another one */
		if (records_of(part->directory, part->number) != part->position)
			return true;
	}
	return false;
}

static long
rest(SaggReader *base, long interval_ms, long timeout_ms)
{
	return interval_ms > 0 ? timeout_ms : Min(timeout_ms, POLL_MS);
}

static void
begin(SaggReader *base, const SaggRange *ranges, int nranges)
{
	FileReader *reader = (FileReader *) base;

	release(base);
	assign(base, ranges, nranges);
	for (int i = 0; i < nranges; i++)
	{
		FilePartition *part = partition_of(reader, &ranges[i]);

		part->first = ranges[i].start;
		part->behind = ranges[i].end;
	}
	reader->has_batch = nranges > 0;
}

/* Read records of a partition, and hand them over. */
static void
collect_some(FileReader *reader, const FilePartition *part, int64 offset, int n)
{
	char		lines[AT_ONCE * RECORD_SIZE];
	SaggSourceRecord records[AT_ONCE] = {0};
	SaggHeader	header = {.name = "file", .value = "source", .len = 6};

	read_records(part->directory, part->number, offset, n, lines);
	for (int i = 0; i < n; i++)
	{
		const char *line = lines + i * RECORD_SIZE;
		int			len = RECORD_SIZE - 1;

		while (len > 0 && line[len - 1] == ' ')
			len--;
		records[i].topic = part->topic;
		records[i].partition = part->number;
		records[i].offset = offset + i;
		records[i].timestamp_ms = time_of(line);
		records[i].key = len > 0 ? line : NULL;
		records[i].key_len = TIME_DIGITS;
		records[i].payload = len > 0 ? line : NULL;
		records[i].payload_len = len;
		records[i].nheaders = 1;
		records[i].headers = &header;
	}
	services->add(&reader->base, records, n);
}

static bool
collect(SaggReader *base)
{
	FileReader *reader = (FileReader *) base;

	if (!reader->has_batch || reader->complete)
		return true;
	services->reset(base);		/* of what an error has left */
	for (int i = 0; i < reader->npartitions; i++)
	{
		FilePartition *part = &reader->partitions[i];

		for (int64 offset = part->first; offset < part->behind; offset += AT_ONCE)
			collect_some(reader, part, offset, Min(AT_ONCE, part->behind - offset));
		if (part->behind > part->first)
			part->position = part->behind;
	}
	reader->complete = true;
	return true;
}

/* --- INSERT */

struct SaggProducer
{
	char	   *directory;
};

static SaggProducer *
open_producer(Oid source, Oid user)
{
	SaggProducer *producer = palloc(sizeof(SaggProducer));

	producer->directory = directory_of(source);
	return producer;
}

static void
restart(SaggProducer *producer)
{
}

static void
send_record(SaggProducer *producer, const SaggOutRecord *record)
{
	int			partition = record->partition == SAGG_PARTITION_BY_KEY ? 0 : record->partition;
	char	   *path = path_of(producer->directory, partition);
	char		line[RECORD_SIZE];
	int			fd;
	ssize_t		written;

	if (record->payload_len >= RECORD_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("a record of %zu bytes does not fit into %d", record->payload_len, RECORD_SIZE - 1)));
	memset(line, ' ', sizeof(line));
	if (record->payload)
		memcpy(line, record->payload, record->payload_len);
	line[RECORD_SIZE - 1] = '\n';
	fd = BasicOpenFile(path, O_WRONLY | O_APPEND | O_CREAT | PG_BINARY);
	written = fd < 0 ? -1 : write(fd, line, sizeof(line));
	if (fd >= 0)
		close(fd);
	if (written != sizeof(line))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\"", path)));
	pfree(path);
}

static void
finish(SaggProducer *producer)
{
}

static const SaggSourceProducer producer = {
	.open = open_producer,
	.restart = restart,
	.send = send_record,
	.finish = finish,
	.close = finish
};

static const SaggSourceKind file_source = {
	.api_version = SAGG_SOURCE_API_VERSION,
	.name = "file_source",
	.title = "File",
	.topics = topics,
	.topic_option = "directory",
	.topics_option = "directory",
	.reader_size = sizeof(FileReader),
	.open = open_reader,
	.close = close_reader,
	.identity = identity,
	.bounds = bounds,
	.offsets_at = offsets_at,
	.partitions_changed = partitions_changed,
	.assign = assign,
	.has_records = has_records,
	.rest = rest,
	.begin = begin,
	.collect = collect,
	.release = release,
	.producer = &producer
};

void
_PG_init(void)
{
	services = sagg_source_register(&file_source);
}

Datum
file_source_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(services->routine(&file_source));
}

/* file_source_validator(text[], oid): a directory, and the options of stream_agg's own */
Datum
file_source_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if ((catalog != ForeignTableRelationId || strcmp(option->defname, "directory") != 0) &&
			!services->takes_option(catalog, option->defname, defGetString(option)))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", option->defname)));
	}
	services->options_fit(catalog, options);
	PG_RETURN_VOID();
}

static bool
is_option(const char *name)
{
	return false;
}

static void
check_option(const char *name)
{
}

/* kinds that are refused, each for another reason */
Datum
register_another_version(PG_FUNCTION_ARGS)
{
	static SaggSourceKind kind;

	kind = file_source;
	kind.api_version = SAGG_SOURCE_API_VERSION + 1;
	kind.name = "file_source of tomorrow";
	(void) sagg_source_register(&kind);
	PG_RETURN_VOID();
}

Datum
register_incomplete(PG_FUNCTION_ARGS)
{
	static SaggSourceKind kind;

	kind = file_source;
	kind.name = "file_source without an end";
	kind.bounds = NULL;
	(void) sagg_source_register(&kind);
	PG_RETURN_VOID();
}

Datum
register_with_brokers(PG_FUNCTION_ARGS)
{
	static SaggSourceKind kind;

	kind = file_source;
	kind.name = "file_source with brokers";
	kind.flags = SAGG_SOURCE_OF_BROKERS;
	kind.wrapper = "file_source";
	kind.is_table_option = is_option;
	kind.check_option_name = check_option;
	(void) sagg_source_register(&kind);
	PG_RETURN_VOID();
}

Datum
register_again(PG_FUNCTION_ARGS)
{
	(void) sagg_source_register(&file_source);
	PG_RETURN_VOID();
}
