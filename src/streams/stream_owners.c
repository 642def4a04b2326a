/*-------------------------------------------------------------------------
 *
 * stream_owners.c
 *	  The owners of a stream's query, sink and sources when it was started.
 *
 * The owner of any of them can have code run as the stream's owner.  So
 * whoever starts a stream trusts their owners at that moment, and a change of
 * any of these owners stops the stream until it is started again, and none of
 * its code runs (sagg_stream_check_owners).
 *
 * The owners are kept as an array of OIDs: of the query's view, the sink, and
 * the sources in their order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "stream_agg.h"
#include "streams.h"

PG_FUNCTION_INFO_V1(stream_agg_has_owners);

/*
 * Returns the owner of a relation; InvalidOid if it does not exist.
 */
Oid
sagg_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

static List *
relations_of(Oid view, Oid sink, List *sources)
{
	return list_concat(list_make2_oid(view, sink), sources);
}

/*
 * Returns the present owners of these relations, in the current context.
 */
ArrayType *
sagg_stream_owners(Oid view, Oid sink, List *sources)
{
	List	   *relations = relations_of(view, sink, sources);
	Datum	   *owners = palloc(sizeof(Datum) * list_length(relations));

	for (int i = 0; i < list_length(relations); i++)
		owners[i] = ObjectIdGetDatum(sagg_relation_owner(list_nth_oid(relations, i)));
	return construct_array(owners, list_length(relations), OIDOID, sizeof(Oid),
						   true, TYPALIGN_INT);
}

/*
 * Returns whether these relations have the owners that sagg_stream_owners has
 * found.  A dropped relation does not count: the worker will raise an error.
 * NULL, which only a row that somebody has written by hand has, matches
 * nobody.
 */
bool
sagg_stream_has_owners(ArrayType *owners, Oid view, Oid sink, List *sources)
{
	List	   *relations = relations_of(view, sink, sources);
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	bool		same;

	deconstruct_array(owners, OIDOID, sizeof(Oid), true, TYPALIGN_INT,
					  &elements, &nulls, &n);
	same = n == list_length(relations);
	for (int i = 0; i < n && same; i++)
	{
		Oid			owner = sagg_relation_owner(list_nth_oid(relations, i));

		same = !OidIsValid(owner) || owner == DatumGetObjectId(elements[i]);
	}
	/* workers check in every micro-batch */
	list_free(relations);
	pfree(elements);
	pfree(nulls);
	return same;
}

/*
 * Check that query, sink and sources of a stream belong to those who owned them
 * when it was started, and always have since then, because their code is about to
 * run as the stream's owner.  Raises ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
 * otherwise.
 */
void
sagg_stream_check_owners(const SaggStream *stream)
{
	Oid			owner = sagg_relation_owner(stream->view);

	if ((!OidIsValid(owner) || owner == stream->owner) &&
		sagg_stream_has_owners(stream->owners, stream->view, stream->sink, stream->sources))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 stream->database == MyDatabaseId ?
			 errmsg("the query, the sink or a source of stream \"%s\" has got another owner since it was started",
					sagg_stream_title(stream->name)) :
			 errmsg("stream \"%s\" has not been started in this database",
					sagg_stream_title(stream->name)),
			 errdetail("Triggers of the sink and functions of the query run as the stream's owner."),
			 errhint("If you trust the owners of all of them, run stream_agg.start_stream.")));
}

/*
 * Returns the OIDs in columns source and other_sources of stream_agg.streams,
 * the latter a regclass[], or NULL.  NULL elements are relations that do not
 * exist.
 */
List *
sagg_source_list(Oid source, ArrayType *others)
{
	List	   *sources = list_make1_oid(source);
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	if (others == NULL)
		return sources;
	deconstruct_array(others, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
		sources = lappend_oid(sources, nulls[i] ? InvalidOid : DatumGetObjectId(elements[i]));
	return sources;
}

/*
 * has_owners(owners oid[], query regclass, sink regclass, source regclass,
 * other_sources regclass[]) RETURNS boolean: does sagg_stream_has_owners.
 */
Datum
stream_agg_has_owners(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	PG_RETURN_BOOL(sagg_stream_has_owners(PG_GETARG_ARRAYTYPE_P(0), PG_GETARG_OID(1),
										  PG_GETARG_OID(2),
										  sagg_source_list(PG_GETARG_OID(3),
														   PG_ARGISNULL(4) ? NULL :
														   PG_GETARG_ARRAYTYPE_P(4))));
}
