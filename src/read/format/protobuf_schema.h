/*-------------------------------------------------------------------------
 *
 * protobuf_schema.h
 *	  What protobuf_schema.cpp and protobuf_leaf.cpp share (C++).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PROTOBUF_SCHEMA_H
#define SAGG_PROTOBUF_SCHEMA_H

#include <memory>
#include <string>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>

#include "protobuf_leaf.h"

/* A schema, shared by its handle and the leaves made for it. */
struct SaggProtobufFiles
{
	google::protobuf::DescriptorPool pool;
	google::protobuf::DynamicMessageFactory factory{&pool};
	const google::protobuf::FileDescriptor *main = nullptr; /* whose messages are
															 * numbered */
	size_t		bytes = 0;		/* of the descriptions, as they were read */
};

struct SaggProtobufSchema
{
	std::shared_ptr<SaggProtobufFiles> files;
};

extern void sagg_protobuf_say(SaggProtobufProblem *problem, const std::string &text);

#endif							/* SAGG_PROTOBUF_SCHEMA_H */
