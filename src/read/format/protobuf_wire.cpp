/*-------------------------------------------------------------------------
 *
 * protobuf_wire.cpp
 *	  Checks the bytes of a protobuf message before libprotobuf makes a message
 *	  of them.
 *
 * libprotobuf does not bound what a message stands for: two bytes can be a
 * message of hundreds.  So this file adds up the memory that fields take, and
 * refuses a record before it is allocated.  It also checks all strings, whether
 * they are wanted or not and whatever the syntax of the schema is, so that the
 * validity of a record does not depend on the query.
 *
 * Takes no memory and calls itself no deeper than max_depth.
 *
 * This file must never include postgres.h, call PostgreSQL or throw (I6).
 *
 *-------------------------------------------------------------------------
 */
#include <cstdint>
#include <cstring>

#include <simdjson.h>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/wire_format_lite.h>

#include "protobuf_wire.h"

using namespace google::protobuf;
using google::protobuf::internal::WireFormatLite;

/* messages within a message: fewer than libprotobuf takes */
static const int max_depth = 90;

/* bytes of memory that a record may stand for */
static const int64_t max_memory = 256 * 1024 * 1024;

/* what a message, a field of it, and an element take, about */
static const int64_t message_memory = 64;
static const int64_t field_memory = 40;
static const int64_t element_memory = 8;
static const int64_t string_memory = 48;

struct Wire
{
	const uint8_t *p;
	const uint8_t *end;
	int64_t		memory;			/* left */
	const char *reason;
};

static bool
fail(Wire *wire, const char *reason)
{
	wire->reason = reason;
	return false;
}

static bool
take_memory(Wire *wire, int64_t bytes)
{
	wire->memory -= bytes;
	return wire->memory >= 0 || fail(wire, "it stands for too many values");
}

static bool
take_varint(Wire *wire, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; shift < 70; shift += 7)
	{
		if (wire->p >= wire->end)
			return fail(wire, "it ends too early");
		*value |= (uint64_t) (*wire->p & 0x7f) << (shift < 64 ? shift : 63);
		if ((*wire->p++ & 0x80) == 0)
			return true;
	}
	return fail(wire, "a number has too many bytes");
}

static bool
skip(Wire *wire, uint64_t len)
{
	if (len > (uint64_t) (wire->end - wire->p))
		return fail(wire, "it ends too early");
	wire->p += len;
	return true;
}

static bool
check_string(Wire *wire, const uint8_t *text, size_t len)
{
	if (memchr(text, '\0', len) != nullptr || !simdjson::validate_utf8((const char *) text, len))
		return fail(wire, "a string is not UTF-8 text, or has a NUL in it");
	return true;
}

/*
 * Check the elements of a packed field, up to "end".
 */
static bool
check_packed(Wire *wire, const FieldDescriptor *field, const uint8_t *end)
{
	WireFormatLite::WireType type = WireFormatLite::WireTypeForFieldType((WireFormatLite::FieldType) field->type());
	size_t		size = type == WireFormatLite::WIRETYPE_FIXED32 ? 4 : 8;
	uint64_t	value;

	if (type != WireFormatLite::WIRETYPE_VARINT)
	{
		size_t		len = end - wire->p;

		if (len % size != 0)
			return fail(wire, "a packed field ends within an element");
		wire->p = end;
		return take_memory(wire, len / size * element_memory);
	}
	while (wire->p < end)
	{
		if (!take_varint(wire, &value) || !take_memory(wire, element_memory))
			return false;
	}
	return wire->p == end || fail(wire, "a packed field ends within an element");
}

static bool check_message(Wire *wire, const Descriptor *type, const uint8_t *end, uint32_t group,
						  int depth);

/*
 * Check a field with a length; "field" is NULL if the schema does not have it.
 */
