/*-------------------------------------------------------------------------
 *
 * sink_rows.c
 *	  Parts of statements on a sink: the batch's rows as relations, and the
 *	  comparison of identities.
 *
 * Nothing here runs a statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "write_internal.h"

/*
 * Make a tuplestore visible by name to statements of this SPI connection.
 * "enr" must live as long as it is registered.
 */
void
sagg_enr_register(EphemeralNamedRelation enr, char *name, TupleDesc desc,
				  Tuplestorestate *rows, double estimate)
{
	int			ret;

	memset(enr, 0, sizeof(*enr));
	enr->md.name = name;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = estimate;
	enr->reldata = rows;
	ret = SPI_register_relation(enr);
	if (ret != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\": %s",
			 name, SPI_result_code_string(ret));
}

/*
 * Make it invisible again.
 */
void
sagg_enr_unregister(const char *name)
{
	int			ret = SPI_unregister_relation(name);

	if (ret != SPI_OK_REL_UNREGISTER)
		elog(ERROR, "could not unregister \"%s\": %s",
			 name, SPI_result_code_string(ret));
}

/*
 * Returns the row type of batch_removed: the identity columns in identity
 * order.
 */
TupleDesc
sagg_sink_identity_desc(const SinkBatch *batch)
{
	const SaggQuery *query = batch->query;
	TupleDesc	desc = CreateTemplateTupleDesc(query->nidentity);

	for (int i = 0; i < query->nidentity; i++)
		TupleDescCopyEntry(desc, i + 1, batch->desc, query->identity[i]);
	return desc;
}

/*
 * Append the collation to name in a comparison of a removed row's value with
 * a column of another collation, so that an index of that column can be used.
 */
void
sagg_sink_append_collation(StringInfo buf, Oid collation)
{
	HeapTuple	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	Form_pg_collation form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	appendStringInfo(buf, " COLLATE %s",
					 quote_qualified_identifier(get_namespace_name(form->collnamespace),
												NameStr(form->collname)));
	ReleaseSysCache(tuple);
}

/*
 * Append "left" = "right", by the default equality of the type of "att", to
 * which both belong or are converted, whatever the search_path.
 */
void
sagg_sink_append_equality(StringInfo buf, Form_pg_attribute att,
						  const char *left, const char *right)
{
	Oid			equal = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr;
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(equal));
	Form_pg_operator form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find the equality operator of type %s",
			 format_type_be(att->atttypid));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	appendStringInfo(buf, "%s OPERATOR(%s.%s) %s", left,
					 quote_identifier(get_namespace_name(form->oprnamespace)),
					 NameStr(form->oprname), right);
	ReleaseSysCache(tuple);
}

/*
 * Returns the name of a column, quoted if necessary.
 */
const char *
sagg_sink_column(TupleDesc desc, AttrNumber attno)
{
	return quote_identifier(NameStr(TupleDescAttr(desc, attno - 1)->attname));
}

/*
 * Append s.column = r.column, for column "i" of the identity, in a form that
 * an index of the sink "s" serves: of the window, with its bounds if the index
 * has those.
 */
void
sagg_sink_append_match(StringInfo buf, const SinkBatch *batch, int i)
{
	AttrNumber	attno = batch->query->identity[i];
	const char *name = sagg_sink_column(batch->query->output_desc, attno);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(batch->rel),
										  batch->columns[attno - 1] - 1);

	if (attno == batch->query->window_output && batch->identity.window != SINK_WINDOW_ITSELF)
	{
		appendStringInfo(buf, "pg_catalog.lower(s.%s) OPERATOR(pg_catalog.=) pg_catalog.lower(r.%s) AND ",
						 name, name);
		if (batch->identity.window == SINK_WINDOW_BOUNDS)
			appendStringInfo(buf, "pg_catalog.upper(s.%s) OPERATOR(pg_catalog.=) pg_catalog.upper(r.%s) AND ",
							 name, name);
	}
	sagg_sink_append_equality(buf, att, psprintf("s.%s", name), psprintf("r.%s", name));
	if (att->attcollation != TupleDescAttr(batch->desc, attno - 1)->attcollation)
		sagg_sink_append_collation(buf, att->attcollation);
}
