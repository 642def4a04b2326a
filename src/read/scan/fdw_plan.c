/*-------------------------------------------------------------------------
 *
 * fdw_plan.c
 *	  Planning a scan of a source.
 *
 * The planner contacts no broker: the number of records of a topic is not
 * known, but that of a micro-batch is.  It pushes down conditions on the
 * topic, the partition, the offset and the least timestamp of a record, so
 * that records that cannot match are not read.  Other conditions on metadata
 * alone are tested before a record is decoded: they are the fdw_recheck_quals
 * of the plan, which the executor prepares.  All of them stay conditions of
 * the scan as well, so pushing down never decides what comes out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "read/read_internal.h"

/* assumed number of records of a topic */
#define ESTIMATED_RECORDS		100000
#define DECODE_COST				(10 * DEFAULT_CPU_TUPLE_COST)

/*
 * GetForeignRelSize
 */
void
sagg_get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	int64		records;

	/*
	 * the number is known in a micro-batch, so that joins are planned for it
	 */
	baserel->tuples = sagg_scan_attached(relid, &records) ? Max(records, 1) :
		ESTIMATED_RECORDS;
	set_baserel_size_estimates(root, baserel);
}

/*
 * GetForeignPaths: there is one path, from the first offset to the last.
 */
void
sagg_get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	Cost		run = baserel->tuples *
	(DECODE_COST + cpu_tuple_cost + baserel->baserestrictcost.per_tuple);
	Cost		startup = baserel->baserestrictcost.startup;

	add_path(baserel, (Path *)
			 SAGG_FOREIGN_PATH(root, baserel, baserel->rows, startup, startup + run,
							   baserel->lateral_relids));
}

/*
 * Returns the metadata that a Var of the source stands for; SAGG_FIELD_UNUSED
 * if conditions on it cannot be pushed down.
 */
static SaggFieldKind
pushable_column(Node *node, Index relid, const SaggField *fields)
{
	Var		   *var = (Var *) node;
	SaggFieldKind kind;

	if (!IsA(node, Var) || var->varno != relid || var->varlevelsup != 0 ||
		var->varattno <= 0)
		return SAGG_FIELD_UNUSED;
	kind = fields[var->varattno - 1].kind;
	return kind == SAGG_FIELD_TOPIC || kind == SAGG_FIELD_PARTITION ||
		kind == SAGG_FIELD_OFFSET || kind == SAGG_FIELD_TIMESTAMP ? kind : SAGG_FIELD_UNUSED;
}

/*
 * Returns the strategy of "timestamp <op> value" if it bounds the timestamp
 * from below, 0 if not: upper bounds do not work, because later offsets may
 * have earlier timestamps.
 */
static int
time_strategy(Oid opno)
{
	switch (get_opcode(opno))
	{
		case F_TIMESTAMPTZ_GE:
			return BTGreaterEqualStrategyNumber;
		case F_TIMESTAMPTZ_GT:
			return BTGreaterStrategyNumber;
		case F_TIMESTAMPTZ_EQ:
			return BTEqualStrategyNumber;
		default:
			return 0;
	}
}

/*
 * Returns an integer as bigint, NULL for anything else.
 */
static Expr *
as_bigint(Node *expr)
{
	Oid			cast;

	switch (exprType(expr))
	{
		case INT8OID:
			return (Expr *) expr;
		case INT4OID:
			cast = F_INT8_INT4;
			break;
		case INT2OID:
			cast = F_INT8_INT2;
			break;
		default:
			return NULL;
	}
	return (Expr *) makeFuncExpr(cast, INT8OID, list_make1(expr),
								 InvalidOid, InvalidOid, COERCE_IMPLICIT_CAST);
}

/*
 * Returns whether a value is known before the scan.
 */
static bool
known_before(Node *value, Index relid)
{
	return !bms_is_member(relid, pull_varnos(NULL, value)) &&
		!contain_volatile_functions(value) && !contain_subplans(value);
}

/*
 * If a condition is "topic = ANY (texts)", as IN is, add it to the bounds.
 */
