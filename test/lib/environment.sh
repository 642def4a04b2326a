# What test/run, test/demo and test/bench share: build, install, a private
# server and the embedded broker, in a directory of their own that goes when
# the script ends.  To be sourced by bash, with the top of the checkout as
# working directory.

top=$PWD
PG_CONFIG=${PG_CONFIG:-pg_config}

# Servers do not run as root: then everything below runs as user postgres.
if [ "$(id -u)" -eq 0 ]; then
	as_user=(setpriv --reuid=postgres --regid=postgres --init-groups)
	as_root=()
else
	as_user=()
	as_root=(sudo)
fi

set_up() {
	test/deps
	bindir=$("$PG_CONFIG" --bindir)
	make -s -j2 ${WERROR:+WERROR=1} PG_CONFIG="$PG_CONFIG"
	make -s -C test/broker
	make -s -C test/fuzz PG_CONFIG="$PG_CONFIG" with_llvm=no
	"${as_root[@]}" make -s install PG_CONFIG="$PG_CONFIG" >/dev/null
	# against the installed header
	make -s -C test/modules PG_CONFIG="$PG_CONFIG" with_llvm=no

	work=$(mktemp -d "${TMPDIR:-/tmp}/stream_agg.XXXXXX")
	mkdir "$work/data" "$work/bin"
	cp test/broker/kafka_tool test/modules/stream_lock.so test/modules/strict_sum.so test/modules/crash_on.so test/modules/transaction_block.so test/modules/file_sink.so test/modules/file_source.so test/fuzz/decode_fuzz.so \
		test/fuzz/leaf_fuzz test/registry/*.py test/broker/hostile_broker.py "$work/bin"
	[ "$(id -u)" -ne 0 ] || chown -R postgres "$work"
	export KAFKA_TOOL=$work/bin/kafka_tool STREAM_LOCK=$work/bin/stream_lock.so STRICT_SUM=$work/bin/strict_sum.so CRASH_ON=$work/bin/crash_on.so
	export TRANSACTION_BLOCK=$work/bin/transaction_block.so FILE_SINK=$work/bin/file_sink.so FILE_SOURCE=$work/bin/file_source.so
	export DECODE_FUZZ=$work/bin/decode_fuzz.so LEAF_FUZZ=$work/bin/leaf_fuzz
	export REGISTRY=$work/bin HOSTILE_BROKER=$work/bin/hostile_broker.py
	cd "$work"
}

# resolve_kafka FOLDER [PROPERTY]...: jars into a folder of build, unless they are there
resolve_kafka() {
	local folder=$top/build/$1 log=$work/maven.log
	if ! [ "$folder/complete" -nt "$top/test/kafka/pom.xml" ]; then
		rm -rf "$folder"
		if ! mvn -q -B -f "$top/test/kafka/pom.xml" -Dkafka.jars="$1" "${@:2}" dependency:copy-dependencies >"$log" 2>&1; then
			echo "Maven could not get Kafka's jars" >&2
			[ "${STREAM_AGG_KAFKA:-}" != required ] || tail -n 20 "$log" >&2
			return 1
		fi
		touch "$folder/complete"
	fi
}

# The jars of Apache Kafka, by Maven, and a copy that the servers' user can read.
# Fails, and says why on stderr, where that cannot be.
prepare_kafka() {
	local program
	for program in java mvn; do
		if ! command -v $program >/dev/null; then
			echo "$program is not installed" >&2
			return 1
		fi
	done
	resolve_kafka kafka || return 1
	resolve_kafka kafka-3.7 -Dkafka.version=3.7.1 || return 1
	"${as_user[@]}" mkdir "$work/jars" "$work/jars-3.7"
	cp "$top"/build/kafka/*.jar "$work/jars"
	cp "$top"/build/kafka-3.7/*.jar "$work/jars-3.7"
	cp "$top/test/kafka/cluster" "$work/bin/kafka_cluster"
	chmod -R a+rX "$work/jars" "$work/jars-3.7" "$work/bin/kafka_cluster"
}

# after prepare_kafka: a cluster of one node
start_kafka() {
	export KAFKA_JARS=$work/jars KAFKA_3_7_JARS=$work/jars-3.7 KAFKA_CLUSTER=$work/bin/kafka_cluster KAFKA_SHARED=$work/shared_kafka
	"${as_user[@]}" "$KAFKA_CLUSTER" start "$KAFKA_SHARED" 1 $$ >kafka_start.log 2>&1 ||
		{ cat kafka_start.log; return 1; }
}

stop_kafka() {
	[ -z "${KAFKA_SHARED:-}" ] || "${as_user[@]}" "$KAFKA_CLUSTER" stop "$KAFKA_SHARED" || true
}

# leave server and broker running when the script ends, with a script to stop them
keep_running() { keep=1; }

clean_up() {
	cd "$top"
	if [ -n "${keep:-}" ] && [ -e "${work:-}/data/postmaster.pid" ]; then
		cat >"$work/stop" <<STOP
#!/bin/sh
${broker_pid:+kill $broker_pid}
cd /
$(printf "'%s' " "${as_user[@]}" "$bindir/pg_ctl" -D "$work/data" -m fast -s stop)
rm -rf '$work'
STOP
		chmod +x "$work/stop"
		return
	fi
	[ -z "${work:-}" ] && return
	if [ -e "$work/data/postmaster.pid" ]; then
		"${as_user[@]}" "$bindir/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
	fi
	[ -z "${broker_pid:-}" ] || kill "$broker_pid" 2>/dev/null || true
	stop_kafka
	rm -rf "$work"
}

# a port nobody listens on
free_port() {
	python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

# start_postgres [setting]...
start_postgres() {
	export PGPORT PGHOST=$work PGUSER=postgres PGDATABASE=postgres
	PGPORT=$(free_port)
	"${as_user[@]}" "$bindir/initdb" -D "$work/data" -U postgres -A trust \
		-E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
	{
		echo "port = $PGPORT"
		echo "listen_addresses = 'localhost'"
		echo "unix_socket_directories = '$work'"
		echo "shared_preload_libraries = 'stream_agg'"
		echo "fsync = off"
		printf '%s\n' "$@"
	} | "${as_user[@]}" tee -a "$work/data/postgresql.conf" >/dev/null
	"${as_user[@]}" "$bindir/pg_ctl" -D "$work/data" -l "$work/postgres.log" -s -w start
}

# start_broker topic:partitions...; sets BROKERS
start_broker() {
	local topic topics=()
	local parent=$$
	[ -z "${keep:-}" ] || parent=1
	for topic; do topics+=(--topic "$topic"); done
	"${as_user[@]}" "$KAFKA_TOOL" serve --ready-file "$work/broker" \
		--control "$work/control" --parent "$parent" "${topics[@]}" >"$work/broker.log" 2>&1 &
	broker_pid=$!
	disown
	until [ -s "$work/broker" ]; do
		kill -0 "$broker_pid" || { cat "$work/broker.log"; exit 1; }
		sleep 0.05
	done
	export BROKERS
	BROKERS=$(cat "$work/broker")
}
