/*
 * file_sink.c
 *	  Two kinds of sinks, by the installed header of stream_agg alone.
 *
 * A foreign table of wrapper file_sink is a directory: each micro-batch is a file
 * of its own, <batch>.rows, which is <batch>.prepared until the commit.  One of
 * wrapper file_log is a directory with one file, log, to which rows are appended
 * at once.  A row is a line as COPY writes it, with the number of its batch as
 * the first column.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "executor/tuptable.h"
#include "extension/stream_agg/kinds.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

PG_FUNCTION_INFO_V1(file_sink_validator);
PG_FUNCTION_INFO_V1(register_another_version);
PG_FUNCTION_INFO_V1(register_false_promise);
PG_FUNCTION_INFO_V1(register_again);

typedef struct FileSink
{
	char	   *directory;
	TupleDesc	desc;			/* of the batch at hand, as the next two */
	int64		batch;
	StringInfo	lines;			/* NULL = none yet */
} FileSink;

static bool
is_of_wrapper(Oid relid, const char *wrapper)
{
	ForeignServer *server;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return false;
	server = GetForeignServer(GetForeignServerIdByRelId(relid));
	return strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, wrapper) == 0;
}

static bool
is_file_sink(Oid relid)
{
	return is_of_wrapper(relid, "file_sink");
}

static bool
is_file_log(Oid relid)
{
	return is_of_wrapper(relid, "file_log");
}

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
			 errmsg("foreign table \"%s\" has no option \"directory\"", get_rel_name(relid))));
}

static void
check(const SaggSinkStream *stream, const SaggSinkRows *rows)
{
	char	   *directory = directory_of(stream->sink);
	struct stat st;

	if (stat(directory, &st) != 0 || !S_ISDIR(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("stream \"%s\" cannot write %d columns into \"%s\", which is not a directory",
						stream->title, rows->desc->natts, directory)));
}

static void *
open_sink(const SaggSinkStream *stream)
{
	FileSink   *sink = palloc0(sizeof(FileSink));

	sink->directory = directory_of(stream->sink);
	return sink;
}

static void
begin(void *arg, const SaggSinkRows *rows, int64 batch)
{
	FileSink   *sink = arg;

	sink->desc = rows->desc;
	sink->batch = batch;
	sink->lines = NULL;
}

static void
append_line(FileSink *sink, TupleTableSlot *slot)
{
	appendStringInfo(sink->lines, INT64_FORMAT, sink->batch);
	for (int i = 0; i < sink->desc->natts; i++)
	{
		Oid			function;
		bool		varlena;
		bool		isnull;
		Datum		value = slot_getattr(slot, i + 1, &isnull);

		getTypeOutputInfo(TupleDescAttr(sink->desc, i)->atttypid, &function, &varlena);
		appendStringInfo(sink->lines, "\t%s",
						 isnull ? "\\N" : OidOutputFunctionCall(function, value));
	}
	appendStringInfoChar(sink->lines, '\n');
}

static int64
append_lines(FileSink *sink, Tuplestorestate *rows)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(sink->desc, &TTSOpsMinimalTuple);
	int64		n = 0;

	if (sink->lines == NULL)
		sink->lines = makeStringInfo();
	tuplestore_rescan(rows);
	for (; tuplestore_gettupleslot(rows, true, false, slot); n++)
		append_line(sink, slot);
	ExecDropSingleTupleTableSlot(slot);
	return n;
}

static void
write_rows(void *arg, const SaggOutput *output, int64 *rows_out, int64 *rows_removed)
{
	if (output->fresh)
		*rows_out += append_lines(arg, output->fresh);
	if (output->known)
		*rows_out += append_lines(arg, output->known);
}

static char *
path_of(const FileSink *sink, int64 batch, const char *suffix)
{
	return psprintf("%s/" INT64_FORMAT ".%s", sink->directory, batch, suffix);
}

