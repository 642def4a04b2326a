/*-------------------------------------------------------------------------
 *
 * protobuf_json.cpp
 *	  Texts of protobuf values: of a single one, and as JSON.
 *
 * The JSON is that of protobuf's own mapping, with the names of fields as they
 * are in the schema and with fields that have their default value: 64-bit
 * integers and what is no number in JSON are strings, bytes are base64, an enum is
 * its name, Timestamp, Duration, FieldMask, Struct and the wrappers have forms of
 * their own.  An Any whose type is not in the schema has its bytes.
 *
 * A text grows no larger than max_text.
 *
 * This file must never include postgres.h, call PostgreSQL or throw (I6).
 *
 *-------------------------------------------------------------------------
 */
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>

#include "protobuf_json.h"
#include "protobuf_wire.h"

using namespace google::protobuf;

static const size_t max_text = 256 * 1024 * 1024;

/* messages of type Any within each other */
static const int max_any = 16;

/* seconds of the years 1 to 9999, and of 10,000 years */
static const int64_t min_timestamp = -62135596800;
static const int64_t max_timestamp = 253402300799;
static const int64_t max_duration = 315576000000;

static bool
fail(const char **reason, const char *why)
{
	*reason = why;
	return false;
}

static bool
check_size(const std::string &out, const char **reason)
{
	return out.size() <= max_text || fail(reason, "it stands for too long a text");
}

/*
 * Append a string of JSON.
 */
static void
append_string(const std::string &text, std::string *out)
{
	char		escape[8];

	out->push_back('"');
	for (char c : text)
	{
		if (c == '"' || c == '\\')
		{
			out->push_back('\\');
			out->push_back(c);
		}
		else if ((unsigned char) c < 0x20)
		{
			snprintf(escape, sizeof(escape), "\\u%04x", c);
			out->append(escape);
		}
		else
			out->push_back(c);
	}
	out->push_back('"');
}

static void
append_base64(const std::string &bytes, std::string *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t		n = bytes.size();

	out->reserve(out->size() + (n + 2) / 3 * 4);
	for (size_t i = 0; i < n; i += 3)
	{
		uint32_t	bits = 0;

		for (size_t j = 0; j < 3; j++)
			bits = bits << 8 | (i + j < n ? (unsigned char) bytes[i + j] : 0);
		for (size_t j = 0; j < 4; j++)
			out->push_back(i + j <= n ? digits[bits >> (18 - 6 * j) & 63] : '=');
	}
}

/*
 * Append a string, as JSON or as it is.
 */
static void
append_text(const std::string &text, bool as_json, std::string *out)
{
	if (as_json)
		append_string(text, out);
	else
		out->append(text);
}

