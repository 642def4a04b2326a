/*-------------------------------------------------------------------------
 *
 * aggregates.c
 *	  Sets up the aggregates of a stream from pg_aggregate.
 *
 * Aggregates are PostgreSQL's own and its users': their support functions are
 * called through fmgr as the executor would (nodeAgg.c is the model).  Where
 * their transition state does not work between micro-batches - it cannot be
 * made bytes, its final function changes it, or its input has to be sorted
 * first - the inputs are the state; see input_state.c.
 *
 * CREATE OR REPLACE can change an aggregate.  So the identity of its state,
 * which the analysis of the query has determined, is computed again from the
 * catalog row that the calls use, and must be equal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "execute/execute_internal.h"

/* What the catalogs say about one aggregate call. */
typedef struct AggInfo
{
	HeapTuple	tuple;
	Form_pg_aggregate form;
	Oid			argtypes[FUNC_MAX_ARGS];
	int			nargs;
	Oid			transtype;
} AggInfo;

static void
get_info(AggInfo *info, const Aggref *aggref)
{
	info->tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	if (!HeapTupleIsValid(info->tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	info->form = (Form_pg_aggregate) GETSTRUCT(info->tuple);
	info->nargs = get_aggregate_argtypes(unconstify(Aggref *, aggref), info->argtypes);
	info->transtype = resolve_aggregate_transtype(aggref->aggfnoid,
												  info->form->aggtranstype,
												  info->argtypes, info->nargs);
}

/*
 * Returns whether bytes from the state log may be passed to a deserialize
 * function.  The server's own functions named here trust their input, which is
 * verified first (serialized_state.c).  Other functions of the server trust
 * more than can be verified.  Those of extensions were installed by
 * superusers.
 */
static bool
deserializes_safely(Oid function)
{
	return sagg_serialized_is_known(function) || function >= FirstGenbkiObjectId;
}

/*
 * Returns whether an aggregate's state has to be its inputs.  An internal
 * state can continue from its bytes only by way of its combine function.
 */
static bool
keeps_inputs(const AggInfo *info, const Aggref *aggref)
{
	if (AGGKIND_IS_ORDERED_SET(aggref->aggkind) || aggref->aggdistinct || aggref->aggorder)
		return true;
	if (info->form->aggfinalmodify != AGGMODIFY_READ_ONLY)
		return true;
	if (info->transtype == INTERNALOID)
		return get_typtype(aggref->aggtype) == TYPTYPE_PSEUDO ||
			!OidIsValid(info->form->aggserialfn) ||
			!OidIsValid(info->form->aggdeserialfn) ||
			!OidIsValid(info->form->aggcombinefn) ||
			!deserializes_safely(info->form->aggdeserialfn);
	return get_typtype(info->transtype) == TYPTYPE_PSEUDO;
}

/*
 * Raises an error for a pseudo-type, whose values cannot be read from bytes.
 * Exceptions are ROW(...), and "unknown", the type of plain literals, which is
 * stored as text.
 */
static void
check_inputs(const Aggref *aggref)
{
	ListCell   *lc;

	foreach(lc, aggref->args)
	{
		Node	   *arg = (Node *) lfirst_node(TargetEntry, lc)->expr;
		Oid			type = exprType(arg);

		if (type != UNKNOWNOID && get_typtype(type) == TYPTYPE_PSEUDO &&
			!(type == RECORDOID && sagg_record_has_codec(arg)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a stream cannot compute the aggregate %s",
							format_procedure(aggref->aggfnoid)),
					 errdetail("Its inputs have to be kept, and a value of type %s cannot be.",
							   format_type_be(type)),
					 errhint("Cast it to a named composite type, or make it jsonb, for example by jsonb_build_object.")));
	}
}

/*
 * Returns whether states can be combined.  They cannot where the order of
 * input matters, or where the state that is kept is not the one the combine
 * function is for.
 */
static bool
combines(const AggInfo *info, const Aggref *aggref)
{
	if (keeps_inputs(info, aggref))
		return false;
	switch (info->form->aggtransfn)
	{
		case F_NUMERIC_AVG_ACCUM:
			return info->form->aggcombinefn == F_NUMERIC_AVG_COMBINE;
		case F_INT8_AVG_ACCUM:
			return info->form->aggcombinefn == F_INT8_AVG_COMBINE;
		case F_ARRAY_AGG_TRANSFN:
		case F_ARRAY_AGG_ARRAY_TRANSFN:
		case F_STRING_AGG_TRANSFN:
		case F_BYTEA_STRING_AGG_TRANSFN:
			return false;
		default:
			return OidIsValid(info->form->aggcombinefn);
	}
}

/*
 * Returns whether a stream keeps the inputs of an aggregate instead of its
 * transition state, because of the aggregate or, with "combine", because its
 * states would have to be combined and cannot be; sets "strict" if only inputs
 * without NULLs are kept.  Raises feature_not_supported for an aggregate of
 * which neither state nor inputs can be kept.
 */
bool
sagg_aggregate_keeps_inputs(const Aggref *aggref, bool combine, bool *strict)
{
	AggInfo		info;
	SaggCodec	codec;
	bool		result;

	get_info(&info, aggref);
	result = combine ? !combines(&info, aggref) : keeps_inputs(&info, aggref);
	*strict = func_strict(info.form->aggtransfn);
	if (result)
		check_inputs(aggref);
	else if (info.transtype != INTERNALOID)
		sagg_codec_init(&codec, info.transtype, -1);
	ReleaseSysCache(info.tuple);
	return result;
}

/*
 * Returns whether states of an aggregate can be combined, as a parallel query
 * would do, so that the result is that of all their input.
 */
bool
sagg_aggregate_combines(const Aggref *aggref)
{
	AggInfo		info;
	bool		result;

	get_info(&info, aggref);
	result = combines(&info, aggref);
	ReleaseSysCache(info.tuple);
	return result;
}

static void
form_inputs(SaggStateForm *form, const AggInfo *info, const SaggAgg *agg)
{
	ListCell   *lc;

	/* NULLs are not kept for a strict function */
	appendStringInfo(&form->names, " inputs of %d%s%s", agg->inputs,
					 agg->aggref->aggdistinct ? " distinct" : "",
					 func_strict(info->form->aggtransfn) ? " strict" : "");
	foreach(lc, agg->aggref->args)
	{
		Node	   *arg = (Node *) lfirst_node(TargetEntry, lc)->expr;
		TupleDesc	record = exprType(arg) == RECORDOID ? get_expr_result_tupdesc(arg, true) : NULL;

		sagg_form_type(form, exprType(arg), exprTypmod(arg));
		for (int i = 0; record && i < record->natts; i++)
		{
			appendStringInfoString(&form->names, " field");
			sagg_form_type(form, TupleDescAttr(record, i)->atttypid,
						   TupleDescAttr(record, i)->atttypmod);
		}
	}
}

static void
form_state(SaggStateForm *form, const AggInfo *info)
{
	bool		isnull;
	Datum		initval = SysCacheGetAttr(AGGFNOID, info->tuple,
										  Anum_pg_aggregate_agginitval, &isnull);

	appendStringInfoString(&form->names, " state");
	sagg_form_type(form, info->transtype, -1);
	sagg_form_function(form, "by", info->form->aggtransfn);
	sagg_form_function(form, "combined by", info->form->aggcombinefn);
	sagg_form_function(form, "serialized by", info->form->aggserialfn);
	sagg_form_function(form, "deserialized by", info->form->aggdeserialfn);
	sagg_form_function(form, "final", info->form->aggfinalfn);
	if (!isnull)
		appendStringInfo(&form->names, " initial %s",
						 quote_literal_cstr(TextDatumGetCString(initval)));
}

/*
 * Append an aggregate and the definition of its state.  "identity" becomes the
 * digest of that definition alone.
 */
static void
form_aggregate(SaggStateForm *form, const AggInfo *info, const SaggAgg *agg,
			   SaggIdentity *identity)
{
	const Aggref *aggref = agg->aggref;
	SaggStateForm own;

	sagg_form_begin(&own);
	sagg_form_function(&own, "aggregate", aggref->aggfnoid);
	appendStringInfo(&own.names, " returns %s", format_type_be_qualified(aggref->aggtype));
	if (agg->keeps_inputs)
		form_inputs(&own, info, agg);
	else
		form_state(&own, info);
	sagg_form_collation(&own, aggref->inputcollid);
	sagg_form_end(&own);
	sagg_form_digest(&own, identity);
	appendStringInfo(&form->names, "%s\n", own.names.data);
	appendStringInfo(&form->oids, "%s\n", own.oids.data);
}

/*
 * Append an aggregate of a query that is being analysed, and fill in its
 * identity.
 */
void
sagg_aggregate_form(SaggStateForm *form, SaggAgg *agg)
{
	AggInfo		info;

	get_info(&info, agg->aggref);
	form_aggregate(form, &info, agg, &agg->identity);
	ReleaseSysCache(info.tuple);
}

/*
 * Check that "info", from which the calls are made, equals what the query's
 * analysis has found.  That is known where the catalogs have not changed since: then
 * both are from the same cached rows.
 */
static void
check_unchanged(const AggInfo *info, const SaggAgg *agg, uint64 catalog_changes)
{
	SaggStateForm form;
	SaggIdentity identity;

	if (catalog_changes == sagg_catalog_changes())
		return;
	sagg_form_begin(&form);
	form_aggregate(&form, info, agg, &identity);
	sagg_form_end(&form);
	if (memcmp(&identity, &agg->identity, sizeof(identity)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("aggregate %s was replaced while a query was being prepared",
						format_procedure(agg->aggref->aggfnoid))));
}

static Datum
initial_value(AggInfo *info, bool *isnull)
{
	Datum		initval = SysCacheGetAttr(AGGFNOID, info->tuple,
										  Anum_pg_aggregate_agginitval, isnull);
	Oid			input;
	Oid			ioparam;
	char	   *string;
	Datum		value;

	if (*isnull)
		return (Datum) 0;
	getTypeInputInfo(info->transtype, &input, &ioparam);
	string = TextDatumGetCString(initval);
	value = OidInputFunctionCall(input, string, ioparam, -1);
	pfree(string);
	return value;
}

static void
check_execute(Oid function, Oid role)
{
	AclResult	result = SAGG_FUNCTION_ACLCHECK(function, role, ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
	InvokeFunctionExecuteHook(function);
}

static void
look_up_function(FmgrInfo *finfo, Oid function, Oid aggowner)
{
	check_execute(function, aggowner);
	fmgr_info(function, finfo);
}

static Oid
function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
init_transition(SaggAggCall *call, AggInfo *info, Oid aggowner)
{
	const Aggref *aggref = call->agg->aggref;
	Expr	   *expr;
	int			ndirect = list_length(aggref->aggdirectargs);
	Size		size = SizeForFunctionCallInfo(call->agg->nargs + 1);

	call->ntransargs = AGGKIND_IS_ORDERED_SET(aggref->aggkind) ?
		list_length(aggref->args) : info->nargs;
	look_up_function(&call->transfn, info->form->aggtransfn, aggowner);
	build_aggregate_transfn_expr(info->argtypes, info->nargs, ndirect,
								 aggref->aggvariadic, info->transtype,
								 aggref->inputcollid, info->form->aggtransfn,
								 InvalidOid, &expr, NULL);
	fmgr_info_set_expr((Node *) expr, &call->transfn);
	call->trans_fcinfo = palloc0(size);
	call->initvalue = initial_value(info, &call->initnull);

	/* the first input becomes the state, so it must be of its type */
	if (call->transfn.fn_strict && call->initnull &&
		(info->nargs <= ndirect ||
		 !IsBinaryCoercible(info->argtypes[ndirect], info->transtype)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("aggregate %u needs to have compatible input type and transition type",
						aggref->aggfnoid)));
}

static void
init_final(SaggAggCall *call, AggInfo *info, Oid aggowner)
{
	const Aggref *aggref = call->agg->aggref;
	Expr	   *expr;

	call->nfinalargs = 1 + (info->form->aggfinalextra ? info->nargs :
							list_length(aggref->aggdirectargs));
	if (!OidIsValid(info->form->aggfinalfn))
		return;
	look_up_function(&call->finalfn, info->form->aggfinalfn, aggowner);
	build_aggregate_finalfn_expr(info->argtypes, call->nfinalargs,
								 info->transtype, aggref->aggtype,
								 aggref->inputcollid, info->form->aggfinalfn, &expr);
	fmgr_info_set_expr((Node *) expr, &call->finalfn);
}

static void
init_storage(SaggAggCall *call, AggInfo *info, Oid aggowner)
{
	Expr	   *expr;

	if (info->transtype != INTERNALOID)
	{
		sagg_codec_init(&call->codec, info->transtype, -1);
		return;
	}
	look_up_function(&call->serialfn, info->form->aggserialfn, aggowner);
	build_aggregate_serialfn_expr(info->form->aggserialfn, &expr);
	fmgr_info_set_expr((Node *) expr, &call->serialfn);
	look_up_function(&call->deserialfn, info->form->aggdeserialfn, aggowner);
	build_aggregate_deserialfn_expr(info->form->aggdeserialfn, &expr);
	fmgr_info_set_expr((Node *) expr, &call->deserialfn);
}

static void
init_combination(SaggAggCall *call, AggInfo *info, Oid aggowner)
{
	Expr	   *expr;

	look_up_function(&call->combinefn, info->form->aggcombinefn, aggowner);
	build_aggregate_transfn_expr(&info->transtype, 1, 0, false, info->transtype,
								 call->agg->aggref->inputcollid,
								 info->form->aggcombinefn, InvalidOid, &expr, NULL);
	fmgr_info_set_expr((Node *) expr, &call->combinefn);
}

/*
 * Make the aggregates of a query callable; allocated in the current context.
 * Checks that the current user may execute them.  "combine": make those that
 * can combine states ready for it.
 */
SaggAggCall *
sagg_aggregates_init(const SaggQuery *query, bool combine)
{
	SaggAggCall *calls = palloc0(sizeof(SaggAggCall) * Max(query->naggs, 1));

	for (int i = 0; i < query->naggs; i++)
	{
		SaggAggCall *call = &calls[i];
		Aggref	   *aggref = query->aggs[i].aggref;
		AggInfo		info;
		Oid			aggowner;

		check_execute(aggref->aggfnoid, GetUserId());
		get_info(&info, aggref);
		check_unchanged(&info, &query->aggs[i], query->catalog_changes);
		aggowner = function_owner(aggref->aggfnoid);
		call->agg = &query->aggs[i];
		call->transtype = info.transtype;
		get_typlenbyval(info.transtype, &call->translen, &call->transbyval);
		call->pertrans.aggref = aggref;
		call->peragg.aggref = aggref;
		init_transition(call, &info, aggowner);
		init_final(call, &info, aggowner);
		if (call->agg->keeps_inputs)
		{
			call->input_state = sagg_input_state_init(call);
			call->combines = true;
		}
		else
		{
			call->combines = SAGG_WINDOW_COMBINES(&query->window) || query->dealt ||
				(combine && combines(&info, aggref));
			init_storage(call, &info, aggowner);
			if (info.transtype == INTERNALOID || call->combines)
				init_combination(call, &info, aggowner);
			call->kind = sagg_inline_kind(call, info.form->aggcombinefn);
			call->combine_inline = sagg_inline_combines(call);
		}
		ReleaseSysCache(info.tuple);
	}
	return calls;
}
