/*-------------------------------------------------------------------------
 *
 * source_options.c
 *	  Checks and reads values of the options of sources and their columns:
 *	  formats, paths, units.
 *
 * Called by the validator, before an option is stored, and again when it is
 * used.  Errors are fdw_invalid_attribute_value and fdw_invalid_option_name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "read/format/format.h"
#include "read/format/http_get.h"
#include "read/read_internal.h"

static const SaggFormat *const formats[] = {
	&sagg_format_json, &sagg_format_debezium, &sagg_format_avro,
	&sagg_format_protobuf, &sagg_format_csv, &sagg_format_text, &sagg_format_raw
};

/*
 * Returns the format of this name, or NULL.
 */
const SaggFormat *
sagg_format_by_name(const char *name)
{
	for (int i = 0; i < lengthof(formats); i++)
	{
		if (strcmp(formats[i]->name, name) == 0)
			return formats[i];
	}
	return NULL;
}

/*
 * Returns whether columns of a source of this format match fields by name;
 * also true for an unknown format.
 */
bool
sagg_format_has_names(const char *format)
{
	const SaggFormat *found = sagg_format_by_name(format);

	return found == NULL || found->rule == SAGG_BY_NAME;
}

/*
 * Returns whether names of fields can be found in another case.
 */
bool
sagg_format_any_case(const char *format)
{
	return strcmp(format, sagg_format_json.name) == 0 ||
		strcmp(format, sagg_format_debezium.name) == 0 ||
		strcmp(format, sagg_format_protobuf.name) == 0;
}

/*
 * Returns whether a list of brokers or a URL might have a user and a password
 * in front of a host: there is an '@', or more than one ':' behind
 * "protocol://" and outside of brackets.
 */
bool
sagg_value_has_userinfo(const char *value)
{
	int			colons = 0;
	bool		brackets = false;

	for (const char *p = value; *p; p++)
	{
		if (*p == '@')
			return true;
		if (strncmp(p, "://", 3) == 0)
			p += 2;
		else if (*p == '[' || *p == ']')
			brackets = *p == '[';
		else if (*p == ',')
			colons = 0;
		else if (*p == ':' && !brackets && ++colons > 1)
			return true;
	}
	return false;
}

static void
reject_value(const char *option, const char *value, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option, value),
			 errhint("%s", hint)));
}

/*
 * Returns the unit that a word of the option "unit" stands for; false if there
 * is none.
 */
bool
sagg_unit_by_name(const char *word, SaggUnit *unit)
{
	static const char *const words[] = {
		[SAGG_UNIT_S] = "s",[SAGG_UNIT_MS] = "ms",[SAGG_UNIT_US] = "us",
		[SAGG_UNIT_NS] = "ns"
	};

	for (int i = SAGG_UNIT_S; i <= SAGG_UNIT_NS; i++)
	{
		if (strcmp(words[i], word) == 0)
		{
			*unit = (SaggUnit) i;
			return true;
		}
	}
	return false;
}

/*
 * Returns what a word of the option "tombstones" stands for; false if it is
 * invalid.
 */
bool
sagg_tombstones_by_name(const char *word, SaggTombstones *tombstones)
{
	static const char *const words[] = {
		[SAGG_TOMBSTONES_FAIL] = "fail",[SAGG_TOMBSTONES_IGNORE] = "ignore",
		[SAGG_TOMBSTONES_NULL] = "null"
	};

	for (int i = SAGG_TOMBSTONES_FAIL; i <= SAGG_TOMBSTONES_NULL; i++)
	{
		if (strcmp(words[i], word) == 0)
		{
			*tombstones = (SaggTombstones) i;
			return true;
		}
	}
	return false;
}

/*
 * Returns what a word of the option "on_error" stands for; false if it is
 * invalid.
 */
bool
sagg_scan_errors_by_name(const char *word, SaggScanErrors *errors)
{
	static const char *const words[] = {
		[SAGG_SCAN_FAIL] = "fail",[SAGG_SCAN_SKIP] = "skip",[SAGG_SCAN_NULL] = "null"
	};

	for (int i = 0; i < lengthof(words); i++)
	{
		if (strcmp(words[i], word) == 0)
		{
			*errors = (SaggScanErrors) i;
			return true;
		}
	}
	return false;
}

