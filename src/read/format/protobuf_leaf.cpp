/*-------------------------------------------------------------------------
 *
 * protobuf_leaf.cpp
 *	  Finds the wanted values of protobuf messages.
 *
 * The bytes are checked (protobuf_wire.cpp), libprotobuf makes a message of them,
 * and values are found in it by their path: names of fields, indexes of elements,
 * keys of maps and of Structs.  A field that has no value of its own has its
 * default value, unless its presence is tracked: then it is missing, as is a field
 * that the schema does not have.
 *
 * This file must never include postgres.h, call PostgreSQL or throw; every entry
 * is noexcept and the file is compiled without exceptions (I6).  Memory of a
 * record is that of its message and of its values' texts; both stay until the next
 * record.
 *
 *-------------------------------------------------------------------------
 */
#include <cstdlib>
#include <cstring>
#include <strings.h>
#include <vector>

#include "protobuf_json.h"
#include "protobuf_schema.h"
#include "protobuf_wire.h"

using namespace google::protobuf;

/* texts of more bytes are freed with the next record, as is a record's message */
static const size_t kept_bytes = 64 * 1024;

struct WantedValue
{
	std::vector<std::string> names;
	bool		any_case;
	bool		as_number;
	const FieldDescriptor *first;	/* field of the first name, or NULL */
	std::string text;
};

struct SaggProtobufLeaf
{
	std::shared_ptr<SaggProtobufFiles> files;
	const Descriptor *type;
	std::unique_ptr<Message> message;
	std::vector<WantedValue> wanted;
	size_t		last_len = 0;	/* of the record before */
};

/*
 * Returns the field of a name: as in the schema, as in JSON, or the only one whose
 * name differs in case; or NULL.
 */
static const FieldDescriptor *
find_field(const Descriptor *type, const std::string &name, bool any_case)
{
	const FieldDescriptor *found = type->FindFieldByName(name);

	for (int i = 0; found == nullptr && i < type->field_count(); i++)
	{
		if (type->field(i)->json_name() == name)
			found = type->field(i);
	}
	if (found || !any_case)
		return found;
	for (int i = 0; i < type->field_count(); i++)
	{
		const FieldDescriptor *field = type->field(i);

		if (strcasecmp(field->name().c_str(), name.c_str()) != 0 &&
			strcasecmp(field->json_name().c_str(), name.c_str()) != 0)
			continue;
		if (found)
			return nullptr;
		found = field;
	}
	return found;
}

/*
 * Returns a name as the index of an element, or -1.
 */
static int
name_subscript(const std::string &name)
{
	if (name.empty() || name.size() > 9 || name.find_first_not_of("0123456789") != std::string::npos ||
		(name[0] == '0' && name.size() > 1))
		return -1;
	return atoi(name.c_str());
}

/*
 * Find the value of a key in a map; returns false if there is none.
 */
static bool
find_in_map(const Message &message, const FieldDescriptor *map, const std::string &name,
			SaggProtobufPlace *place)
{
	const Reflection *reflection = message.GetReflection();
	int			n = reflection->FieldSize(message, map);

	for (int i = 0; i < n; i++)
	{
		const Message &entry = reflection->GetRepeatedMessage(message, map, i);
		std::string key;
		SaggJsonKind kind;
		const char *reason;

		(void) sagg_protobuf_place_text({&entry, entry.GetDescriptor()->map_key(), -1},
										false, false, &key, &kind, &reason);
		if (key != name)
			continue;
		*place = {&entry, entry.GetDescriptor()->map_value(), -1};
		return true;
	}
	return false;
}

/*
 * A path goes on within a message: find its next field.  In a Value and a ListValue
 * these are what it stands for.  Returns NULL if there is none.
 */
