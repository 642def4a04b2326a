/*-------------------------------------------------------------------------
 *
 * protobuf_json.h
 *	  Texts of protobuf values (C++); see protobuf_json.cpp.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PROTOBUF_JSON_H
#define SAGG_PROTOBUF_JSON_H

#include <string>

#include <google/protobuf/message.h>

#include "json_leaf.h"

/* An element of a field; index -1 = the field is not repeated. */
struct SaggProtobufPlace
{
	const google::protobuf::Message *message;
	const google::protobuf::FieldDescriptor *field;
	int			index;
};

extern bool sagg_protobuf_message_text(const google::protobuf::Message &message, bool as_json,
									   std::string *out, SaggJsonKind *kind, const char **reason);
extern bool sagg_protobuf_place_text(const SaggProtobufPlace &place, bool as_number, bool as_json,
									 std::string *out, SaggJsonKind *kind, const char **reason);
extern bool sagg_protobuf_repeated_text(const google::protobuf::Message &message,
										const google::protobuf::FieldDescriptor *field,
										std::string *out, SaggJsonKind *kind, const char **reason);

#endif							/* SAGG_PROTOBUF_JSON_H */