static bool
check_bytes(Wire *wire, const FieldDescriptor *field, int depth)
{
	const uint8_t *start;
	uint64_t	len;

	if (!take_varint(wire, &len))
		return false;
	start = wire->p;
	if (!skip(wire, len))
		return false;
	if (field == nullptr || field->type() == FieldDescriptor::TYPE_GROUP)
		return take_memory(wire, string_memory + (int64_t) len);
	if (field->type() == FieldDescriptor::TYPE_MESSAGE)
	{
		wire->p = start;
		return check_message(wire, field->message_type(), start + len, 0, depth + 1);
	}
	if (field->type() == FieldDescriptor::TYPE_STRING || field->type() == FieldDescriptor::TYPE_BYTES)
		return take_memory(wire, string_memory + (int64_t) len) &&
			(field->type() == FieldDescriptor::TYPE_BYTES || check_string(wire, start, len));
	wire->p = start;
	return field->is_repeated() ? check_packed(wire, field, start + len) : skip(wire, len);
}

/*
 * Check the value that follows a tag.
 */
static bool
check_field(Wire *wire, const FieldDescriptor *field, uint32_t tag, const uint8_t *end, int depth)
{
	bool		is_group = field && field->type() == FieldDescriptor::TYPE_GROUP;
	uint64_t	value;

	switch (tag & 7)
	{
		case WireFormatLite::WIRETYPE_VARINT:
			return take_varint(wire, &value) && take_memory(wire, 2 * element_memory);
		case WireFormatLite::WIRETYPE_FIXED64:
			return skip(wire, 8) && take_memory(wire, 2 * element_memory);
		case WireFormatLite::WIRETYPE_FIXED32:
			return skip(wire, 4) && take_memory(wire, 2 * element_memory);
		case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
			return check_bytes(wire, field, depth);
		case WireFormatLite::WIRETYPE_START_GROUP:
			return check_message(wire, is_group ? field->message_type() : nullptr, end,
								 tag >> 3, depth + 1);
		default:
			return fail(wire, "a field has no valid type");
	}
}

static const FieldDescriptor *
find_field(const Descriptor *type, int number)
{
	const FieldDescriptor *field = type ? type->FindFieldByNumber(number) : nullptr;

	if (field == nullptr && type && type->IsExtensionNumber(number))
		field = type->file()->pool()->FindExtensionByNumber(type, number);
	return field;
}

/*
 * Check a message, up to "end" or, if "group" is not 0, to the end of the group of
 * this number.  "type" is NULL if the schema does not have it.
 */
static bool
check_message(Wire *wire, const Descriptor *type, const uint8_t *end, uint32_t group, int depth)
{
	const uint8_t *outer_end = wire->end;

	if (depth > max_depth)
		return fail(wire, "its messages are nested too deeply");
	if (!take_memory(wire, message_memory + (type ? field_memory * type->field_count() : 0)))
		return false;
	wire->end = end;
	while (wire->p < end)
	{
		uint64_t	tag;

		if (!take_varint(wire, &tag))
			return false;
		if (tag >> 3 == 0 || tag >> 32 != 0)
			return fail(wire, "a field has no valid number");
		if ((tag & 7) == WireFormatLite::WIRETYPE_END_GROUP)
		{
			if (group == 0 || tag >> 3 != group)
				return fail(wire, "a group ends that has not begun");
			wire->end = outer_end;
			return true;
		}
		if (!check_field(wire, find_field(type, (int) (tag >> 3)), (uint32_t) tag, end, depth))
			return false;
	}
	wire->end = outer_end;
	return group == 0 || fail(wire, "it ends too early");
}

/*
 * Returns whether bytes are a message of a type; sets the reason if not.
 */
bool
sagg_protobuf_check(const Descriptor *type, const char *message, size_t len, const char **reason)
{
	const uint8_t *start = (const uint8_t *) message;
	Wire		wire = {start, start + len, max_memory, nullptr};

	if (check_message(&wire, type, start + len, 0, 0))
		return true;
	*reason = wire.reason;
	return false;
}
