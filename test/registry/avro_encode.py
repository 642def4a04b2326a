#!/usr/bin/python3
"""Records in Avro's binary encoding, for tests: an encoder of its own.

Reads lines {"id": schema id, "schema": {...}, "value": ...} and writes each as
the hex of Confluent's wire format.  In unions a value is [branch, value]; bytes
and fixed are hex.
"""
import json
import struct
import sys

PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}


def number(n):
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def block(items, negative):
    """Elements in blocks: one, or two that tell their size."""
    if not items:
        return number(0)
    if not negative:
        return number(len(items)) + b"".join(items) + number(0)
    out = b""
    for part in (items[:1], items[1:]):
        if part:
            data = b"".join(part)
            out += number(-len(part)) + number(len(data)) + data
    return out + number(0)


def encode(schema, value, names):
    if isinstance(schema, list):
        branch, inner = value
        return number(branch) + encode(schema[branch], inner, names)
    if isinstance(schema, str) and schema not in PRIMITIVES:
        schema = names[schema]
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(kind, (dict, list)):
        return encode(kind, value, names)
    if isinstance(schema, dict) and "name" in schema:
        names[schema["name"]] = schema
        names[schema.get("namespace", "") + "." + schema["name"]] = schema
    if kind == "null":
        return b""
    if kind == "boolean":
        return b"\1" if value else b"\0"
    if kind in ("int", "long"):
        return number(value)
    if kind == "float":
        return struct.pack("<f", float(value))
    if kind == "double":
        return struct.pack("<d", float(value))
    if kind == "bytes":
        data = bytes.fromhex(value)
        return number(len(data)) + data
    if kind == "string":
        data = value.encode()
        return number(len(data)) + data
    if kind == "fixed":
        return bytes.fromhex(value)
    if kind == "enum":
        return number(schema["symbols"].index(value))
    if kind == "array":
        return block([encode(schema["items"], v, names) for v in value], len(value) % 2)
    if kind == "map":
        return block([encode("string", k, names) + encode(schema["values"], v, names)
                      for k, v in value.items()], len(value) % 2)
    return b"".join(encode(f["type"], value[f["name"]], names) for f in schema["fields"])


for line in sys.stdin:
    record = json.loads(line)
    payload = b"\0" + struct.pack(">I", record["id"]) + encode(record["schema"], record["value"], {})
    print(payload.hex())
