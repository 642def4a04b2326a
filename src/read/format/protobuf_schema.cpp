/*-------------------------------------------------------------------------
 *
 * protobuf_schema.cpp
 *	  Compiles schemas of protobuf messages: .proto files, or a descriptor set
 *	  as protoc writes it.
 *
 * Files of google/protobuf/ that are imported are libprotobuf's own.  Nothing
 * is read from disk.
 *
 * A schema may come from any host: what libprotobuf's parser does not bound,
 * the depth of messages within messages, is bounded here.
 *
 * This file must never include postgres.h, call PostgreSQL or throw; every entry
 * is noexcept and the file is compiled without exceptions (I6).
 *
 *-------------------------------------------------------------------------
 */
#include <cstring>
#include <map>
#include <new>
#include <set>

#include <google/protobuf/compiler/parser.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>

#include "protobuf_schema.h"

using namespace google::protobuf;

/* messages within messages, and files that import files */
static const int max_depth = 64;

typedef std::map<std::string, FileDescriptorProto> Files;

/*
 * Keeps the first error of a file.
 */
class FirstError : public io::ErrorCollector, public DescriptorPool::ErrorCollector
{
public:
	std::string text;

	void		AddError(int line, io::ColumnNumber, const std::string &message) override
	{
		if (text.empty())
			text = "line " + std::to_string(line + 1) + ": " + message;
	}
	void		AddError(const std::string &, const std::string &element, const Message *,
						 ErrorLocation, const std::string &message) override
	{
		if (text.empty())
			text = element + ": " + message;
	}
};

/*
 * Set a problem, as far as there is room for it.
 */
void
sagg_protobuf_say(SaggProtobufProblem *problem, const std::string &text)
{
	size_t		len = text.size() < sizeof(problem->text) ? text.size() : sizeof(problem->text) - 1;

	memcpy(problem->text, text.data(), len);
	problem->text[len] = '\0';
}

/*
 * What a record says does not go to standard error.
 */
static void
be_silent()
{
	static bool silent = false;

	if (!silent)
		SetLogHandler(nullptr);
	silent = true;
}

/*
 * Returns whether the blocks of a text are nested no deeper than the parser,
 * which calls itself for each, is trusted with.
 */
static bool
is_shallow(const char *text)
{
	io::ArrayInputStream input(text, (int) strlen(text));
	FirstError	errors;
	io::Tokenizer tokenizer(&input, &errors);
	int			depth = 0;

	while (tokenizer.Next())
	{
		if (tokenizer.current().text == "{" && ++depth > max_depth)
			return false;
		if (tokenizer.current().text == "}")
			depth--;
	}
	return true;
}

static bool
parse_text(const SaggProtobufFile *file, FileDescriptorProto *proto, SaggProtobufProblem *problem)
{
	io::ArrayInputStream input(file->text, (int) strlen(file->text));
	FirstError	errors;
	io::Tokenizer tokenizer(&input, &errors);
	compiler::Parser parser;

	if (!is_shallow(file->text))
	{
		sagg_protobuf_say(problem, "its messages are nested too deeply");
		return false;
	}
	parser.RecordErrorsTo(&errors);
	if (!parser.Parse(&tokenizer, proto) || !errors.text.empty())
	{
		sagg_protobuf_say(problem, errors.text.empty() ? "it is not a .proto file" : errors.text);
		return false;
	}
	proto->set_name(file->name);
	return true;
}

/*
 * Returns the description of a file: one that was given, or libprotobuf's own.
 */
static const FileDescriptorProto *
find_file(Files *files, const std::string &name)
{
	auto		given = files->find(name);
	const FileDescriptor *own;

	if (given != files->end())
		return &given->second;
	if (name.compare(0, strlen("google/protobuf/"), "google/protobuf/") != 0)
		return nullptr;
	own = DescriptorPool::generated_pool()->FindFileByName(name);
	if (own == nullptr)
		return nullptr;
	own->CopyTo(&(*files)[name]);
	return &(*files)[name];
}

/*
 * Add a file to the pool, behind the files that it imports.  "path" are those
 * that import it.
 */
static const FileDescriptor *
build_file(SaggProtobufFiles *schema, Files *files, const std::string &name,
		   std::set<std::string> *path, SaggProtobufProblem *problem)
{
	const FileDescriptor *built = schema->pool.FindFileByName(name);
	const FileDescriptorProto *proto = find_file(files, name);
	FirstError	errors;

	if (built)
		return built;
	if (proto == nullptr)
	{
		sagg_protobuf_say(problem, "it imports \"" + name + "\", which is not there");
		return nullptr;
	}
	if (path->size() >= (size_t) max_depth || !path->insert(name).second)
	{
		sagg_protobuf_say(problem, "its files import each other, or too many files");
		return nullptr;
	}
	for (const std::string &import : proto->dependency())
	{
		if (build_file(schema, files, import, path, problem) == nullptr)
			return nullptr;
	}
	path->erase(name);
	schema->bytes += proto->SpaceUsedLong();
	built = schema->pool.BuildFileCollectingErrors(*proto, &errors);
	if (built == nullptr)
		sagg_protobuf_say(problem, errors.text);
	return built;
}

/*
 * Returns the schema of files, of which "main" has the messages; NULL with a
 * problem if they cannot be used.
 */
static SaggProtobufSchema *
make_schema(Files *files, const std::string &main, SaggProtobufProblem *problem)
{
	auto		schema = std::make_shared<SaggProtobufFiles>();
	std::set<std::string> path;

	schema->main = build_file(schema.get(), files, main, &path, problem);
	if (schema->main == nullptr)
		return nullptr;
	return new SaggProtobufSchema{schema};
}

/*
 * Compile the first of "files", which may import the others.  Returns NULL with
 * a problem if that is not possible.
 */
SaggProtobufSchema *
sagg_protobuf_compile(const SaggProtobufFile *texts, int ntexts, SaggProtobufProblem *problem) noexcept
{
	Files		files;

	be_silent();
	for (int i = 0; i < ntexts; i++)
	{
		if (!parse_text(&texts[i], &files[texts[i].name], problem))
			return nullptr;
	}
	return make_schema(&files, texts[0].name, problem);
}

/*
 * Load a descriptor set, as protoc's option --descriptor_set_out writes it; its
 * last file has the messages.  Returns NULL with a problem if that is not
 * possible.
 */
SaggProtobufSchema *
sagg_protobuf_load(const char *descriptors, size_t len, SaggProtobufProblem *problem) noexcept
{
	FileDescriptorSet set;
	Files		files;

	be_silent();
	if (!set.ParseFromArray(descriptors, (int) len) || set.file_size() == 0)
	{
		sagg_protobuf_say(problem, "it is not a descriptor set with a file");
		return nullptr;
	}
	for (const FileDescriptorProto &file : set.file())
		files[file.name()] = file;
	return make_schema(&files, set.file(set.file_size() - 1).name(), problem);
}

/*
 * Returns about how many bytes a schema takes.
 */
size_t
sagg_protobuf_schema_size(const SaggProtobufSchema *schema) noexcept
{
	return schema->files->bytes * 3;
}

void
sagg_protobuf_schema_free(SaggProtobufSchema *schema) noexcept
{
	delete schema;
}