static void
push_down_topics(ScalarArrayOpExpr *op, Index relid, const SaggField *fields,
				 List **bounds, List **exprs)
{
	Node	   *value = lsecond(op->args);

	if (!op->useOr || op->opno != TextEqualOperator ||
		!get_collation_isdeterministic(op->inputcollid) ||
		pushable_column(linitial(op->args), relid, fields) != SAGG_FIELD_TOPIC ||
		exprType(value) != TEXTARRAYOID || !known_before(value, relid))
		return;
	*bounds = lappend_int(lappend_int(*bounds, SAGG_FIELD_TOPIC), SAGG_STRATEGY_ANY);
	*exprs = lappend(*exprs, value);
}

/*
 * If a condition is "column <op> value" or the reverse, with the value known
 * before the scan, add it to the bounds.
 */
static void
push_down(Expr *clause, Index relid, const SaggField *fields,
		  List **bounds, List **exprs)
{
	OpExpr	   *op = (OpExpr *) clause;
	SaggFieldKind kind;
	Node	   *value;
	Oid			opno;
	int			strategy;

	if (IsA(clause, ScalarArrayOpExpr))
		push_down_topics((ScalarArrayOpExpr *) clause, relid, fields, bounds, exprs);
	if (!IsA(clause, OpExpr) || list_length(op->args) != 2)
		return;
	opno = op->opno;
	value = lsecond(op->args);
	kind = pushable_column(linitial(op->args), relid, fields);
	if (kind == SAGG_FIELD_UNUSED)
	{
		kind = pushable_column(lsecond(op->args), relid, fields);
		value = linitial(op->args);
		opno = get_commutator(opno);
	}
	if (kind == SAGG_FIELD_UNUSED || !OidIsValid(opno) || !known_before(value, relid))
		return;
	if (kind == SAGG_FIELD_TOPIC)
		strategy = opno == TextEqualOperator && exprType(value) == TEXTOID &&
			get_collation_isdeterministic(op->inputcollid) ? BTEqualStrategyNumber : 0;
	else if (kind == SAGG_FIELD_TIMESTAMP)
		strategy = time_strategy(opno);
	else
	{
		strategy = get_op_opfamily_strategy(opno, INTEGER_BTREE_FAM_OID);
		value = (Node *) as_bigint(value);
	}
	if (strategy == 0 || value == NULL)
		return;
	*bounds = lappend_int(lappend_int(*bounds, kind), strategy);
	*exprs = lappend(*exprs, value);
}

/*
 * Returns the attribute numbers that the scan has to fill in.
 */
static List *
used_attributes(RelOptInfo *baserel, Relation rel)
{
	Bitmapset  *used = NULL;
	List	   *result = NIL;
	ListCell   *lc;
	int			natts = RelationGetDescr(rel)->natts;
	bool		whole;

	pull_varattnos((Node *) baserel->reltarget->exprs, baserel->relid, &used);
	foreach(lc, baserel->baserestrictinfo)
		pull_varattnos((Node *) lfirst_node(RestrictInfo, lc)->clause,
					   baserel->relid, &used);
	whole = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
	for (int attno = 1; attno <= natts; attno++)
	{
		if (whole || bms_is_member(attno - FirstLowInvalidHeapAttributeNumber, used))
			result = lappend_int(result, attno);
	}
	return result;
}

/*
 * Returns whether a condition can be tested before a record is decoded.  It
 * must need only metadata, and must not see rows that a view with a security
 * barrier hides.
 */
static bool
needs_metadata_only(RestrictInfo *info, RelOptInfo *baserel, const SaggField *fields)
{
	Node	   *clause = (Node *) info->clause;
	Bitmapset  *used = NULL;
	int			attno = -1;

	if (info->pseudoconstant || contain_volatile_functions(clause) ||
		contain_subplans(clause) || !restriction_is_securely_promotable(info, baserel))
		return false;
	pull_varattnos(clause, baserel->relid, &used);
	while ((attno = bms_next_member(used, attno)) >= 0)
	{
		int			index = attno + FirstLowInvalidHeapAttributeNumber - 1;

		if (index < 0 || fields[index].kind <= SAGG_FIELD_PAYLOAD ||
			fields[index].kind == SAGG_FIELD_ERROR)
			return false;
	}
	return !bms_is_empty(used);
}