#define PATH_HINT \
	"Write names with dots between, as in 'user.id', or an array, as in '{user,id}', where names may have dots in them."

/* Returns the elements of a path that is written as an array. */
static char **
array_path(const char *option, const char *path_text, int *npath)
{
	Datum		array = OidInputFunctionCall(F_ARRAY_IN, unconstify(char *, path_text), TEXTOID, -1);
	Datum	   *elements;
	bool	   *nulls;
	char	  **path;

	/* an empty path is the whole payload */
	if (ARR_NDIM(DatumGetArrayTypeP(array)) > 1)
		reject_value(option, path_text, PATH_HINT);
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, npath);
	path = palloc(sizeof(char *) * Max(*npath, 1));
	for (int i = 0; i < *npath; i++)
	{
		if (nulls[i])
			reject_value(option, path_text, PATH_HINT);
		path[i] = TextDatumGetCString(elements[i]);
	}
	return path;
}

/* Returns the elements of a path that are separated by dots. */
static char **
dotted_path(const char *option, const char *path_text, int *npath)
{
	char	  **path = palloc(sizeof(char *) * (strlen(path_text) + 1));

	*npath = 0;
	for (const char *p = path_text;; p++)
	{
		size_t		len = strcspn(p, ".");

		if (len == 0)
			reject_value(option, path_text, PATH_HINT);
		path[(*npath)++] = pnstrdup(p, len);
		p += len;
		if (*p == '\0')
			return path;
	}
}

/*
 * Returns the names of a path, palloc'd; "option" is for messages.
 */
char	  **
sagg_path_parse(const char *option, const char *path_text, int *npath)
{
	char	  **path = path_text[0] == '{' ? array_path(option, path_text, npath) :
	dotted_path(option, path_text, npath);

	/* a format may put two more names in front of the longest path */
	if (*npath > SAGG_JSON_MAX_PATH - 2)
		reject_value(option, path_text, psprintf("A path has at most %d names.",
												 SAGG_JSON_MAX_PATH - 2));
	return path;
}

static void
check_character(const char *option, const char *value)
{
	if (strlen(value) != 1 || value[0] == '\n' || value[0] == '\r')
		reject_value(option, value, "It must be a single one-byte character other than newline and carriage return.");
}

/*
 * Check the value of an option that is about formats of records or columns.
 */
void
sagg_check_source_option(const char *name, const char *value)
{
	SaggFieldKind kind;
	SaggUnit	unit;
	SaggTombstones tombstones;
	SaggScanErrors errors;
	int			npath;

	if (value[0] == '\0' && strcmp(name, "null") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be empty", name)));
	if (strcmp(name, "format") == 0 && sagg_format_by_name(value) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown format \"%s\"", value),
				 errhint("Formats of records are json, debezium, avro, protobuf, csv, text and raw.")));
	if (strcmp(name, "metadata") == 0 && !sagg_metadata_kind(value, &kind))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown metadata \"%s\"", value),
				 errhint("Metadata of a record are topic, partition, offset, key, timestamp, headers and error.")));
	if (strcmp(name, "path") == 0 || strcmp(name, "envelope") == 0)
		(void) sagg_path_parse(name, value, &npath);
	if (strcmp(name, "unit") == 0 && !sagg_unit_by_name(value, &unit))
		reject_value(name, value, "Units are s, ms, us and ns.");
	if (strcmp(name, "delimiter") == 0 || strcmp(name, "quote") == 0)
		check_character(name, value);
	if (strcmp(name, "null") == 0 && strpbrk(value, "\r\n"))
		reject_value(name, value, "It cannot have a newline or carriage return.");
	if (strcmp(name, "schema.registry") == 0 && sagg_http_url_problem(value) &&
		sagg_value_has_userinfo(value))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errhidestmt(true),
				 errmsg("invalid value for option \"%s\"", name),
				 errhint("%s", sagg_http_url_problem(value))));
	if (strcmp(name, "schema.registry") == 0 && sagg_http_url_problem(value))
		reject_value(name, value, sagg_http_url_problem(value));
	if (strcmp(name, "other_operations") == 0 &&
		strcmp(value, "refuse") != 0 && strcmp(value, "ignore") != 0)
		reject_value(name, value, "Valid values are refuse and ignore.");
	if (strcmp(name, "tombstones") == 0 && !sagg_tombstones_by_name(value, &tombstones))
		reject_value(name, value, "Valid values are fail, ignore and null.");
	if (strcmp(name, "any_case") == 0 && strcmp(value, "true") != 0)
		reject_value(name, value, "The only valid value is true.");
	if (strcmp(name, "on_error") == 0 && !sagg_scan_errors_by_name(value, &errors))
		reject_value(name, value, "Valid values are fail, skip and null.");
}

