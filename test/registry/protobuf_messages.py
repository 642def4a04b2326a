#!/usr/bin/python3
"""Protobuf messages for tests, made and printed by protobuf's own library for Python.

    protobuf_messages.py random SEED MESSAGES    a random schema and random messages of it
    protobuf_messages.py encode MESSAGE <lines   messages of a schema: its text in JSON in
                                                 the first line, then one message a line,
                                                 as JSON

Needs protoc.  Prints the schema's descriptor set in base64, and for each message a
line: its bytes in hex, a tab, and the JSON that the library prints for it.
"""
import base64
import json
import os
import random
import subprocess
import sys
import tempfile

from google.protobuf import (any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, json_format,
                             message_factory, struct_pb2, timestamp_pb2, wrappers_pb2)

SCALARS = ["double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
           "sfixed32", "sfixed64", "bool", "string", "bytes"]
KEYS = ["int32", "int64", "uint32", "uint64", "sint32", "fixed64", "bool", "string"]
KNOWN = ["Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue", "DoubleValue", "FloatValue",
         "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue", "Any"]


class Schema:
    """A random schema: nested messages, enums, oneofs, maps, and types of google.protobuf."""

    def __init__(self, rng):
        self.rng = rng
        self.names = ["M%d" % i for i in range(rng.randrange(1, 6))]
        lines = ['syntax = "proto3";', "package test.random;"]
        lines += ['import "google/protobuf/%s.proto";' % name
                  for name in ("timestamp", "duration", "field_mask", "struct", "wrappers", "any")]
        lines += ["enum Color { NONE = 0; RED = 1; GREEN = 5; NEGATIVE = -7; }"]
        for name in self.names:
            lines += ["message %s {" % name] + self.fields() + ["}"]
        self.text = "\n".join(lines)

    def type(self):
        kind = self.rng.randrange(10)
        if kind < 5:
            return self.rng.choice(SCALARS)
        if kind == 5:
            return "Color"
        return "google.protobuf." + self.rng.choice(KNOWN) if kind < 8 else self.rng.choice(self.names)

    def fields(self):
        lines, number = ["  message Inner { int32 x = 1; repeated Inner more = 2; }"], 0
        for i in range(self.rng.randrange(1, 12)):
            number += self.rng.choice((1, 1, 1, 7, 1000))
            name = "f%d%s" % (i, self.rng.choice(("", "_long_name", "Camel", "_3x")))
            kind = self.rng.randrange(8)
            if kind == 0:
                lines.append("  map<%s, %s> %s = %d;" % (self.rng.choice(KEYS), self.type(), name, number))
            elif kind == 1:
                lines.append("  oneof o%d { %s %s = %d; %s %s_b = %d; }" %
                             (i, self.type(), name, number, self.type(), name, number + 1))
                number += 1
            else:
                label = self.rng.choice(("", "", "optional ", "repeated ", "repeated "))
                lines.append("  %s%s %s = %d;" % (label, self.rng.choice((self.type(), self.type(), "Inner")), name, number))
        return lines


def compile(text):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "schema.proto"), "w") as file:
            file.write(text)
        out = os.path.join(folder, "set")
        subprocess.run(["protoc", "--include_imports", "--descriptor_set_out=" + out, "-I" + folder, "schema.proto"], check=True, cwd=folder)
        with open(out, "rb") as file:
            return file.read()


def classes(descriptors):
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        pool.Add(file)
    return pool, message_factory.MessageFactory(pool)