static const FieldDescriptor *
next_field(const Message &message, const WantedValue &wanted, size_t *depth)
{
	const Descriptor *type = message.GetDescriptor();

	switch (type->well_known_type())
	{
		case Descriptor::WELLKNOWNTYPE_VALUE:
			return message.GetReflection()->GetOneofFieldDescriptor(message, type->oneof_decl(0));
		case Descriptor::WELLKNOWNTYPE_STRUCT:
		case Descriptor::WELLKNOWNTYPE_LISTVALUE:
			return type->field(0);
		default:
			(*depth)++;
			return find_field(type, wanted.names[*depth - 1],
							  wanted.any_case && *depth == wanted.names.size());
	}
}

/*
 * Go from a repeated field or a map to the element that a path names; returns
 * false if there is none.
 */
static bool
find_element(SaggProtobufPlace *place, const std::string &name)
{
	int			index;

	if (place->field->is_map())
		return find_in_map(*place->message, place->field, name, place);
	index = name_subscript(name);
	if (index < 0 || index >= place->message->GetReflection()->FieldSize(*place->message, place->field))
		return false;
	place->index = index;
	return true;
}

/*
 * Returns whether a field that is not repeated has a value: the fields of a map's
 * entry always have.
 */
static bool
is_present(const SaggProtobufPlace &place)
{
	return !place.field->has_presence() || place.message->GetDescriptor()->map_key() != nullptr ||
		place.message->GetReflection()->HasField(*place.message, place.field);
}

/*
 * Returns the message at a place, or NULL if it is no message, or missing.
 */
static const Message *
message_at(const SaggProtobufPlace &place)
{
	const Reflection *reflection = place.message->GetReflection();

	if (place.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE)
		return nullptr;
	if (place.index >= 0)
		return &reflection->GetRepeatedMessage(*place.message, place.field, place.index);
	return is_present(place) ? &reflection->GetMessage(*place.message, place.field) : nullptr;
}

/*
 * Find the place of a value; returns false if it is missing.
 */
static bool
find_place(const Message &message, const WantedValue &wanted, SaggProtobufPlace *place)
{
	size_t		depth = 1;

	*place = {&message, wanted.first, -1};
	for (;;)
	{
		const Message *inner;

		if (place->field == nullptr)
			return false;
		if (place->field->is_repeated() && place->index < 0)
		{
			if (depth == wanted.names.size())
				return true;
			if (!find_element(place, wanted.names[depth++]))
				return false;
		}
		if (depth == wanted.names.size())
			return place->index >= 0 || is_present(*place);
		inner = message_at(*place);
		if (inner == nullptr)
			return false;
		*place = {inner, next_field(*inner, wanted, &depth), -1};
	}
}

/*
 * Set a value of the record; returns false, with a reason, if it has none that is
 * valid.
 */
static bool
take_value(SaggProtobufLeaf *leaf, WantedValue *wanted, SaggFieldValue *value, const char **reason)
{
	SaggProtobufPlace place;

	if (wanted->text.capacity() > kept_bytes)
		std::string().swap(wanted->text);
	wanted->text.clear();
	value->kind = SAGG_FIELD_MISSING;
	value->text = nullptr;
	value->len = 0;
	if (wanted->names.empty())
	{
		if (!sagg_protobuf_message_text(*leaf->message, false, &wanted->text, &value->kind, reason))
			return false;
	}
	else if (!find_place(*leaf->message, *wanted, &place))
		return true;
	else if (!(place.field->is_repeated() && place.index < 0 ?
			   sagg_protobuf_repeated_text(*place.message, place.field, &wanted->text,
										   &value->kind, reason) :
			   sagg_protobuf_place_text(place, wanted->as_number, false, &wanted->text,
										&value->kind, reason)))
		return false;
	value->text = &wanted->text[0];
	value->len = wanted->text.size();
	return true;
}

static SaggProtobufLeaf *
make_leaf(const SaggProtobufSchema *schema, const Descriptor *type,
		  const SaggProtobufPath *paths, int npaths)
{
	SaggProtobufLeaf *leaf = new SaggProtobufLeaf();

	leaf->files = schema->files;
	leaf->type = type;
	for (int i = 0; i < npaths; i++)
	{
		WantedValue wanted;

		for (int j = 0; j < paths[i].nnames; j++)
			wanted.names.emplace_back(paths[i].names[j].text, paths[i].names[j].len);
		wanted.any_case = paths[i].any_case;
		wanted.as_number = paths[i].as_number;
		wanted.first = wanted.names.empty() ? nullptr :
			find_field(type, wanted.names[0], wanted.any_case && wanted.names.size() == 1);
		leaf->wanted.push_back(wanted);
	}
	return leaf;
}