/*
 * See takes_option in source.h.
 */
bool
sagg_source_takes_option(Oid catalog, const char *name, const char *value)
{
	static const char *const of_tables[] = {
		"format", "delimiter", "quote", "null", "other_operations", "tombstones", "on_error",
		"proto", "descriptor_set", "message", NULL
	};
	static const char *const of_columns[] = {
		"field", "any_case", "path", "envelope", "unit", "metadata", NULL
	};
	const char *const *names = catalog == ForeignTableRelationId ? of_tables :
	catalog == AttributeRelationId ? of_columns : NULL;

	for (; names && *names; names++)
	{
		if (strcmp(*names, name) == 0)
		{
			sagg_check_source_option(name, value);
			return true;
		}
	}
	return false;
}

/*
 * Check the options of a source together.
 */
static void
check_table_options(List *options)
{
	static const struct
	{
		const char *option;
		const SaggFormat *format;
	}			owners[] = {
		{"delimiter", &sagg_format_csv},
		{"quote", &sagg_format_csv},
		{"null", &sagg_format_csv},
		{"other_operations", &sagg_format_debezium},
		{"proto", &sagg_format_protobuf},
		{"descriptor_set", &sagg_format_protobuf},
		{"message", &sagg_format_protobuf}
	};
	char	   *format = sagg_find_option(options, "format");
	char	   *delimiter = sagg_find_option(options, "delimiter");
	char	   *quote = sagg_find_option(options, "quote");
	char	   *null_text = sagg_find_option(options, "null");

	for (int i = 0; i < lengthof(owners); i++)
	{
		if (sagg_find_option(options, owners[i].option) &&
			(format == NULL || strcmp(format, owners[i].format->name) != 0))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" is for sources of format %s only",
							owners[i].option, owners[i].format->name)));
	}
	if (sagg_find_option(options, "tombstones") && format &&
		strcmp(format, sagg_format_debezium.name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"tombstones\" is not for sources of format debezium"),
				 errhint("Use option \"other_operations\".")));
	if (sagg_find_option(options, "proto") && sagg_find_option(options, "descriptor_set"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("a source cannot have both options \"proto\" and \"descriptor_set\"")));
	if (sagg_find_option(options, "message") && !sagg_find_option(options, "proto") &&
		!sagg_find_option(options, "descriptor_set"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"message\" of a source needs option \"proto\" or \"descriptor_set\""),
				 errdetail("Records with a schema of a registry say which message they are.")));
	delimiter = delimiter ? delimiter : ",";
	quote = quote ? quote : "\"";
	if (delimiter[0] == quote[0])
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("options \"delimiter\" and \"quote\" must be different")));
	if (null_text && (strchr(null_text, delimiter[0]) || strchr(null_text, quote[0])))
		reject_value("null", null_text, "It cannot have the delimiter or the quote in it.");
}

/*
 * Check the options of a column together: only one may say where it comes
 * from.
 */
static void
check_column_options(List *options)
{
	static const char *const places[] = {"field", "path", "envelope", "metadata"};
	const char *found = NULL;

	for (int i = 0; i < lengthof(places); i++)
	{
		if (!sagg_find_option(options, places[i]))
			continue;
		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("a column cannot have both options \"%s\" and \"%s\"",
							found, places[i])));
		found = places[i];
	}
	if (sagg_find_option(options, "any_case") && !sagg_find_option(options, "field"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"any_case\" of a column needs option \"field\"")));
	if (sagg_find_option(options, "metadata") && sagg_find_option(options, "unit"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("a column cannot have both options \"metadata\" and \"unit\"")));
}

/*
 * See options_fit in source.h.
 */
void
sagg_source_options_fit(Oid catalog, List *options)
{
	if (catalog == AttributeRelationId)
		check_column_options(options);
	else if (catalog == ForeignTableRelationId)
		check_table_options(options);
}
