/*-------------------------------------------------------------------------
 *
 * record_times.c
 *	  Checks the text of a date or time in a record before an input function of
 *	  the server reads it.
 *
 * Two kinds of text are valid for the server and are not for a record:
 *
 * - Words for the time of the clock, such as "now": a record means the same
 *	 whenever it is read.
 * - Time zones that are made up, as POSIX describes them: "abc+1".  The server
 *	 keeps 24 kB for each name until the process ends.  Zones by their names in
 *	 the time zone database are not so many, and others are bounded by
 *	 known_zone.
 *
 * The check must never accept less of a text than the server would read of it:
 * the server's own function takes it apart.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/datetime.h"

#include "record_datum.h"

/*
 * Returns whether a zone in lower case, which has digits in its name, is one
 * that records may have: the names of the time zone database that look as if
 * they were made up, and UTC and GMT with a sign, an hour and quarters.  So
 * there are about a thousand.
 */
static bool
known_zone(const char *zone)
{
	static const char *const names[] = {"est5edt", "cst6cdt", "mst7mdt", "pst8pdt"};
	static const char *const minutes[] = {"", ":00", ":15", ":30", ":45"};
	int			hour;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(zone, names[i]) == 0)
			return true;
	}
	if (strncmp(zone, "etc/", 4) == 0)
		zone += 4;
	if (strncmp(zone, "gmt", 3) != 0 && strncmp(zone, "utc", 3) != 0)
		return false;
	zone += 3;
	if (strcmp(zone, "0") == 0)
		return true;
	if ((*zone != '+' && *zone != '-') || !isdigit((unsigned char) zone[1]))
		return false;
	hour = *++zone - '0';
	if (isdigit((unsigned char) *++zone))
		hour = hour * 10 + (*zone++ - '0');
	for (int i = 0; i < lengthof(minutes); i++)
	{
		if (strcmp(zone, minutes[i]) == 0)
			return hour <= MAX_TZDISP_HOUR;
	}
	return false;
}

/*
 * Returns whether a text is letters and two numbers, such as jan-08-1999, with
 * a minus before each, which is not how a time zone can be made up.
 */
static bool
is_date_by_name(const char *string)
{
	while (isalpha((unsigned char) *string))
		string++;
	for (int i = 0; i < 2; i++)
	{
		if (*string++ != '-' || !isdigit((unsigned char) *string))
			return false;
		while (isdigit((unsigned char) *string))
			string++;
	}
	return *string == '\0';
}

/*
 * Raises an error if a text, or a part of one, has a word or time zone that
 * records may not have.  With "dated" it is all of the text of a date, which
 * may begin with the name of a month.
 */
void
sagg_time_check(const char *string, bool dated)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
	char		buffer[MAXDATELEN + MAXDATEFIELDS];
	char	   *fields[MAXDATEFIELDS];
	int			types[MAXDATEFIELDS];
	int			n;

	/* then the server does not read on either */
	if (ParseDateTime(string, buffer, sizeof(buffer), fields, types, MAXDATEFIELDS, &n) != 0)
		return;
	for (int i = 0; i < n; i++)
	{
		const char *word = fields[i] + (*fields[i] == '+' || *fields[i] == '-');

		for (int j = 0; j < lengthof(words); j++)
		{
			if (strcmp(word, words[j]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
						 errmsg("\"%s\" in a record is not a date or time", words[j])));
		}
		if (types[i] == DTK_DATE && isalpha((unsigned char) *word) &&
			strpbrk(word, "0123456789") && !(dated && i == 0) &&
			!is_date_by_name(word) && !known_zone(word))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
					 errmsg("\"%s\" in a record is not a time zone", word)));
	}
}