/*
 * Make a leaf that reads the message of a name, with or without its package, or
 * without a name the only one that the schema's file has.  Returns NULL with a
 * problem if there is none.
 */
SaggProtobufLeaf *
sagg_protobuf_leaf_by_name(const SaggProtobufSchema *schema, const char *message,
						   const SaggProtobufPath *paths, int npaths,
						   SaggProtobufProblem *problem) noexcept
{
	const FileDescriptor *file = schema->files->main;
	const Descriptor *type = nullptr;

	if (message == nullptr && file->message_type_count() == 1)
		type = file->message_type(0);
	else if (message)
	{
		type = schema->files->pool.FindMessageTypeByName(message);
		if (type == nullptr)
			type = schema->files->pool.FindMessageTypeByName(file->package() + "." + message);
	}
	if (type)
		return make_leaf(schema, type, paths, npaths);
	sagg_protobuf_say(problem, message ? std::string("it has no message \"") + message + "\"" :
					  "it has " + std::to_string(file->message_type_count()) + " messages");
	return nullptr;
}

/*
 * Make a leaf that reads a message by its number in the schema's file, and the
 * numbers of messages within it.  Returns NULL with a problem if there is none.
 */
SaggProtobufLeaf *
sagg_protobuf_leaf_by_index(const SaggProtobufSchema *schema, const int *indexes, int nindexes,
							const SaggProtobufPath *paths, int npaths,
							SaggProtobufProblem *problem) noexcept
{
	const FileDescriptor *file = schema->files->main;
	const Descriptor *type = nullptr;

	for (int i = 0; i < nindexes; i++)
	{
		int			n = type ? type->nested_type_count() : file->message_type_count();

		if (indexes[i] < 0 || indexes[i] >= n)
		{
			sagg_protobuf_say(problem, "it has no message of the number that the record names");
			return nullptr;
		}
		type = type ? type->nested_type(indexes[i]) : file->message_type(indexes[i]);
	}
	return make_leaf(schema, type, paths, npaths);
}

/*
 * Returns the number of a path that begins with a field that the message does not
 * have, or -1.
 */
int
sagg_protobuf_leaf_unknown(const SaggProtobufLeaf *leaf) noexcept
{
	for (size_t i = 0; i < leaf->wanted.size(); i++)
	{
		if (!leaf->wanted[i].names.empty() && leaf->wanted[i].first == nullptr)
			return (int) i;
	}
	return -1;
}

/*
 * Returns the name of the message that a leaf reads.
 */
const char *
sagg_protobuf_leaf_message(const SaggProtobufLeaf *leaf) noexcept
{
	return leaf->type->full_name().c_str();
}

/*
 * Read a message: values[i] becomes what is at path i, and stays until the next
 * message.  Returns 0, with a reason that is a constant, if it is invalid.
 */
int
sagg_protobuf_leaf_parse(SaggProtobufLeaf *leaf, const char *message, size_t len,
						 SaggFieldValue *values, const char **reason) noexcept
{
	if (!sagg_protobuf_check(leaf->type, message, len, reason))
		return 0;
	if (leaf->message == nullptr || leaf->last_len > kept_bytes)
		leaf->message.reset(leaf->files->factory.GetPrototype(leaf->type)->New());
	leaf->last_len = len;
	if (!leaf->message->ParsePartialFromArray(message, (int) len))
	{
		*reason = "it is not a message of its type";
		return 0;
	}
	for (size_t i = 0; i < leaf->wanted.size(); i++)
	{
		if (!take_value(leaf, &leaf->wanted[i], &values[i], reason))
			return 0;
	}
	return 1;
}

void
sagg_protobuf_leaf_free(SaggProtobufLeaf *leaf) noexcept
{
	delete leaf;
}
