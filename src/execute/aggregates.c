/*-------------------------------------------------------------------------
 *
 * aggregates.c
 *	  What pg_aggregate says of the aggregates of a stream.
 *
 * Aggregates are PostgreSQL's own and its users': their support functions are
 * called through fmgr as the executor would (nodeAgg.c is the model).  Refused
 * is what does not work between micro-batches: a state that cannot be made
 * bytes, and a final function that changes the state it reads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "execute_internal.h"

/* What is asked of the catalogs about one aggregate call. */
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

static void
refuse(const Aggref *aggref, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a stream cannot compute the aggregate %s",
					format_procedure(aggref->aggfnoid)),
			 errdetail("%s", detail)));
}

/*
 * Refuse an aggregate whose state cannot be kept between micro-batches.
 * Raises feature_not_supported with the reason.
 */
void
sagg_aggregate_check(const Aggref *aggref)
{
	AggInfo		info;

	get_info(&info, aggref);
	if (info.form->aggfinalmodify != AGGMODIFY_READ_ONLY)
		refuse(aggref, "Its final function changes the state, which goes on with the next micro-batch.");
	if (info.transtype == INTERNALOID &&
		(!OidIsValid(info.form->aggserialfn) || !OidIsValid(info.form->aggdeserialfn)))
		refuse(aggref, "Its state is internal and it has no functions to serialize and deserialize it, so it cannot be kept.");
	if (info.transtype == INTERNALOID && !OidIsValid(info.form->aggcombinefn))
		refuse(aggref, "Its state is internal and it has no combine function, so it cannot go on from one that was kept.");
	if (info.transtype != INTERNALOID &&
		get_typtype(info.transtype) == TYPTYPE_PSEUDO)
		refuse(aggref, "Its state is of a pseudo-type and cannot be kept.");
	if (info.transtype != INTERNALOID)
	{
		SaggCodec	codec;

		sagg_codec_init(&codec, info.transtype, -1);
	}
	ReleaseSysCache(info.tuple);
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
	Size		size = SizeForFunctionCallInfo(call->agg->nargs + 1);

	look_up_function(&call->transfn, info->form->aggtransfn, aggowner);
	build_aggregate_transfn_expr(info->argtypes, info->nargs, 0,
								 aggref->aggvariadic, info->transtype,
								 aggref->inputcollid, info->form->aggtransfn,
								 InvalidOid, &expr, NULL);
	fmgr_info_set_expr((Node *) expr, &call->transfn);
	call->trans_fcinfo = palloc0(size);
	call->initvalue = initial_value(info, &call->initnull);

	/* the first input becomes the state, so it must be of its type */
	if (call->transfn.fn_strict && call->initnull &&
		(info->nargs < 1 ||
		 !IsBinaryCoercible(info->argtypes[0], info->transtype)))
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

	call->nfinalargs = 1 + (info->form->aggfinalextra ? info->nargs : 0);
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

/*
 * A deserialized state is combined with none, and the states of sessions and
 * panes are combined with each other.
 */
static void
init_combine(SaggAggCall *call, AggInfo *info, Oid aggowner)
{
	Expr	   *expr;

	if (!OidIsValid(info->form->aggcombinefn))
		return;
	look_up_function(&call->combinefn, info->form->aggcombinefn, aggowner);
	build_aggregate_transfn_expr(&info->transtype, 1, 0, false, info->transtype,
								 call->agg->aggref->inputcollid,
								 info->form->aggcombinefn, InvalidOid, &expr, NULL);
	fmgr_info_set_expr((Node *) expr, &call->combinefn);
}

/*
 * Make the aggregates of a query callable; allocated in the current context.
 * Checks that the current user may execute them.
 */
SaggAggCall *
sagg_aggregates_init(const SaggQuery *query)
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
		aggowner = function_owner(aggref->aggfnoid);
		call->agg = &query->aggs[i];
		call->transtype = info.transtype;
		get_typlenbyval(info.transtype, &call->translen, &call->transbyval);
		call->pertrans.aggref = aggref;
		call->peragg.aggref = aggref;
		init_transition(call, &info, aggowner);
		init_final(call, &info, aggowner);
		init_storage(call, &info, aggowner);
		if (info.transtype == INTERNALOID || SAGG_WINDOW_COMBINES(query->window.kind))
			init_combine(call, &info, aggowner);
		call->kind = sagg_inline_kind(call);
		ReleaseSysCache(info.tuple);
	}
	return calls;
}
