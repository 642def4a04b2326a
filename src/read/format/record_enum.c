/*-------------------------------------------------------------------------
 *
 * record_enum.c
 *	  Compares texts in records with the labels of an enum type.
 *
 * The server's enum_in looks each text up in a cache of the catalog, which
 * keeps those that are no label until the process ends.  So texts are looked
 * for among the labels first.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_enum.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/syscache.h"

#include "record_datum.h"

/* The labels that a type has when the conversion is prepared, in order. */
struct SaggLabels
{
	int			n;
	char	  **labels;
};

static const char *
label_of(const CatCList *list, int i)
{
	return NameStr(((Form_pg_enum) GETSTRUCT(&list->members[i]->tuple))->enumlabel);
}

static int
compare_labels(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/*
 * Returns the labels of an enum type, in the current memory context.
 */
SaggLabels *
sagg_labels_make(Oid type)
{
	SaggLabels *result = palloc(sizeof(SaggLabels));
	CatCList   *list = SearchSysCacheList1(ENUMTYPOIDNAME, ObjectIdGetDatum(type));

	result->n = list->n_members;
	result->labels = palloc(sizeof(char *) * Max(result->n, 1));
	for (int i = 0; i < result->n; i++)
		result->labels[i] = pstrdup(label_of(list, i));
	ReleaseSysCacheList(list);
	qsort(result->labels, result->n, sizeof(char *), compare_labels);
	return result;
}

/* Returns whether the type has the label now. */
static bool
has_label(Oid type, const char *label)
{
	CatCList   *list = SearchSysCacheList1(ENUMTYPOIDNAME, ObjectIdGetDatum(type));
	bool		found = false;

	for (int i = 0; i < list->n_members && !found; i++)
		found = strcmp(label_of(list, i), label) == 0;
	ReleaseSysCacheList(list);
	return found;
}

/*
 * Raises the error of enum_in if a text is no label of an enum type, whose
 * labels have been made before; those that were added since count.
 */
void
sagg_labels_check(const SaggLabels *labels, Oid type, const char *label)
{
	if (bsearch(&label, labels->labels, labels->n, sizeof(char *), compare_labels) == NULL &&
		!has_label(type, label))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input value for enum %s: \"%s\"", format_type_be(type), label)));
}
