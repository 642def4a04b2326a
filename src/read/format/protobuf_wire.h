/*-------------------------------------------------------------------------
 *
 * protobuf_wire.h
 *	  Checks the bytes of a protobuf message (C++); see protobuf_wire.cpp.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PROTOBUF_WIRE_H
#define SAGG_PROTOBUF_WIRE_H

#include <cstddef>

#include <google/protobuf/descriptor.h>

extern bool sagg_protobuf_check(const google::protobuf::Descriptor *type, const char *message,
								size_t len, const char **reason);

#endif							/* SAGG_PROTOBUF_WIRE_H */
