/*-------------------------------------------------------------------------
 *
 * properties.h
 *	  Options of servers, user mappings, sources of Kafka and their columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PROPERTIES_H
#define SAGG_PROPERTIES_H

#include "postgres.h"

typedef enum SaggOptionFlags
{
	SAGG_OPT_SERVER = 1 << 0,
	SAGG_OPT_MAPPING = 1 << 1,
	SAGG_OPT_TABLE = 1 << 2,
	SAGG_OPT_COLUMN = 1 << 3,
	SAGG_OPT_SUPERUSER = 1 << 4,	/* only a superuser may set it */
	SAGG_OPT_SECRET = 1 << 5	/* its value never appears in a message */
} SaggOptionFlags;

typedef struct SaggOption
{
	const char *name;			/* name as users write it */
	const char *property;		/* name in librdkafka, NULL = not one of its
								 * properties */
	int			flags;
} SaggOption;

extern const SaggOption *sagg_option_find(const char *name, int object);
extern char *sagg_option_names(int object);
extern void sagg_option_reject(const char *name, int object,
							   const char *object_name);
extern bool sagg_option_of_table(const char *name);
extern void sagg_option_check_name(const char *name);
extern void sagg_option_check_value(const SaggOption *option, const char *value);

#endif							/* SAGG_PROPERTIES_H */
