#!/usr/bin/python3
"""A Kafka broker that says whatever a test wants it to, for consumers only.

    hostile_broker.py READY_FILE SCRIPT

Writes its address to READY_FILE and ends with its parent.  SCRIPT is JSON and is
read again whenever it changes:

    {"cluster": "id",                     text; or {"hex": "ff"}, as all names here
     "pause": 100,                        ms before an answer that has records
     "hangs_up": true,                    instead of answering a fetch
     "topics": [{"name": "t", "partitions": [
        {"end": 5,                        instead of the offset behind the last batch
         "wrong_end": [2, "name"],        the same, in one answer only for each name
         "aborted": [[producer, offset]], transactions and where they begin
         "batches": [BATCH...]}]}],
     "error": "text",                     of FindCoordinator's answer
     "fuzz": {"seed": 1, "share": 10}}    one answer in "share" is damaged: records,
                                          offsets, names, errors, numbers of partitions

A BATCH is {"base": first offset, "values": ["{...}"], "times": offsets it has if
more than values, "codec": 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd,
"bytes": N} with one value of N bytes in place of "values" (gzip and zstd), or has
"garbage": "hex" in place of its records.  "crc": false gives it a wrong one,
"magic" another number, "key_bytes" and "header_bytes": N move the bytes of the
value there; "headers": [["name in hex", "value in hex"]].  "producer": N makes it a
part of that one's transaction; "abort": true, the marker that aborts it.

The form of answers is always right: librdkafka 2.0.2 does not survive it when it
reads one whose lengths are wrong, and that is not what is to be tested.

READY_FILE.count has how many requests were answered, how many of them were
fetches, and how many answers were damaged.
"""
import json
import os
import random
import socket
import struct
import sys
import threading
import time
import zlib

READY = sys.argv[1]
SCRIPT = sys.argv[2]
EARLIEST, LATEST = -2, -1
PRODUCE, FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR, API_VERSIONS = 0, 1, 2, 3, 10, 18
VERSIONS = [(PRODUCE, 0, 7), (FETCH, 4, 4), (LIST_OFFSETS, 1, 1), (METADATA, 2, 2), (FIND_COORDINATOR, 0, 0),
            (API_VERSIONS, 0, 3)]

lock = threading.Lock()
script = {}
script_time = None
counts = {"answers": 0, "fetches": 0, "damaged": 0}
records_made = {}


def text(value):
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()


def string(data):
    return struct.pack(">h", len(data)) + data


def varint(n):
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


CRC_TABLE = []
for i in range(256):
    c = i
    for _ in range(8):
        c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    CRC_TABLE.append(c)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def record(delta, value, headers, key=None):
    body = b"\0" + varint(0) + varint(delta) + (varint(-1) if key is None else varint(len(key)) + key)
    body += varint(len(value)) + value + varint(len(headers))
    for name, content in headers:
        body += varint(len(name)) + name + varint(len(content)) + content
    return varint(len(body)) + body


def frame_of_large(batch):
    """A record of one large part: what is before and behind it, and its length."""
    n = batch["bytes"]
    if batch.get("key_bytes"):
        before, behind = b"\0" + varint(0) + varint(0) + varint(n), varint(1) + b"{" + varint(0)
    elif batch.get("header_bytes"):
        before = b"\0" + varint(0) + varint(0) + varint(-1) + varint(2) + b"{}" + varint(1) + varint(1) + b"h" + varint(n)
        behind = b""
    else:
        before, behind = b"\0" + varint(0) + varint(0) + varint(-1) + varint(n), varint(0)
    return varint(len(before) + n + len(behind)) + before, n, behind


def gzip_large(before, n, behind):
    gz = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = [gz.compress(before)]
    block = b" " * (1 << 20)
    for _ in range(n >> 20):
        out.append(gz.compress(block))
    out.append(gz.compress(block[:n & (1 << 20) - 1] + behind))
    out.append(gz.flush())
    return b"".join(out)


def zstd_large(before, n, behind):
    """A frame by hand: raw blocks, and runs of 128 kB of four bytes each."""
    out = struct.pack("<IBI", 0xFD2FB528, 0xA0, len(before) + n + len(behind))

    def block(kind, size, data, last=0):
        return struct.pack("<I", last | kind << 1 | size << 3)[:3] + data
    out += block(0, len(before), before)
    while n > 0:
        size = min(n, 128 * 1024)
        out += block(1, size, b" ")
        n -= size
    return out + block(0, len(behind), behind, 1)


