/*-------------------------------------------------------------------------
 *
 * store_audit.c
 *	  Checks whether a store leaks memory.  For libraries built with "make
 *	  FAILPOINTS=1" only.
 *
 * The allocator counts what is allocated in the area, in the dump it writes of
 * itself, so the code under test is not involved.  A walk over the units
 * counts what is reachable.  Never changes a store; the caller makes sure that
 * nobody else does meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "storage/fd.h"
#include "utils/freepage.h"

#include "execute/store/store_internal.h"

/*
 * dsa_dump writes to stderr: redirect that to a file temporarily.
 */
static FILE *
dump_area(dsa_area *area)
{
	FILE	   *file = tmpfile();
	int			save = dup(STDERR_FILENO);

	if (file == NULL || save < 0)
		elog(ERROR, "could not prepare a file for the dump: %m");
	fflush(stderr);
	dup2(fileno(file), STDERR_FILENO);
	dsa_dump(area);
	fflush(stderr);
	dup2(save, STDERR_FILENO);
	close(save);
	rewind(file);
	return file;
}

/*
 * Count the objects in use according to the dump, without the allocator's
 * own.
 */
static void
count_allocated(FILE *dump, SaggStoreAudit * audit)
{
	char		line[256];
	bool		large = false;
	unsigned	size = 0;

	while (fgets(line, sizeof(line), dump))
	{
		char	   *pages = strstr(line, "pages = ");
		unsigned long npages;
		unsigned	nfree;
		unsigned	nmax;

		if (strstr(line, "pool for"))
		{
			char	   *object = strstr(line, "(object size ");

			large = strstr(line, "large object") != NULL;
			size = object ? atoi(object + strlen("(object size ")) : 0;
		}
		else if (strstr(line, "span descriptor") && pages && (large || size > 0))
		{
			if (sscanf(pages, "pages = %lu, objects free = %u/%u", &npages, &nfree, &nmax) != 3)
				elog(ERROR, "could not read the dump: %s", line);
			audit->allocated_objects += large ? 1 : nmax - nfree;
			audit->allocated_bytes += large ? npages * FPM_PAGE_SIZE : (nmax - nfree) * size;
		}
	}
}

static void
count_reachable(SaggStore *store, SaggStoreAudit * audit)
{
	SaggScan	scan;

	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		audit->reachable_objects += store->header->partitions[p].nbuckets > 0 ? 1 : 0;
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		audit->reachable_objects += scan.unit->nslots > 0 ? 2 : 1;
		if (scan.unit->out)
		{
			audit->units_out++;
			continue;
		}
		while (sagg_scan_next(&scan))
		{
			for (dsa_pointer dp = scan.stored.place; DsaPointerIsValid(dp);
				 dp = sagg_version_before(SAGG_VERSION(store, dp)))
				audit->reachable_objects++;
		}
	}
}

/*
 * Inspect the store behind "handle".  Returns false if it does not exist.
 */
bool
sagg_store_audit(dsa_handle handle, SaggStoreAudit * audit)
{
	SaggStore	store = {0};
	FILE	   *dump;

	memset(audit, 0, sizeof(*audit));
	if (handle == DSM_HANDLE_INVALID)
		return false;
	store.segment = dsm_attach(handle);
	if (store.segment == NULL)
		return false;
	store.header = dsm_segment_address(store.segment);
	store.area = dsa_attach_in_place(SAGG_STORE_PLACE(store.segment), store.segment);
	audit->in_batch = store.header->in_batch;
	audit->batch = store.header->batch;
	dump = dump_area(store.area);
	count_allocated(dump, audit);
	fclose(dump);
	count_reachable(&store, audit);
	dsa_detach(store.area);
	dsm_detach(store.segment);
	return true;
}
