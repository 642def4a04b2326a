/*-------------------------------------------------------------------------
 *
 * stream_agg.c
 *	  Entry point of the library: settings and registration.
 *
 * Nothing here contacts Kafka or makes a thread: this code runs in the
 * postmaster, whose children inherit what it does (I6).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "stream_agg.h"
#include "control/control.h"
#include "define/define.h"
#include "kafka/kafka.h"
#include "rate/rate.h"
#include "read/read.h"
#include "sink_kinds.h"
#include "worker/worker.h"
#include "write/write.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

bool		sagg_enabled = true;
int			sagg_max_streams = 32;
int			sagg_max_partitions = 256;
int			sagg_max_executors = 8;
int			sagg_max_records_per_batch = 500000;
int			sagg_batch_memory_kb = 262144;
int			sagg_fetch_memory_kb = 131072;
int			sagg_memory_release_delay_ms = 60000;
int			sagg_collect_ahead = 10000;
int			sagg_kafka_timeout_ms = 30000;
int			sagg_keep_batches = 100;
int			sagg_max_retry_delay_ms = 60000;
int			sagg_max_attempts = 10;
int			sagg_failure_retry_delay_ms = 60000;
int			sagg_lag_check_interval_ms = 30000;
int			sagg_max_dead_letters = 10000;
int			sagg_max_late_records = 10000;
int			sagg_max_poison_in_row = 100;
int			sagg_crash_restart_delay_ms = 5000;
int			sagg_max_crashes = 5;
int			sagg_crash_window_s = 3600;
int			sagg_stop_timeout_ms = 30000;
int			sagg_max_stream_state_kb = -1;
int			sagg_state_memory_kb = -1;
int			sagg_max_total_state_kb = -1;
int			sagg_max_role_state_kb = -1;
int			sagg_max_streams_per_role = -1;
int			sagg_max_dead_letters_size_kb = 262144;
int			sagg_max_late_records_size_kb = 262144;

bool		sagg_preloaded = false;

static void
define_startup_settings(void)
{
	DefineCustomIntVariable("stream_agg.max_streams",
							"Sets the maximum number of streams of all databases that can run at once.",
							NULL,
							&sagg_max_streams, 32, 1, 10000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_executors",
							"Sets the maximum number of processes that execute the micro-batches of one stream.",
							"The stream's worker is one of them; a stream has as many as its option executors says.",
							&sagg_max_executors, 8, 1, SAGG_MAX_READINGS,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_partitions",
							"Sets the maximum number of partitions that a stream or a query can read, of its topics together.",
							NULL,
							&sagg_max_partitions, 256, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

/*
 * Limits of one role.  A superuser may set these for a role, by ALTER ROLE;
 * others may not set them.  The setting of the stream's owner counts.
 */