def make_records(batch):
    codec = batch.get("codec", 0)
    if "garbage" in batch:
        return bytes.fromhex(batch["garbage"])
    if "bytes" in batch:
        key = (codec, frame_of_large(batch))
        if key not in records_made:
            records_made[key] = {1: gzip_large, 4: zstd_large}[codec](*key[1])
        return records_made[key]
    if batch.get("abort"):
        return record(0, struct.pack(">hi", 0, 0), [], struct.pack(">hh", 0, 0))
    headers = [(bytes.fromhex(n), bytes.fromhex(v)) for n, v in batch.get("headers", [])]
    data = b"".join(record(i, text(v), headers) for i, v in enumerate(batch["values"]))
    if codec == 1:
        gz = zlib.compressobj(6, zlib.DEFLATED, 31)
        data = gz.compress(data) + gz.flush()
    return data


def offsets_of(batch):
    return batch.get("times", len(batch.get("values", [1])))


def damaged_batch(batch, rng):
    """The batch with something in it that is not so: values, offsets, codec, bytes of
    what is compressed."""
    batch = dict(batch)
    kind = rng.randrange(6)
    if kind == 0:
        batch["base"] = rng.choice((batch["base"] + rng.randrange(-20, 20), -1, 1 << 62, (1 << 63) - 1, -(1 << 63)))
    elif kind == 1:
        batch["times"] = rng.choice((0, 1, 2, 1000, 0x7FFFFFFF, -5))
    elif kind == 2:
        batch["codec"], batch["garbage"] = rng.randrange(1, 8), bytes(rng.randrange(256) for _ in range(rng.randrange(200))).hex()
    elif kind == 3 and batch.get("codec"):
        batch["garbage"] = damage(make_records(batch), rng).hex()
    elif kind == 4:
        batch["stamp"] = rng.choice((-1, 0, 1 << 62, -(1 << 63), (1 << 63) - 1))
    else:
        batch["values"] = [{"hex": damage(text(v), rng).hex()} for v in batch["values"]]
        batch["headers"] = [[bytes(rng.randrange(1, 256) for _ in range(rng.randrange(20))).hex(), "ff00"]]
    return make_batch(batch, False)


def make_batch(batch, keep=True):
    key = json.dumps(batch, sort_keys=True) if keep else None
    if key in records_made:
        return records_made[key]
    records = make_records(batch)
    n = offsets_of(batch)
    attributes = batch.get("codec", 0) | ("producer" in batch) << 4 | bool(batch.get("abort")) << 5
    tail = struct.pack(">hiqqqhii", attributes, n - 1, batch.get("stamp", 1700000000000), batch.get("stamp", 1700000000000),
                       batch.get("producer", -1), -1, -1,
                       len(batch.get("values", [1]))) + records
    crc = crc32c(tail) if len(tail) < 1 << 16 else 0
    if batch.get("crc", True) is False:
        crc ^= 1
    body = struct.pack(">ibI", 0, batch.get("magic", 2), crc) + tail
    made = struct.pack(">qi", batch["base"], len(body)) + body
    if keep:
        records_made[key] = made
    return made


def current_script():
    global script, script_time
    stamp = os.stat(SCRIPT).st_mtime_ns
    if stamp != script_time:
        with open(SCRIPT) as f:
            script = json.load(f)
        script_time = stamp
    return script


def find_partition(name, number):
    for topic in script["topics"]:
        if text(topic["name"]) == name and 0 <= number < len(topic["partitions"]):
            return topic["partitions"][number]
    return None


told = set()


def end_of(partition):
    batches = partition["batches"]
    return partition.get("end", batches[-1]["base"] + offsets_of(batches[-1]) if batches else 0)


class Request:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, form):
        values = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return values if len(values) > 1 else values[0]

    def string(self):
        n = self.take("h")
        if n < 0:
            return None
        self.at += n
        return self.data[self.at - n:self.at]


