/*-------------------------------------------------------------------------
 *
 * jsonb_check.c
 *	  Verifies that bytes are a jsonb.
 *
 * The server has no function for this: jsonb_recv makes a jsonb of a text.
 * The check covers what the server's functions rely on (utils/jsonb.h): that
 * children lie one after the other within their container, that each is what
 * its type says, and that keys are strings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/jsonb.h"

#include "execute/execute_internal.h"

static void check_container(const char *data, Size len, bool root);

pg_noreturn static void corrupt(void);

static void
corrupt(void)
{
	sagg_codec_corrupt("A jsonb is invalid.");
}

static void
check_numeric(const char *data, Size len)
{
	if (len < VARHDRSZ || !VARATT_IS_4B_U(data) || VARSIZE(data) != len)
		corrupt();
	sagg_numeric_check(data + VARHDRSZ, len - VARHDRSZ);
}

/*
 * Verify a child between two offsets from "base", where containers and
 * numerics begin at the next multiple of four.
 */
static void
check_child(JEntry entry, const char *base, uint32 from, uint32 to)
{
	uint32		aligned = INTALIGN(from);

	if (JBE_ISSTRING(entry))
		sagg_text_check(base + from, to - from);
	else if (JBE_ISNUMERIC(entry) || JBE_ISCONTAINER(entry))
	{
		if (aligned > to)
			corrupt();
		if (JBE_ISNUMERIC(entry))
			check_numeric(base + aligned, to - aligned);
		else
			check_container(base + aligned, to - aligned, false);
	}
	else if (!(JBE_ISBOOL(entry) || JBE_ISNULL(entry)) || from != to)
		corrupt();
}

static void
check_container(const char *data, Size len, bool root)
{
	const JsonbContainer *container = (const JsonbContainer *) data;
	const char *base;
	uint32		count;
	uint32		children;
	uint32		from = 0;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (len < sizeof(uint32))
		corrupt();
	count = children = JsonContainerSize(container);
	if (JsonContainerIsObject(container) == JsonContainerIsArray(container) ||
		(JsonContainerIsScalar(container) &&
		 (!root || !JsonContainerIsArray(container) || count != 1)))
		corrupt();
	if (JsonContainerIsObject(container))
		children *= 2;
	if (children > (len - sizeof(uint32)) / sizeof(JEntry))
		corrupt();
	base = (const char *) &container->children[children];
	len -= base - data;
	for (uint32 i = 0; i < children; i++)
	{
		JEntry		entry = container->children[i];
		uint32		to = JBE_OFFLENFLD(entry) + (JBE_HAS_OFF(entry) ? 0 : from);

		if (to < from || to > len ||
			(JsonContainerIsObject(container) && i < count && !JBE_ISSTRING(entry)) ||
			(JsonContainerIsScalar(container) && JBE_ISCONTAINER(entry)))
			corrupt();
		check_child(entry, base, from, to);
		from = to;
	}
	if (from != len)
		corrupt();
}

/*
 * Verify a jsonb, without its varlena header, at an address that is a multiple
 * of four.
 */
void
sagg_jsonb_check(const char *data, Size len)
{
	check_container(data, len, true);
}