static void
define_role_settings(void)
{
	DefineCustomIntVariable("stream_agg.max_streams_per_role",
							"Sets the maximum number of streams of a role that can run at once, in all databases.",
							"A superuser has no such limit. -1 is three quarters of stream_agg.max_streams, or of the background workers there are if that is less.",
							&sagg_max_streams_per_role, -1, -1, 10000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_role_state",
							"Sets the maximum shared memory for the state of all streams of a role.",
							"The stream that needs more fails. A superuser has no such limit. -1 is three quarters of stream_agg.max_total_state.",
							&sagg_max_role_state_kb, -1, -1, MAX_KILOBYTES,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_dead_letters_size",
							"Sets the maximum size of a stream's rows in stream_agg.dead_letters.",
							"A micro-batch that would add more fails the stream. -1 is no limit.",
							&sagg_max_dead_letters_size_kb, 262144, -1, MAX_KILOBYTES,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_late_records_size",
							"Sets the maximum size of a stream's rows in stream_agg.late_records.",
							"A micro-batch that would add more fails the stream. -1 is no limit.",
							&sagg_max_late_records_size_kb, 262144, -1, MAX_KILOBYTES,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

/*
 * Settings about crashes of the server and about micro-batches that do not end.
 */
static void
define_crash_settings(void)
{
	DefineCustomIntVariable("stream_agg.crash_restart_delay",
							"Sets the time after a crash of the server before streams start.",
							"A stream that has crashed the server waits longer, twice as long with each crash, "
							"up to 5 minutes.",
							&sagg_crash_restart_delay_ms, 5000, 0, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_crashes",
							"Sets the number of crashes of the server within stream_agg.crash_window after which the stream to blame fails.",
							"-1 is no limit.",
							&sagg_max_crashes, 5, -1, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.crash_window",
							"Sets the time for which crashes of the server are counted.",
							NULL,
							&sagg_crash_window_s, 3600, 1, 7 * 24 * 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.stop_timeout",
							"Sets the time that a command that stops a stream waits for the current micro-batch before it cancels it.",
							"The micro-batch is run again when the stream starts. -1 waits without end.",
							&sagg_stop_timeout_ms, 30000, -1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_settings(void)
{
	DefineCustomBoolVariable("stream_agg.enabled",
							 "Runs streams.",
							 "Off keeps every stream of this server stopped, "
							 "as for a clone that must not process what the original does.",
							 &sagg_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_records_per_batch",
							"Sets the maximum number of records in a micro-batch of a stream without max_offsets_per_trigger.",
							NULL,
							&sagg_max_records_per_batch, 500000, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.batch_memory",
							"Sets the memory for the records of a micro-batch; what exceeds it goes to a temporary file.",
							NULL,
							&sagg_batch_memory_kb, 262144, 1024, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.fetch_memory",
							"Sets the memory for records fetched ahead from Kafka, per stream.",
							NULL,
							&sagg_fetch_memory_kb, 131072, 1024, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.memory_release_delay",
							"Sets the time after a micro-batch before a stream's worker gives free memory back to the operating system.",
							"A worker that processes micro-batches all the time gives it back as often. -1 keeps it.",
							&sagg_memory_release_delay_ms, 60000, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.collect_ahead",
							"Sets the minimum number of records of a micro-batch for a second thread to prefetch those of the next one.",
							"The thread works while the micro-batch is executed. -1 means that there is no such thread.",
							&sagg_collect_ahead, 10000, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.kafka_timeout",
							"Sets the time to wait for an answer from Kafka before giving up and retrying.",
							NULL,
							&sagg_kafka_timeout_ms, 30000, 100, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.keep_batches",
							"Sets the number of micro-batches that are kept in stream_agg.offsets and stream_agg.commits.",
							NULL,
							&sagg_keep_batches, 100, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_retry_delay",
							"Sets the maximum delay before a failed micro-batch is retried.",
							NULL,
							&sagg_max_retry_delay_ms, 60000, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_attempts",
							"Sets the number of attempts at a micro-batch before its stream fails.",
							"Temporary errors, such as an unreachable broker or a "
							"deadlock, are retried without end.",
							&sagg_max_attempts, 10, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.lag_check_interval",
							"Sets how often Kafka is asked about the lag of streams that do not run or are blocked.",
							"One stream after the other is asked about. 0 means that it is not asked.",
							&sagg_lag_check_interval_ms, 30000, 0, 24 * 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.failure_retry_delay",
							"Sets the pause before a failed stream whose on_failure is retry tries again.",
							"It doubles with each failure in a row, up to 10 minutes.",
							&sagg_failure_retry_delay_ms, 60000, 100, 24 * 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_late_records",
							"Sets the maximum number of a stream's rows in stream_agg.late_records.",
							"A micro-batch that would add more fails the stream.",
							&sagg_max_late_records, 10000, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_dead_letters",
							"Sets the maximum number of a stream's rows in stream_agg.dead_letters.",
							"A micro-batch that would add more fails the stream.",
							&sagg_max_dead_letters, 10000, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_poison_in_row",
							"Sets the maximum number of records in a row that a stream leaves out because processing them fails.",
							"A stream that meets one more, without having aggregated a record in between, fails.",
							&sagg_max_poison_in_row, 100, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_stream_state",
							"Sets the maximum shared memory for the state of a stream.",
							"A stream that needs more fails. -1 is no limit.",
							&sagg_max_stream_state_kb, -1, -1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.state_memory",
							"Sets how much memory the state of a stream may take before parts of it are left in the state log only.",
							"The option state_memory of a stream overrides it. -1 is no bound.",
							&sagg_state_memory_kb, -1, -1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_agg.max_total_state",
							"Sets the maximum shared memory for the state of all streams.",
							"The stream that needs more fails. -1 is no limit.",
							&sagg_max_total_state_kb, sagg_default_total_state(), -1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	define_role_settings();
}

void
_PG_init(void)
{
	if (process_shared_preload_libraries_in_progress)
	{
		sagg_preloaded = true;
		define_startup_settings();
	}
	else if (creating_extension)
		ereport(WARNING,
				(errmsg("stream_agg is not loaded via shared_preload_libraries"),
				 errdetail("Sources can be queried, but no stream can run."),
				 errhint("Add stream_agg to shared_preload_libraries in postgresql.conf and restart the server.")));
	define_settings();
	define_crash_settings();
	MarkGUCPrefixReserved("stream_agg");
	(void) stream_agg_register_source(&sagg_kafka_source);
	(void) stream_agg_register_source(&sagg_rate_source);
	stream_agg_register_sink(&sagg_table_sink);
	stream_agg_register_sink(&sagg_kafka_sink);

	if (sagg_preloaded)
	{
		sagg_slots_init();
		sagg_label_init();
		sagg_notify_init();
		sagg_database_commands_init();
		sagg_drop_extension_init();
		sagg_trust_init();
		sagg_secret_commands_init();
		/* streams must not run while pg_upgrade works */
		if (!IsBinaryUpgrade)
			sagg_launcher_register();
	}
}