def api_versions(version):
    if version < 3:
        return struct.pack(">hi", 0, len(VERSIONS)) + b"".join(struct.pack(">hhh", *v) for v in VERSIONS)
    return struct.pack(">hB", 0, len(VERSIONS) + 1) + b"".join(struct.pack(">hhhB", *v, 0) for v in VERSIONS) + struct.pack(">iB", 0, 0)


def metadata(request):
    n = request.take("i")
    wanted = None if n < 0 else [request.string() for _ in range(n)]
    topics = []
    for topic in script["topics"]:
        name = text(topic["name"])
        if wanted is not None and name not in wanted:
            continue
        parts = b"".join(struct.pack(">hiiiiii", 0, i, 1, 1, 1, 1, 1) for i in range(len(topic["partitions"])))
        topics.append(struct.pack(">h", 0) + string(name) + b"\0" + struct.pack(">i", len(topic["partitions"])) + parts)
    for name in wanted or []:
        if not any(text(t["name"]) == name for t in script["topics"]):
            topics.append(struct.pack(">h", 3) + string(name) + b"\0" + struct.pack(">i", 0))
    return (struct.pack(">ii", 1, 1) + string(b"127.0.0.1") + struct.pack(">i", port) + struct.pack(">h", -1) +
            string(text(script["cluster"])) + struct.pack(">ii", 1, len(topics)) + b"".join(topics))


def each_partition(request, form, answer):
    out = b""
    topics = request.take("i")
    for _ in range(topics):
        name = request.string()
        n = request.take("i")
        out += string(name) + struct.pack(">i", n)
        for _ in range(n):
            number, *rest = request.take("i" + form)
            out += struct.pack(">i", number) + answer(find_partition(name, number), *rest)
    return struct.pack(">i", topics) + out


def list_offsets(request, rng):
    request.take("i")

    def answer(partition, stamp):
        if rng:
            return struct.pack(">hqq", rng.choice((0, 0, 0, 0, 1, 3, 5, 6, 29)), rng.choice((-1, 0, 1 << 62)), rng.choice(
                (-3, -2, -1, 0, 1, rng.randrange(1000), 1 << 32, (1 << 63) - 1, -(1 << 63))))
        if partition is None:
            return struct.pack(">hqq", 3, -1, -1)
        if stamp == EARLIEST:
            return struct.pack(">hqq", 0, -1, partition["batches"][0]["base"] if partition["batches"] else 0)
        if stamp == LATEST and "wrong_end" in partition and partition["wrong_end"][1] not in told:
            told.add(partition["wrong_end"][1])
            return struct.pack(">hqq", 0, -1, partition["wrong_end"][0])
        if stamp == LATEST:
            return struct.pack(">hqq", 0, -1, end_of(partition))
        return struct.pack(">hqq", 0, -1, -1)
    return each_partition(request, "q", answer)


def fetch(request, rng):
    _, wait, _, most, _ = request.take("iiiib")
    left = [most]
    found = [False]

    def answer(partition, offset, part_most):
        if partition is None:
            return struct.pack(">hqqii", 3, -1, -1, -1, 0)
        end = end_of(partition)
        first = partition["batches"][0]["base"] if partition["batches"] else 0
        if offset < first or offset > end:
            return struct.pack(">hqqii", 1, end, end, -1, 0)
        data = b""
        for batch in partition["batches"]:
            if batch["base"] + offsets_of(batch) <= offset:
                continue
            made = damaged_batch(batch, rng) if rng and rng.randrange(3) == 0 else make_batch(batch)
            # the first batch of all comes whole, whatever its size, as from Kafka
            if (found[0] or data) and len(data) + len(made) > min(part_most, left[0]):
                break
            data += made
            found[0] = True
        left[0] -= len(data)
        error = 0
        if rng:
            error, end = rng.choice(((0, end), (0, end), (0, end), (0, -5), (0, 1 << 62), (1, end), (3, end), (6, end), (29, end), (2, end)))
        aborted = partition.get("aborted")
        return (struct.pack(">hqqi", error, end, end, -1 if aborted is None else len(aborted)) +
                b"".join(struct.pack(">qq", *one) for one in aborted or []) + struct.pack(">i", len(data)) + data)
    body = each_partition(request, "qi", answer)
    time.sleep((script.get("pause", 0) if found[0] else min(wait, 20)) / 1000)
    return struct.pack(">i", 0) + body


