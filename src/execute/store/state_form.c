/*-------------------------------------------------------------------------
 *
 * state_form.c
 *	  The form of stored state: the types at every level, functions and
 *	  collations that its bytes depend on.
 *
 * A name does not identify a type: a domain can be renamed and another one
 * take its name.  So a type is described with everything it is made of - the
 * base type of a domain, elements of arrays, columns of composite types,
 * subtypes of ranges - and with the way its values are stored (codec.c).
 *
 * The description exists twice.  By name, for the state log, which a dumped
 * and restored database or an upgraded server reads again.  And by OID, for
 * shared memory, whose bytes are read without conversion: there a type must be
 * identical.  No setting changes the description.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_range.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "execute/execute_internal.h"

StaticAssertDecl(SAGG_IDENTITY_BYTES == PG_SHA256_DIGEST_LENGTH, "length of a digest");

/*
 * An empty form, in the current context.  Until sagg_form_end, or the end of
 * the (sub)transaction after an ERROR, names are quoted where necessary,
 * independent of the session's quote_all_identifiers.
 */
void
sagg_form_begin(SaggStateForm *form)
{
	initStringInfo(&form->names);
	initStringInfo(&form->oids);
	form->nestlevel = NewGUCNestLevel();
	if (quote_all_identifiers)
		(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Complete the form; its text stays.
 */
void
sagg_form_end(SaggStateForm *form)
{
	AtEOXact_GUC(true, form->nestlevel);
}

static void
append_columns(SaggStateForm *form, Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);

	appendStringInfoString(&form->names, " columns");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		/* a dump leaves out dropped columns, and so does record_send */
		if (!att->attisdropped)
			sagg_form_type(form, att->atttypid, att->atttypmod);
	}
	appendStringInfoString(&form->names, " end");
	FreeTupleDesc(desc);
}

static void
append_range(SaggStateForm *form, Oid range)
{
	HeapTuple	tuple = SearchSysCache1(RANGETYPE, ObjectIdGetDatum(range));
	Form_pg_range row;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for range type %u", range);
	row = (Form_pg_range) GETSTRUCT(tuple);
	sagg_form_type(form, row->rngsubtype, -1);
	sagg_form_collation(form, row->rngcollation);
	appendStringInfo(&form->oids, " by %u %u", row->rngsubopc, row->rngcanonical);
	ReleaseSysCache(tuple);
}

/*
 * Append a type and what it is made of.
 */
void
sagg_form_type(SaggStateForm *form, Oid type, int32 typmod)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type row;
	Oid			element = get_element_type(type);

	check_stack_depth();
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	row = (Form_pg_type) GETSTRUCT(tuple);
	appendStringInfo(&form->names, " %s",
					 format_type_extended(type, typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	appendStringInfo(&form->oids, " %u %d %d", type, typmod, row->typlen);
	if (OidIsValid(element))
	{
		appendStringInfoString(&form->names, " of");
		sagg_form_type(form, element, -1);
	}
	switch (row->typtype)
	{
		case TYPTYPE_DOMAIN:
			appendStringInfoString(&form->names, " over");
			sagg_form_type(form, row->typbasetype, row->typtypmod);
			break;
		case TYPTYPE_COMPOSITE:
			append_columns(form, type);
			break;
		case TYPTYPE_RANGE:
			append_range(form, type);
			break;
		case TYPTYPE_MULTIRANGE:
			sagg_form_type(form, get_multirange_range(type), -1);
			break;
		default:
			appendStringInfo(&form->names, " %s", sagg_codec_way(type));
	}
	ReleaseSysCache(tuple);
}

/*
 * Append a function in its "role", which may be InvalidOid, and whether it is
 * strict.
 */
void
sagg_form_function(SaggStateForm *form, const char *role, Oid function)
{
	if (OidIsValid(function))
		appendStringInfo(&form->names, " %s %s%s", role,
						 format_procedure_qualified(function),
						 func_strict(function) ? " strict" : "");
	appendStringInfo(&form->oids, " %s %u", role, function);
}

/*
 * Append a collation, which may be InvalidOid.
 */
void
sagg_form_collation(SaggStateForm *form, Oid collation)
{
	HeapTuple	tuple;
	Form_pg_collation row;

	appendStringInfo(&form->oids, " collate %u", collation);
	if (!OidIsValid(collation))
		return;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	row = (Form_pg_collation) GETSTRUCT(tuple);
	appendStringInfo(&form->names, " collate %s",
					 quote_qualified_identifier(get_namespace_name(row->collnamespace),
												NameStr(row->collname)));
	ReleaseSysCache(tuple);
}

/*
 * Compute the digest of a form, names and OIDs.  The hash is a cryptographic
 * one, because roles choose names and, in part, OIDs.
 */
void
sagg_form_digest(const SaggStateForm *form, SaggIdentity *identity)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	/*
	 * with the terminating zeros, so that the boundary between the parts is
	 * unambiguous
	 */
	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (uint8 *) form->names.data, form->names.len + 1) < 0 ||
		pg_cryptohash_update(context, (uint8 *) form->oids.data, form->oids.len + 1) < 0 ||
		pg_cryptohash_final(context, identity->digest, sizeof(identity->digest)) < 0)
		elog(ERROR, "could not compute a digest: %s", pg_cryptohash_error(context));
	pg_cryptohash_free(context);
}
