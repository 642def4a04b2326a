#!/usr/bin/python3
"""A small schema registry with Confluent's REST API, for tests.

    schema_registry.py READY_FILE [USER:PASSWORD [PEM_FILE]]

With a certificate and its key it speaks TLS.

Writes its port to READY_FILE and ends with its parent.

    POST /subjects/NAME/versions   {"schema": "...", "schemaType": "AVRO"} -> {"id": 1}
    GET  /schemas/ids/1            {"schema": "..."}
    GET  /subjects/NAME/versions/1 the same
    GET  /schemas/types            ["AVRO"]
    GET  /requests                 how many schemas were asked for
    POST /fuzz {"seed": 1}         damages each answer with a schema from now on, with
                                   null none; answers how many it has damaged

Ids from 9000 on are for what a registry may do wrong, see FAULTS; 9012 is never
answered.  Those from 20000 on are records with a long k and an enum of 20,000
symbols of 60 bytes, 30000 is one of 20,000 named types.  A file
READY_FILE.down makes it answer everything with 503, READY_FILE.forbidden with 403.
"""
import base64
import http.server
import json
import os
import random
import ssl
import sys
import threading
import time

schemas = []
subjects = {}
requests = 0
rng = None
damaged = 0
READY = sys.argv[1]
CREDENTIALS = sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] else None
PEM = sys.argv[3] if len(sys.argv) > 3 else None
TYPE = "application/vnd.schemaregistry.v1+json"

FAULTS = {
    9001: (200, b"no json"),
    9002: (200, b'{"schema": "{\\"type\\": "}'),
    9003: (200, b'{"schema": "[\\"null\\", \\"nosuch\\"]"}'),
    9004: (200, b'{"schema": "{}", "schemaType": "JSON"}'),
    9005: (200, b'{"schema": "\\"long\\""}'),
    9006: (200, b'{"other": 1}'),
    9007: (404, b"<html>not here</html>"),
    9008: (302, b""),
    9009: (200, b" " * (5 * 1024 * 1024)),
    9010: (200, b'{"schema": "\\"long\\"", "references": [{"name": "x", "subject": "y", "version": 1}]}'),
    9013: (400, b'{"error_code": 400, "message": "Bad Request"}'),
    9014: (403, b'{"error_code": 40301, "message": "User is denied operation Read on Subject: x"}'),
    9015: (500, b'{"error_code": 50001, "message": "Error in the backend data store"}'),
    9016: (500, b"<html>oops</html>"),
    9011: (200, b'{"schema": "' + b"[" * 5000 + b'"}'),
}


def large(number):
    """The schema of a record with much beside k; the first branch is null."""
    if number == 30000:
        more = [{"name": "f%d" % i, "type": ["null", {"type": "record", "name": "t%d" % i, "fields": [
            {"name": "x", "type": "t%d" % (i * 7919 % i) if i else "long"}]}]} for i in range(20000)]
    else:
        more = [{"name": "e", "type": ["null", {"type": "enum", "name": "e", "symbols": ["%060d" % i for i in range(20000)]}]}]
    return json.dumps({"type": "record", "name": "large", "fields": [{"name": "k", "type": "long"}] + more})


def damage(schema):
    """An answer of which a part - the schema, the JSON, the headers - is none."""
    global damaged
    damaged += 1
    part = rng.randrange(4)
    if part < 2:
        schema = mutate(schema.encode()).decode("latin-1")
    body = json.dumps({"schema": schema}).encode()
    if part == 2:
        body = mutate(body)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (TYPE.encode(), len(body))
    return mutate(head + body) if part == 3 else head + body


def mutate(data):
    data = bytearray(data)
    words = [b'"null"', b'"long"', b'"record"', b'"array"', b"{", b"}", b"[", b"]", b'"', b"99999999999", b"-1", b"1e9", b"\\u0000",
             b"\xff\xfe", b"[" * 200, b'{"type":' * 50, b"\r\n", b"\0"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at:at + rng.randrange(1, 30)]
        elif kind == 2:
            data[at:at] = rng.choice(words)
        elif kind == 3:
            end = at + rng.randrange(1, 40)
            data[at:at] = data[at:end]
        else:
            data[at:at + rng.randrange(1, 10)] = rng.choice(words)
        if not data:
            return b" "
    return bytes(data)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args):
        pass

    def answer(self, status, body):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", TYPE)
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", "/schemas/ids/1")
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        global rng
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/fuzz":
            if "seed" in body:
                rng = None if body["seed"] is None else random.Random(body["seed"])
            self.answer(200, damaged)
            return
        if body not in schemas:
            schemas.append(body)
        subjects.setdefault(self.path.split("/")[2], []).append(body)
        self.answer(200, {"id": schemas.index(body) + 1})

    def do_GET(self):
        global requests
        if self.path == "/requests":
            self.answer(200, requests)
            return
        requests += self.path != "/schemas/types"
        expected = "Basic " + base64.b64encode(CREDENTIALS.encode()).decode() if CREDENTIALS else None
        if os.path.exists(READY + ".down"):
            self.answer(503, {"error_code": 50301, "message": "down"})
        elif os.path.exists(READY + ".forbidden"):
            self.answer(403, {"error_code": 40301, "message": "denied"})
        elif expected and self.headers.get("Authorization") != expected:
            self.answer(401, {"error_code": 40101, "message": "who are you"})
        elif self.path == "/schemas/types":
            self.answer(200, ["AVRO", "PROTOBUF"])
        elif self.path.startswith("/subjects/"):
            self.give_version(*self.path.split("/")[2:5:2])
        elif not self.path.startswith("/schemas/ids/"):
            self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
        else:
            self.give(int(self.path.rsplit("/", 1)[1]))

    def give_version(self, subject, version):
        versions = subjects.get(subject, [])
        if 1 <= int(version) <= len(versions):
            self.answer(200, versions[int(version) - 1])
        else:
            self.answer(404, {"error_code": 40401, "message": "Subject not found"})

    def give(self, number):
        if number == 9012:
            time.sleep(6000)
        elif number in FAULTS:
            self.answer(*FAULTS[number])
        elif 20000 <= number <= 30000:
            self.answer(200, {"schema": large(number)})
        elif 1 <= number <= len(schemas) and rng:
            self.wfile.write(damage(schemas[number - 1]["schema"]))
            self.close_connection = True
        elif 1 <= number <= len(schemas):
            self.answer(200, schemas[number - 1])
        else:
            self.answer(404, {"error_code": 40403, "message": "Schema not found"})


def end_with_parent():
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
if PEM:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=end_with_parent, daemon=True).start()
with open(READY + ".new", "w") as ready:
    ready.write(str(server.server_port))
os.rename(READY + ".new", READY)
server.serve_forever()