def find_coordinator():
    if "error" in script:
        return struct.pack(">hi", 15, -1) + string(text(script["error"])) + struct.pack(">i", -1)
    return struct.pack(">hi", 0, 1) + string(b"127.0.0.1") + struct.pack(">i", port)


def other_metadata(rng):
    """A well-formed answer that says what is not so."""
    def number(usual):
        return rng.choice((usual, usual, usual, -1, 0, 1, 2, 3, 5, 6, 9, 29, 87, 0x7FFFFFFF))

    def name(usual):
        return rng.choice((usual, usual, b"fuzz_2", b"fuzz_1", b"", b"fuzz\xff", b"fuzz\0", b"fuzz' \n", bytes(
            rng.randrange(256) for _ in range(rng.randrange(1, 300)))))
    topics = b""
    n = 0
    for topic in script["topics"]:
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            n += 1
            count = rng.choice((len(topic["partitions"]), len(topic["partitions"]), 0, 1, 3, 40, 300))
            parts = b"".join(struct.pack(">hiiiiii", number(0) & 0x7F, i, number(1) & 0x7F, 1, 1, 1, 1) for i in range(count))
            topics += struct.pack(">h", number(0) & 0x7F) + string(name(text(topic["name"]))) + b"\0" + struct.pack(">i", count) + parts
    return (struct.pack(">ii", 1, 1) + string(b"127.0.0.1") + struct.pack(">i", port) + struct.pack(">h", -1) +
            string(name(text(script["cluster"]))) + struct.pack(">ii", number(1), n) + topics)


def damage(data, rng):
    """Other bytes."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            data[at:at + 4] = struct.pack(">i", rng.choice((-1, -2, 0, 1, 0x7FFFFFFF, -0x80000000, 0x10000, 100000)))
        elif kind == 3:
            del data[at:at + rng.randrange(1, 16)]
        elif kind == 4:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 16)))
        else:
            data[at:at + 8] = struct.pack(">q", rng.choice((-1, 1 << 62, (1 << 63) - 1, -(1 << 63), 1 << 32)))
        if not data:
            break
    return bytes(data)


def answer(data):
    """The answer to a request, perhaps damaged; None for one that has none."""
    request = Request(data)
    key, version, correlation = request.take("hhi")
    request.string()
    rng = None
    with lock:
        fuzz = current_script().get("fuzz")
        counts["answers"] += 1
        counts["fetches"] += key == FETCH
        if fuzz and key in (METADATA, LIST_OFFSETS, FETCH):
            rng = randoms.setdefault(fuzz["seed"], random.Random(fuzz["seed"]))
            rng = random.Random(rng.randrange(1 << 32)) if rng.randrange(fuzz["share"]) == 0 else None
            counts["damaged"] += rng is not None
    if key == FETCH and script.get("hangs_up"):
        return None
    if key == API_VERSIONS:
        body = api_versions(version)
    elif key == METADATA:
        body = other_metadata(rng) if rng else metadata(request)
    elif key == LIST_OFFSETS:
        body = list_offsets(request, rng)
    elif key == FETCH:
        body = fetch(request, rng)
    elif key == FIND_COORDINATOR:
        body = find_coordinator()
    else:
        return None
    result = struct.pack(">i", correlation) + body
    with lock:
        with open(READY + ".count.new", "w") as f:
            f.write("%(answers)d %(fetches)d %(damaged)d" % counts)
        os.rename(READY + ".count.new", READY + ".count")
    return struct.pack(">i", len(result)) + result


randoms = {}


def receive(connection, n):
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(connection):
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            reply = answer(receive(connection, struct.unpack(">i", receive(connection, 4))[0]))
            if reply is None:
                break
            connection.sendall(reply)
    except (EOFError, OSError):
        pass
    finally:
        connection.close()


def end_with_parent():
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


listener = socket.create_server(("127.0.0.1", 0), backlog=100)
port = listener.getsockname()[1]
threading.Thread(target=end_with_parent, daemon=True).start()
with open(READY + ".new", "w") as ready:
    ready.write("127.0.0.1:%d" % port)
os.rename(READY + ".new", READY)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