/*
 * GetForeignPlan
 */
ForeignScan *
sagg_get_plan(PlannerInfo *root, RelOptInfo *baserel, Oid relid,
			  ForeignPath *path, List *tlist, List *clauses, Plan *outer_plan)
{
	Relation	rel = table_open(relid, NoLock);
	SaggField  *fields = sagg_source_layout(rel, NULL)->fields;
	List	   *attributes = used_attributes(baserel, rel);
	List	   *bounds = NIL;
	List	   *exprs = NIL;
	List	   *early = NIL;
	ListCell   *lc;

	table_close(rel, NoLock);
	foreach(lc, clauses)
	{
		RestrictInfo *info = lfirst_node(RestrictInfo, lc);

		if (needs_metadata_only(info, baserel, fields))
			early = lappend(early, info->clause);
	}
	clauses = extract_actual_clauses(clauses, false);
	foreach(lc, clauses)
		push_down(lfirst(lc), baserel->relid, fields, &bounds, &exprs);
	return make_foreignscan(tlist, clauses, baserel->relid, exprs,
							list_make2(attributes, bounds), NIL, early, outer_plan);
}

static const char *
strategy_operator(int strategy)
{
	switch (strategy)
	{
		case BTLessStrategyNumber:
			return "<";
		case BTLessEqualStrategyNumber:
			return "<=";
		case BTEqualStrategyNumber:
		case SAGG_STRATEGY_ANY:
			return "=";
		case BTGreaterEqualStrategyNumber:
			return ">=";
		default:
			return ">";
	}
}

static const char *
column_name(SaggFieldKind kind)
{
	return kind == SAGG_FIELD_TOPIC ? "topic" :
		kind == SAGG_FIELD_PARTITION ? "partition" :
		kind == SAGG_FIELD_TIMESTAMP ? "timestamp" : "offset";
}

/*
 * Show the topics of a source in EXPLAIN.
 */
void
sagg_explain_topics(Oid source, ExplainState *es)
{
	const char *title = sagg_kind_of_source(source)->title;
	SaggTopics *topics = sagg_source_topics(source);
	List	   *names = NIL;

	if (topics->one)
		ExplainPropertyText(psprintf("%s Topic", title), topics->one, es);
	else if (topics->pattern)
		ExplainPropertyText(psprintf("%s Topic Pattern", title), topics->pattern, es);
	else
	{
		for (int i = 0; i < topics->nnames; i++)
			names = lappend(names, topics->names[i]);
		ExplainPropertyList(psprintf("%s Topics", title), names, es);
	}
}

/*
 * ExplainForeignScan
 */
void
sagg_explain_scan(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = castNode(ForeignScan, node->ss.ps.plan);
	List	   *bounds = list_nth(plan->fdw_private, SAGG_SCAN_BOUNDS);
	List	   *context;
	StringInfoData text;
	int			i = 0;
	ListCell   *lc;

	sagg_explain_topics(RelationGetRelid(node->ss.ss_currentRelation), es);
	if (bounds == NIL)
		return;
	context = set_deparse_context_plan(es->deparse_cxt, (Plan *) plan, NIL);
	initStringInfo(&text);
	foreach(lc, plan->fdw_exprs)
	{
		int			strategy = list_nth_int(bounds, i + 1);

		appendStringInfo(&text, strategy == SAGG_STRATEGY_ANY ? "%s%s %s ANY (%s)" : "%s%s %s %s",
						 i > 0 ? ", " : "", column_name(list_nth_int(bounds, i)),
						 strategy_operator(strategy),
						 deparse_expression(lfirst(lc), context, false, false));
		i += 2;
	}
	ExplainPropertyText(psprintf("%s Bounds", sagg_kind_of_source(RelationGetRelid(node->ss.ss_currentRelation))->title),
						text.data, es);
}
