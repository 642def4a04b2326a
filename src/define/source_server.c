/*-------------------------------------------------------------------------
 *
 * source_server.c
 *	  The foreign server of a source that was created by its brokers.
 *
 * A server with the very same options is used again when the user may use it
 * and it belongs to the user or a superuser; else one is made, which needs USAGE
 * on the wrapper.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "streams/streams.h"
#include "define_internal.h"

static bool
has_option(List *options, const DefElem *wanted)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, wanted->defname) == 0)
			return strcmp(defGetString(def), defGetString(unconstify(DefElem *, wanted))) == 0;
	}
	return false;
}

static bool
same_options(List *a, List *b)
{
	ListCell   *lc;

	if (list_length(a) != list_length(b))
		return false;
	foreach(lc, a)
	{
		if (!has_option(b, lfirst_node(DefElem, lc)))
			return false;
	}
	return true;
}

/*
 * Returns whether the current user trusts a role with a server: its owner can
 * point it elsewhere at any time, at records of his own and with the passwords
 * of others.  Membership in the owner does not help: others can have granted
 * that to the user.
 */
static bool
is_trusted(Oid owner)
{
	return owner == GetUserId() || superuser_arg(owner);
}

/*
 * Returns a server of ours with these options that the current user may use,
 * and that no stranger can alter; NULL if there is none.
 */
static char *
find_server(Oid fdw, List *options)
{
	Relation	catalog = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	char	   *found = NULL;

	while (found == NULL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server form = (Form_pg_foreign_server) GETSTRUCT(tuple);

		if (form->srvfdw == fdw &&
			is_trusted(form->srvowner) &&
			same_options(GetForeignServer(form->oid)->options, options) &&
			SAGG_SERVER_ACLCHECK(form->oid, GetUserId(), ACL_USAGE) == ACLCHECK_OK)
			found = pstrdup(NameStr(form->srvname));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/*
 * Returns a name for a server, from its brokers: kafka_host_9092, with a
 * number where that is taken.
 */
static char *
new_server_name(const char *brokers)
{
	char	   *base = psprintf("kafka_%s", brokers);
	char	   *name;
	int			n = 0;

	for (char *c = base; *c; c++)
	{
		if (!isalnum((unsigned char) *c))
			*c = '_';
		*c = pg_tolower((unsigned char) *c);
	}
	name = makeObjectName(base, NULL, NULL);
	while (OidIsValid(get_foreign_server_oid(name, true)))
		name = makeObjectName(base, NULL, psprintf("%d", ++n));
	return name;
}

/*
 * Raise insufficient_privilege if the user may not make a server.
 */
static void
check_usage(Oid fdw)
{
	if (SAGG_FDW_ACLCHECK(fdw, GetUserId(), ACL_USAGE) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for foreign-data wrapper %s", sagg_source_kind_of_brokers()->wrapper),
			 errdetail("The role needs the privilege USAGE on it to connect the server to brokers of its choice."),
			 errhint("Have a superuser run GRANT USAGE ON FOREIGN DATA WRAPPER %s TO %s, or name a foreign server that you may use by server =>.",
					 sagg_source_kind_of_brokers()->wrapper, quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

/*
 * Returns the name of a server with these brokers and further options
 * (DefElems), found or made.  Raises insufficient_privilege and what the
 * validator raises.
 */
char *
sagg_server_of_brokers(const char *brokers, List *options)
{
	Oid			fdw = get_foreign_data_wrapper_oid(sagg_source_kind_of_brokers()->wrapper, false);
	CreateForeignServerStmt *stmt;
	char	   *name;

	options = lcons(makeDefElem("brokers", (Node *) makeString(pstrdup(brokers)), -1),
					options);
	name = find_server(fdw, options);
	if (name)
		return name;
	check_usage(fdw);

	stmt = makeNode(CreateForeignServerStmt);
	stmt->servername = name = new_server_name(brokers);
	stmt->fdwname = pstrdup(sagg_source_kind_of_brokers()->wrapper);
	stmt->options = options;
	sagg_run_utility((Node *) stmt, "CREATE SERVER", -1, 0);
	return name;
}

/*
 * Raise wrong_object_type for a server whose sources are not those of create_source.
 * One that is not there is for others to complain about.
 */
void
sagg_check_server_of_brokers(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	ForeignDataWrapper *wrapper;
	const SaggSourceKind *kind;

	if (server == NULL)
		return;
	wrapper = GetForeignDataWrapper(server->fdwid);
	kind = sagg_source_kind_of_wrapper(wrapper);
	if (kind == sagg_source_kind_of_brokers())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("server \"%s\" is not a foreign server of %s", name,
					sagg_source_kind_of_brokers()->wrapper),
			 errdetail("It is one of foreign-data wrapper %s.", wrapper->fdwname),
			 kind ? errhint("Make sources of it by CREATE FOREIGN TABLE ... SERVER %s.",
							quote_identifier(name)) : 0));
}

/*
 * A JSON object of options as DefElems, in the current context; raises
 * invalid_parameter_value for anything else.  A null becomes a DefElem without
 * a value if the caller allows that, and is an error otherwise.
 */
List *
sagg_options_from_json(Jsonb *json, bool nulls)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbValue	value;
	JsonbIteratorToken token;
	char	   *name = NULL;
	List	   *options = NIL;

	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *text = NULL;

			if (value.type == jbvString)
				text = pnstrdup(value.val.string.val, value.val.string.len);
			else if (value.type == jbvBool)
				text = value.val.boolean ? "true" : "false";
			else if (value.type == jbvNumeric)
				text = DatumGetCString(DirectFunctionCall1(numeric_out,
														   NumericGetDatum(value.val.numeric)));
			else if (value.type != jbvNull || !nulls)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" must be a string, a number or a boolean", name)));
			options = lappend(options,
							  makeDefElem(name, text ? (Node *) makeString(text) : NULL, -1));
		}
	}
	return options;
}