static void
write_file(const FileSink *sink, const char *path, const char *mode)
{
	FILE	   *file = AllocateFile(path, mode);

	if (file == NULL ||
		fwrite(sink->lines->data, 1, sink->lines->len, file) != sink->lines->len ||
		fflush(file) != 0 || pg_fsync(fileno(file)) != 0 || FreeFile(file) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	fsync_fname(sink->directory, true);
}

static void
prepare(void *arg)
{
	FileSink   *sink = arg;

	if (sink->lines)
		write_file(sink, path_of(sink, sink->batch, "prepared"), PG_BINARY_W);
	sink->lines = NULL;
}

static void
publish(const FileSink *sink, int64 batch)
{
	char	   *from = path_of(sink, batch, "prepared");

	if (access(from, F_OK) == 0)
		(void) durable_rename(from, path_of(sink, batch, "rows"), ERROR);
}

static void
committed(void *arg)
{
	FileSink   *sink = arg;

	publish(sink, sink->batch);
}

static void
aborted(void *arg)
{
	FileSink   *sink = arg;

	(void) unlink(path_of(sink, sink->batch, "prepared"));
}

static void
recover(void *arg, int64 last)
{
	FileSink   *sink = arg;
	DIR		   *dir = AllocateDir(sink->directory);
	struct dirent *entry;

	while ((entry = ReadDir(dir, sink->directory)) != NULL)
	{
		int64		batch = atoll(entry->d_name);

		if (strstr(entry->d_name, ".prepared") == NULL)
			continue;
		if (batch <= last)
			publish(sink, batch);
		else
			(void) unlink(path_of(sink, batch, "prepared"));
	}
	FreeDir(dir);
}

static void
write_log(void *arg, const SaggOutput *output, int64 *rows_out, int64 *rows_removed)
{
	FileSink   *sink = arg;

	write_rows(arg, output, rows_out, rows_removed);
	write_file(sink, psprintf("%s/log", sink->directory), PG_BINARY_A);
	sink->lines = NULL;
}

static const SaggSinkKind file_sink = {
	.api_version = SAGG_SINK_API_VERSION,
	.name = "file_sink",
	.flags = SAGG_SINK_EXACTLY_ONCE,
	.title = "a directory of files",
	.noun = "directory",
	.rows = "lines of a file",
	.is_it = is_file_sink,
	.check = check,
	.open = open_sink,
	.recover = recover,
	.begin = begin,
	.write = write_rows,
	.prepare = prepare,
	.committed = committed,
	.aborted = aborted
};

static const SaggSinkKind file_log = {
	.api_version = SAGG_SINK_API_VERSION,
	.name = "file_log",
	.title = "a log file",
	.noun = "file",
	.rows = "lines of a file",
	.not_exactly_once = "A micro-batch that is retried appends its lines again.",
	.is_it = is_file_log,
	.open = open_sink,
	.begin = begin,
	.write = write_log
};

void
_PG_init(void)
{
	sagg_sink_register(&file_sink);
	sagg_sink_register(&file_log);
}

/* file_sink_validator(text[], oid): any option */
Datum
file_sink_validator(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}

/* kinds that are rejected, each for another reason */
Datum
register_another_version(PG_FUNCTION_ARGS)
{
	static SaggSinkKind kind;

	kind = file_sink;
	kind.api_version = SAGG_SINK_API_VERSION + 1;
	kind.name = "file_sink of tomorrow";
	sagg_sink_register(&kind);
	PG_RETURN_VOID();
}

Datum
register_false_promise(PG_FUNCTION_ARGS)
{
	static SaggSinkKind kind;

	kind = file_sink;
	kind.name = "file_sink that forgets";
	kind.recover = NULL;
	sagg_sink_register(&kind);
	PG_RETURN_VOID();
}

Datum
register_again(PG_FUNCTION_ARGS)
{
	sagg_sink_register(&file_sink);
	PG_RETURN_VOID();
}