class Filler:
    """Fills messages with random values, at the edges of their types more often than not."""

    def __init__(self, rng, pool, factory, names):
        self.rng, self.pool, self.factory, self.names = rng, pool, factory, names

    def text(self):
        return "".join(self.rng.choice('abc _"\\/\n\t\u00e4\u20ac\U0001f600\x01\x7f\u2028<>&') for _ in range(self.rng.randrange(6)))

    def number(self, field):
        rng, bits = self.rng, 32 if "32" in field.name_of_type else 64
        if "DOUBLE" in field.name_of_type:
            return rng.choice((0.0, -0.0, 0.1, 1e300, -5e-324, float("inf"), float("nan"), rng.uniform(-1e6, 1e6), 123456789012345678.0))
        if "FLOAT" in field.name_of_type:
            return rng.choice((0.0, 0.5, 1e20, -1e-30, float("-inf"), rng.randrange(-1000, 1000) / 8))
        low, high = (0, 2 ** bits - 1) if "UINT" in field.name_of_type or field.name_of_type.startswith("TYPE_FIXED") else (-2 ** (bits - 1), 2 ** (bits - 1) - 1)
        return rng.choice((low, high, 0, 1, rng.randint(low, high), max(low, -1)))

    def scalar(self, field):
        field = Type(field)
        if field.type == field.TYPE_BOOL:
            return self.rng.random() < 0.5
        if field.type == field.TYPE_STRING:
            return self.text()
        if field.type == field.TYPE_BYTES:
            return bytes(self.rng.randrange(256) for _ in range(self.rng.randrange(5)))
        if field.type == field.TYPE_ENUM:
            return self.rng.choice((0, 1, 5, -7, 42) if field.enum_type.name == "Color" else (0,))
        return self.number(field)

    def fill(self, message, depth=0):
        special = getattr(self, "fill_" + message.DESCRIPTOR.name, None) if message.DESCRIPTOR.file.package == "google.protobuf" else None
        if special:
            special(message, depth)
            return message
        for field in message.DESCRIPTOR.fields:
            if self.rng.random() < (0.3 if depth < 3 else 0.7) or (field.message_type and depth > 4):
                continue
            if field.message_type and field.message_type.GetOptions().map_entry:
                self.fill_map(getattr(message, field.name), field.message_type, depth)
            elif field.label == field.LABEL_REPEATED:
                for _ in range(self.rng.choice((0, 1, 3))):
                    if field.message_type:
                        self.fill(getattr(message, field.name).add(), depth + 1)
                    else:
                        getattr(message, field.name).append(self.scalar(field))
            elif field.message_type:
                getattr(message, field.name).SetInParent()
                self.fill(getattr(message, field.name), depth + 1)
            else:
                setattr(message, field.name, self.scalar(field))
        return message

    def fill_map(self, target, entry, depth):
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self.rng.choice((0, 1, 3))):
            if value.message_type:
                self.fill(target[self.scalar(key)], depth + 1)
            else:
                target[self.scalar(key)] = self.scalar(value)

    def fill_Timestamp(self, message, depth):
        message.seconds = self.rng.choice((0, -62135596800, 253402300799, self.rng.randrange(-10 ** 9, 2 * 10 ** 9)))
        message.nanos = self.rng.choice((0, 1, 999999999, 5000, 120000000))

    def fill_Duration(self, message, depth):
        sign = self.rng.choice((-1, 1))
        message.seconds = sign * self.rng.choice((0, 1, 315576000000, self.rng.randrange(10 ** 6)))
        message.nanos = sign * (self.rng.choice((0, 1, 999999999, 5000000)) if abs(message.seconds) < 315576000000 else 0)

    def fill_FieldMask(self, message, depth):
        message.paths.extend(self.rng.choice(("a", "foo_bar", "a.b_c.d")) for _ in range(self.rng.randrange(3)))

    def fill_Value(self, message, depth):
        kind = self.rng.randrange(7 if depth < 5 else 4)
        if kind == 0:
            message.null_value = 0
        elif kind == 1:
            message.number_value = self.rng.choice((0, -1.5, 1e100, 3))
        elif kind == 2:
            message.string_value = self.text()
        elif kind == 3:
            message.bool_value = True
        elif kind == 4:
            self.fill_Struct(message.struct_value, depth + 1)
        elif kind == 5:
            self.fill_ListValue(message.list_value, depth + 1)
        else:
            message.number_value = 7

    def fill_Struct(self, message, depth):
        message.SetInParent()
        for _ in range(self.rng.randrange(3)):
            self.fill_Value(message.fields[self.text()], depth + 1)

    def fill_ListValue(self, message, depth):
        message.SetInParent()
        for _ in range(self.rng.randrange(3)):
            self.fill_Value(message.values.add(), depth + 1)

    def fill_Any(self, message, depth):
        if depth < 4 and self.rng.random() < 0.8:
            name = self.rng.choice(["test.random." + n for n in self.names] + ["google.protobuf.Timestamp"])
            inner = self.factory.GetPrototype(self.pool.FindMessageTypeByName(name))()
            message.Pack(self.fill(inner, depth + 1))


class Type:
    """A field with the name of its type."""

    def __init__(self, field):
        self.field = field
        self.name_of_type = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)

    def __getattr__(self, name):
        return getattr(self.field, name)


def show(message, pool):
    text = json_format.MessageToJson(message, including_default_value_fields=True, preserving_proto_field_name=True,
                                     indent=None, descriptor_pool=pool)
    print("%s\t%s" % (message.SerializeToString().hex(), text))


def print_random(seed, n):
    rng = random.Random(seed)
    schema = Schema(rng)
    descriptors = compile(schema.text)
    pool, factory = classes(descriptors)
    filler = Filler(rng, pool, factory, schema.names)
    message_class = factory.GetPrototype(pool.FindMessageTypeByName("test.random.M0"))
    print(base64.b64encode(schema.text.encode()).decode())
    print(base64.b64encode(descriptors).decode())
    for _ in range(n):
        show(filler.fill(message_class()), pool)


def print_encoded(name):
    text = json.loads(sys.stdin.readline())
    descriptors = compile(text)
    pool, factory = classes(descriptors)
    message_class = factory.GetPrototype(pool.FindMessageTypeByName(name))
    print(base64.b64encode(descriptors).decode())
    for line in sys.stdin:
        show(json_format.Parse(line, message_class(), descriptor_pool=pool), pool)


if sys.argv[1] == "random":
    print_random(int(sys.argv[2]), int(sys.argv[3]))
else:
    print_encoded(sys.argv[2])
