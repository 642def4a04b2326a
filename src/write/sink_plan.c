/*-------------------------------------------------------------------------
 *
 * sink_plan.c
 *	  Caches the plans of a sink's statements.
 *
 * A plan is made again when its text, which has the sink's name, or the type
 * of the output changes; the server's plan cache handles other changes of the
 * sink.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/memutils.h"

#include "write_internal.h"

/*
 * Forget a plan.  Needs no transaction.
 */
void
sagg_sink_plan_forget(SinkPlan *kept)
{
	SPIPlanPtr	plan = kept->plan;
	MemoryContext context = kept->context;

	memset(kept, 0, sizeof(*kept));
	if (plan)
		SPI_freeplan(plan);
	if (context)
		MemoryContextDelete(context);
}

/*
 * Returns the plan of a statement with this text; it belongs to the sink.
 * Called with SAGG_ENR_OUTPUT, of type "desc", registered.
 */
SPIPlanPtr
sagg_sink_plan(SaggSink *sink, SinkStatement statement, const char *text,
			   TupleDesc desc)
{
	SinkPlan   *kept = &sink->plans[statement];
	MemoryContext save;
	SPIPlanPtr	plan;
	int			ret;

	if (kept->plan && strcmp(kept->text, text) == 0 &&
		equalTupleDescs(kept->desc, desc))
		return kept->plan;

	sagg_sink_plan_forget(kept);
	kept->context = AllocSetContextCreate(sink->context, "stream_agg sink plan",
										  ALLOCSET_SMALL_SIZES);
	save = MemoryContextSwitchTo(kept->context);
	kept->text = pstrdup(text);
	kept->desc = CreateTupleDescCopy(desc);
	MemoryContextSwitchTo(save);

	plan = SPI_prepare(text, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s",
			 text, SPI_result_code_string(SPI_result));
	ret = SPI_keepplan(plan);
	if (ret != 0)
		elog(ERROR, "could not keep a plan: %s", SPI_result_code_string(ret));
	kept->plan = plan;
	return plan;
}
