/*-------------------------------------------------------------------------
 *
 * query_fingerprint.c
 *	  The fingerprint of a query: what stored state depends on, as a number and
 *	  as a digest.
 *
 * State written under one fingerprint is read only under an equal one.  It
 * covers what decides the bytes: window, types of the keys and of states at
 * every level (execute/state_form.c), collations, the functions of the
 * aggregates and their initial values.  Names are hashed, never OIDs, so that
 * a dumped and restored database, or an upgraded server, reads its state
 * again.  The identity has the OIDs too, for state in memory, which does not
 * outlive the server.
 *
 * The body of a function is not covered: a replaced function continues with
 * the existing state, whose types are unchanged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "pgtime.h"
#include "utils/builtins.h"

#include "define_internal.h"
#include "execute/execute.h"

static void
append_window(SaggStateForm *form, const SaggWindow *window)
{
	appendStringInfo(&form->names, "window %d size " INT64_FORMAT " origin " INT64_FORMAT " %s\n",
					 window->kind, window->size, window->origin,
					 window->kind == SAGG_WINDOW_NONE ? "" :
					 format_type_be_qualified(window->type));
	if (window->kind == SAGG_WINDOW_CALENDAR)
		appendStringInfo(&form->names, "by %s months %d days %d origin " INT64_FORMAT "\n",
						 pg_get_timezone_name(window->calendar.zone),
						 window->calendar.months, window->calendar.days,
						 window->calendar.origin);
	if (window->calendar.shown)
		appendStringInfo(&form->names, "as shown, clock " INT64_FORMAT "\n", window->calendar.clock);
	if (window->kind == SAGG_WINDOW_HOP)
		appendStringInfo(&form->names, "slide " INT64_FORMAT " %s\n", window->slide,
						 window->panes ? "by pane" : "by window");
}

static void
append_key(SaggStateForm *form, const SaggKey *key)
{
	appendStringInfoString(&form->names, "key");
	sagg_form_type(form, key->type, key->typmod);
	sagg_form_collation(form, key->collation);
	appendStringInfo(&form->oids, " by %u", key->eqop);
	appendStringInfoChar(&form->names, '\n');
}

static void
make_form(SaggStateForm *form, const SaggQuery *query)
{
	sagg_form_begin(form);
	if (query->kind != SAGG_AGGREGATION)
		appendStringInfoString(&form->names, query->kind == SAGG_DEDUPLICATION ?
							   "seen keys\n" : "no state\n");
	append_window(form, &query->window);
	for (int i = 0; i < query->nkeys; i++)
		append_key(form, &query->keys[i]);
	for (int i = 0; i < query->naggs; i++)
		sagg_aggregate_form(form, &query->aggs[i]);
	sagg_form_end(form);
}

static uint64
form_hash(const SaggStateForm *form)
{
	return DatumGetUInt64(hash_any_extended((unsigned char *) form->names.data,
											form->names.len, 0));
}

/*
 * Returns the fingerprint of a query whose window, keys and aggregates are
 * filled in.
 */
uint64
sagg_query_fingerprint(const SaggQuery *query)
{
	SaggStateForm form;

	make_form(&form, query);
	return form_hash(&form);
}

/*
 * Fill in the fingerprints and identities of a query, whose window, keys and
 * aggregates are filled in, and of its aggregates.
 */
void
sagg_query_identify(SaggQuery *query)
{
	SaggStateForm form;

	make_form(&form, query);
	query->fingerprint = form_hash(&form);
	query->store_fingerprint = query->fingerprint;
	sagg_form_digest(&form, &query->state_identity);
}
