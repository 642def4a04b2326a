#!/usr/bin/python3
"""A small schema registry with Confluent's REST API, for tests.

    schema_registry.py READY_FILE [USER:PASSWORD [PEM_FILE]]

With a certificate and its key it speaks TLS.

Writes its port to READY_FILE and ends with its parent.

    POST /subjects/NAME/versions   {"schema": "...", "schemaType": "AVRO"} -> {"id": 1}
    GET  /schemas/ids/1            {"schema": "..."}
    GET  /requests                 how many schemas were asked for

Ids from 9000 on are for what a registry may do wrong, see FAULTS; 9012 is never
answered.  A file
READY_FILE.down makes it answer everything with 503.
"""
import base64
import http.server
import json
import os
import ssl
import sys
import threading
import time

schemas = []
requests = 0
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
    9011: (200, b'{"schema": "' + b"[" * 5000 + b'"}'),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

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
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["schema"] not in schemas:
            schemas.append(body["schema"])
        self.answer(200, {"id": schemas.index(body["schema"]) + 1})

    def do_GET(self):
        global requests
        if self.path == "/requests":
            self.answer(200, requests)
            return
        requests += 1
        expected = "Basic " + base64.b64encode(CREDENTIALS.encode()).decode() if CREDENTIALS else None
        if os.path.exists(READY + ".down"):
            self.answer(503, {"error_code": 50301, "message": "down"})
        elif expected and self.headers.get("Authorization") != expected:
            self.answer(401, {"error_code": 40101, "message": "who are you"})
        elif not self.path.startswith("/schemas/ids/"):
            self.answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})
        else:
            self.give(int(self.path.rsplit("/", 1)[1]))

    def give(self, number):
        if number == 9012:
            time.sleep(6000)
        elif number in FAULTS:
            self.answer(*FAULTS[number])
        elif 1 <= number <= len(schemas):
            self.answer(200, {"schema": schemas[number - 1]})
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
