/*-------------------------------------------------------------------------
 *
 * query_lasting.c
 *	  Checks that everything a stream's query depends on outlives the session.
 *
 * When a session ends, its temporary schema is emptied by CASCADE, without
 * event triggers.  A view that depends on a function, type, operator,
 * aggregate or collation in it would be dropped, and would leave the rows of
 * its stream behind.  (A view over a temporary table is temporary itself,
 * which query_checks.c rejects.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_rewrite.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "define_internal.h"

static bool
is_temporary(const ObjectAddress *object)
{
	Oid			namespace;

	if (object->classId == RelationRelationId || !is_objectclass_supported(object->classId))
		return false;
	namespace = get_object_namespace(object);
	return OidIsValid(namespace) && isAnyTempNamespace(namespace);
}

/*
 * Append the objects that an object refers to, if "objects" does not have them
 * yet.
 */
static void
add_referenced(Relation depend, const ObjectAddress *object, ObjectAddresses *known,
			   List **objects)
{
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(object->classId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(object->objectId));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		ObjectAddress *referenced = palloc(sizeof(ObjectAddress));

		ObjectAddressSet(*referenced, form->refclassid, form->refobjid);
		if (object_address_present(referenced, known))
			continue;
		add_exact_object_address(referenced, known);
		*objects = lappend(*objects, referenced);
	}
	systable_endscan(scan);
}

/*
 * Append the rules of a view, which hold the references of its query.
 */
static void
add_rules(Oid view, ObjectAddresses *known, List **objects)
{
	Relation	rewrite = table_open(RewriteRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_rewrite_ev_class, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(view));
	scan = systable_beginscan(rewrite, RewriteRelRulenameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		ObjectAddress *rule = palloc(sizeof(ObjectAddress));

		ObjectAddressSet(*rule, RewriteRelationId, ((Form_pg_rewrite) GETSTRUCT(tuple))->oid);
		if (object_address_present(rule, known))
			continue;
		add_exact_object_address(rule, known);
		*objects = lappend(*objects, rule);
	}
	systable_endscan(scan);
	table_close(rewrite, AccessShareLock);
}

/*
 * Reject a view that depends on a temporary object, directly or through other
 * objects.  The view is visible to this command.  Raises
 * feature_not_supported.
 */
void
sagg_check_lasting(Oid view)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ObjectAddresses *known = new_object_addresses();
	ObjectAddress *first = palloc(sizeof(ObjectAddress));
	List	   *objects;

	ObjectAddressSet(*first, RelationRelationId, view);
	add_exact_object_address(first, known);
	objects = list_make1(first);
	for (int i = 0; i < list_length(objects); i++)
	{
		const ObjectAddress *object = list_nth(objects, i);

		CHECK_FOR_INTERRUPTS();
		if (is_temporary(object))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the query of a stream cannot use temporary objects"),
					 errdetail("It depends on %s, which is dropped when the session ends.",
							   getObjectDescription(object, false))));
		add_referenced(depend, object, known, &objects);
		if (object->classId == RelationRelationId &&
			get_rel_relkind(object->objectId) == RELKIND_VIEW)
			add_rules(object->objectId, known, &objects);
	}
	free_object_addresses(known);
	table_close(depend, AccessShareLock);
}