template <typename Number>
static void
append_float(Number number, bool as_json, std::string *out, SaggJsonKind *kind)
{
	char		text[64];

	if (std::isfinite(number))
	{
		*kind = SAGG_FIELD_NUMBER;
		out->append(text, std::to_chars(text, text + sizeof(text), number).ptr - text);
		return;
	}
	*kind = SAGG_FIELD_STRING;
	append_text(std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity", as_json, out);
}

/*
 * Append a 64-bit integer, which is a string of JSON.
 */
template <typename Number>
static void
append_long(Number number, bool as_json, std::string *out, SaggJsonKind *kind)
{
	*kind = as_json ? SAGG_FIELD_STRING : SAGG_FIELD_NUMBER;
	append_text(std::to_string(number), as_json, out);
}

static void
append_enum(const EnumDescriptor *type, int number, bool as_number, bool as_json,
			std::string *out, SaggJsonKind *kind)
{
	const EnumValueDescriptor *value = as_number ? nullptr : type->FindValueByNumber(number);

	*kind = SAGG_FIELD_NUMBER;
	if (type->full_name() == "google.protobuf.NullValue" && !as_number)
	{
		*kind = SAGG_FIELD_NULL;
		out->append("null");
	}
	else if (value == nullptr)
		out->append(std::to_string(number));
	else
	{
		*kind = SAGG_FIELD_STRING;
		append_text(value->name(), as_json, out);
	}
}

/*
 * Append a value that is no message: a field's, or that of an element.
 */
static void
append_scalar(const SaggProtobufPlace &place, bool as_number, bool as_json,
			  std::string *out, SaggJsonKind *kind)
{
	const Message &m = *place.message;
	const FieldDescriptor *f = place.field;
	const Reflection *r = m.GetReflection();
	int			i = place.index;
	bool		flag;
	std::string scratch;

	switch (f->cpp_type())
	{
		case FieldDescriptor::CPPTYPE_BOOL:
			flag = i < 0 ? r->GetBool(m, f) : r->GetRepeatedBool(m, f, i);
			*kind = flag ? SAGG_FIELD_TRUE : SAGG_FIELD_FALSE;
			out->append(flag ? "true" : "false");
			return;
		case FieldDescriptor::CPPTYPE_INT32:
			*kind = SAGG_FIELD_NUMBER;
			out->append(std::to_string(i < 0 ? r->GetInt32(m, f) : r->GetRepeatedInt32(m, f, i)));
			return;
		case FieldDescriptor::CPPTYPE_UINT32:
			*kind = SAGG_FIELD_NUMBER;
			out->append(std::to_string(i < 0 ? r->GetUInt32(m, f) : r->GetRepeatedUInt32(m, f, i)));
			return;
		case FieldDescriptor::CPPTYPE_INT64:
			append_long(i < 0 ? r->GetInt64(m, f) : r->GetRepeatedInt64(m, f, i), as_json, out, kind);
			return;
		case FieldDescriptor::CPPTYPE_UINT64:
			append_long(i < 0 ? r->GetUInt64(m, f) : r->GetRepeatedUInt64(m, f, i), as_json, out, kind);
			return;
		case FieldDescriptor::CPPTYPE_FLOAT:
			append_float(i < 0 ? r->GetFloat(m, f) : r->GetRepeatedFloat(m, f, i), as_json, out, kind);
			return;
		case FieldDescriptor::CPPTYPE_DOUBLE:
			append_float(i < 0 ? r->GetDouble(m, f) : r->GetRepeatedDouble(m, f, i), as_json, out, kind);
			return;
		case FieldDescriptor::CPPTYPE_ENUM:
			append_enum(f->enum_type(), i < 0 ? r->GetEnumValue(m, f) : r->GetRepeatedEnumValue(m, f, i),
						as_number, as_json, out, kind);
			return;
		case FieldDescriptor::CPPTYPE_STRING:
		case FieldDescriptor::CPPTYPE_MESSAGE:
			break;
	}

	const std::string &text = i < 0 ? r->GetStringReference(m, f, &scratch) :
	r->GetRepeatedStringReference(m, f, i, &scratch);

	*kind = f->type() == FieldDescriptor::TYPE_BYTES && !as_json ? SAGG_BYTES : SAGG_FIELD_STRING;
	if (f->type() == FieldDescriptor::TYPE_BYTES && as_json)
	{
		out->push_back('"');
		append_base64(text, out);
		out->push_back('"');
	}
	else
		append_text(text, as_json, out);
}

/*
 * Append the name of a member of an object: the key of a map.
 */
static void
append_key(const Message &entry, std::string *out)
{
	SaggProtobufPlace key = {&entry, entry.GetDescriptor()->map_key(), -1};
	std::string text;
	SaggJsonKind kind;

	append_scalar(key, false, false, &text, &kind);
	append_string(text, out);
	out->push_back(':');
}

/*
 * Append a map as an object, anything else that is repeated as an array.
 */
bool
sagg_protobuf_repeated_text(const Message &message, const FieldDescriptor *field,
							std::string *out, SaggJsonKind *kind, const char **reason)
{
	const Reflection *reflection = message.GetReflection();
	int			n = reflection->FieldSize(message, field);
	SaggJsonKind element;

	*kind = field->is_map() ? SAGG_FIELD_OBJECT : SAGG_FIELD_ARRAY;
	out->push_back(field->is_map() ? '{' : '[');
	for (int i = 0; i < n; i++)
	{
		SaggProtobufPlace place = {&message, field, i};

		if (i > 0)
			out->push_back(',');
		if (field->is_map())
		{
			const Message &entry = reflection->GetRepeatedMessage(message, field, i);

			append_key(entry, out);
			place = {&entry, entry.GetDescriptor()->map_value(), -1};
		}
		if (!sagg_protobuf_place_text(place, false, true, out, &element, reason) ||
			!check_size(*out, reason))
			return false;
	}
	out->push_back(field->is_map() ? '}' : ']');
	return true;
}

/*
 * Append a single value; "as_number" is for an enum.
 */
bool
sagg_protobuf_place_text(const SaggProtobufPlace &place, bool as_number, bool as_json,
						 std::string *out, SaggJsonKind *kind, const char **reason)
{
	const Reflection *reflection = place.message->GetReflection();

	if (place.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE)
	{
		append_scalar(place, as_number, as_json, out, kind);
		return true;
	}
	return sagg_protobuf_message_text(place.index < 0 ?
									  reflection->GetMessage(*place.message, place.field) :
									  reflection->GetRepeatedMessage(*place.message, place.field, place.index),
									  as_json, out, kind, reason);
}

/*
 * Append the members of an object, without its braces.
 */
static bool
append_members(const Message &message, std::string *out, const char **reason)
{
	const Descriptor *type = message.GetDescriptor();
	const Reflection *reflection = message.GetReflection();
	bool		first = true;
	SaggJsonKind kind;

	for (int i = 0; i < type->field_count(); i++)
	{
		const FieldDescriptor *field = type->field(i);

		if (!field->is_repeated() && field->has_presence() && !reflection->HasField(message, field))
			continue;
		if (!first)
			out->push_back(',');
		first = false;
		append_string(field->name(), out);
		out->push_back(':');
		if (!(field->is_repeated() ?
			  sagg_protobuf_repeated_text(message, field, out, &kind, reason) :
			  sagg_protobuf_place_text({&message, field, -1}, false, true, out, &kind, reason)) ||
			!check_size(*out, reason))
			return false;
	}
	return true;
}

/* field "number" of a message of google/protobuf/ */
static int64_t
get_int(const Message &message, int number)
{
	const FieldDescriptor *field = message.GetDescriptor()->FindFieldByNumber(number);

	return field->cpp_type() == FieldDescriptor::CPPTYPE_INT32 ?
		message.GetReflection()->GetInt32(message, field) :
		message.GetReflection()->GetInt64(message, field);
}

static bool
append_timestamp(const Message &message, bool as_json, std::string *out, const char **reason)
{
	Timestamp	timestamp;

	timestamp.set_seconds(get_int(message, Timestamp::kSecondsFieldNumber));
	timestamp.set_nanos((int32_t) get_int(message, Timestamp::kNanosFieldNumber));
	if (timestamp.seconds() < min_timestamp || timestamp.seconds() > max_timestamp ||
		timestamp.nanos() < 0 || timestamp.nanos() > 999999999)
		return fail(reason, "a Timestamp is out of range");
	append_text(util::TimeUtil::ToString(timestamp), as_json, out);
	return true;
}

static bool
append_duration(const Message &message, bool as_json, std::string *out, const char **reason)
{
	Duration	duration;

	duration.set_seconds(get_int(message, Duration::kSecondsFieldNumber));
	duration.set_nanos((int32_t) get_int(message, Duration::kNanosFieldNumber));
	if (duration.seconds() < -max_duration || duration.seconds() > max_duration ||
		duration.nanos() < -999999999 || duration.nanos() > 999999999 ||
		(duration.seconds() < 0 && duration.nanos() > 0) ||
		(duration.seconds() > 0 && duration.nanos() < 0))
		return fail(reason, "a Duration is out of range");
	append_text(util::TimeUtil::ToString(duration), as_json, out);
	return true;
}

/*
 * Append a FieldMask: its paths in camel case, with commas between.
 */
static void
append_mask(const Message &message, bool as_json, std::string *out)
{
	const FieldDescriptor *paths = message.GetDescriptor()->FindFieldByNumber(1);
	const Reflection *reflection = message.GetReflection();
	std::string text;

	for (int i = 0; i < reflection->FieldSize(message, paths); i++)
	{
		bool		upper = false;

		if (i > 0)
			text.push_back(',');
		for (char c : reflection->GetRepeatedString(message, paths, i))
		{
			if (c == '_')
				upper = true;
			else
			{
				text.push_back(upper && c >= 'a' && c <= 'z' ? (char) (c - 'a' + 'A') : c);
				upper = false;
			}
		}
	}
	append_text(text, as_json, out);
}

/*
 * Append the message of an Any, of a type that the schema has, behind the Any's
 * type.
 */
static bool
append_inner(const Descriptor *type, const std::string &bytes, std::string *out, const char **reason)
{
	static int	depth = 0;
	DynamicMessageFactory factory(type->file()->pool());
	std::unique_ptr<Message> message(factory.GetPrototype(type)->New());
	std::string text;
	SaggJsonKind kind;
	bool		good;

	if (depth >= max_any)
		return fail(reason, "its messages are nested too deeply");
	if (!sagg_protobuf_check(type, bytes.data(), bytes.size(), reason))
		return false;
	if (!message->ParsePartialFromString(bytes))
		return fail(reason, "an Any has no message of its type");
	depth++;
	good = type->well_known_type() != Descriptor::WELLKNOWNTYPE_UNSPECIFIED ?
		sagg_protobuf_message_text(*message, true, &text.append("\"value\":"), &kind, reason) :
		append_members(*message, &text, reason);
	depth--;
	if (good && !text.empty())
		out->append(",").append(text);
	return good;
}

/*
 * Append an Any: its type, and the message in it.
 */
static bool
append_any(const Message &message, std::string *out, const char **reason)
{
	const Descriptor *type = message.GetDescriptor();
	const Reflection *reflection = message.GetReflection();
	std::string url = reflection->GetString(message, type->FindFieldByNumber(1));
	std::string bytes = reflection->GetString(message, type->FindFieldByNumber(2));
	const Descriptor *inner = type->file()->pool()->FindMessageTypeByName(url.substr(url.rfind('/') + 1));

	out->push_back('{');
	if (!url.empty() || !bytes.empty())
	{
		out->append("\"@type\":");
		append_string(url, out);
	}
	if (inner)
	{
		if (!append_inner(inner, bytes, out, reason))
			return false;
	}
	else if (!bytes.empty())
	{
		out->append(",\"value\":\"");
		append_base64(bytes, out);
		out->push_back('"');
	}
	out->push_back('}');
	return check_size(*out, reason);
}

/*
 * Append a Value: what of its oneof is set.
 */
static bool
append_value(const Message &message, bool as_json, std::string *out, SaggJsonKind *kind,
			 const char **reason)
{
	const FieldDescriptor *set =
	message.GetReflection()->GetOneofFieldDescriptor(message, message.GetDescriptor()->oneof_decl(0));

	if (set == nullptr)
	{
		*kind = SAGG_FIELD_NULL;
		out->append("null");
		return true;
	}
	return sagg_protobuf_place_text({&message, set, -1}, false, as_json, out, kind, reason);
}

/*
 * Append a message: JSON, or with "as_json" false the text of a string.
 */
bool
sagg_protobuf_message_text(const Message &message, bool as_json, std::string *out,
						   SaggJsonKind *kind, const char **reason)
{
	const Descriptor *type = message.GetDescriptor();

	*kind = SAGG_FIELD_STRING;
	switch (type->well_known_type())
	{
		case Descriptor::WELLKNOWNTYPE_DOUBLEVALUE:
		case Descriptor::WELLKNOWNTYPE_FLOATVALUE:
		case Descriptor::WELLKNOWNTYPE_INT64VALUE:
		case Descriptor::WELLKNOWNTYPE_UINT64VALUE:
		case Descriptor::WELLKNOWNTYPE_INT32VALUE:
		case Descriptor::WELLKNOWNTYPE_UINT32VALUE:
		case Descriptor::WELLKNOWNTYPE_STRINGVALUE:
		case Descriptor::WELLKNOWNTYPE_BYTESVALUE:
		case Descriptor::WELLKNOWNTYPE_BOOLVALUE:
			append_scalar({&message, type->field(0), -1}, false, as_json, out, kind);
			return true;
		case Descriptor::WELLKNOWNTYPE_TIMESTAMP:
			return append_timestamp(message, as_json, out, reason);
		case Descriptor::WELLKNOWNTYPE_DURATION:
			return append_duration(message, as_json, out, reason);
		case Descriptor::WELLKNOWNTYPE_FIELDMASK:
			append_mask(message, as_json, out);
			return true;
		case Descriptor::WELLKNOWNTYPE_VALUE:
			return append_value(message, as_json, out, kind, reason);
		case Descriptor::WELLKNOWNTYPE_STRUCT:
		case Descriptor::WELLKNOWNTYPE_LISTVALUE:
			return sagg_protobuf_repeated_text(message, type->field(0), out, kind, reason);
		case Descriptor::WELLKNOWNTYPE_ANY:
			*kind = SAGG_FIELD_OBJECT;
			return append_any(message, out, reason);
		default:
			break;
	}
	*kind = SAGG_FIELD_OBJECT;
	out->push_back('{');
	if (!append_members(message, out, reason))
		return false;
	out->push_back('}');
	return true;
}
