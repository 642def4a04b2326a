/*-------------------------------------------------------------------------
 *
 * numeric_form.h
 *	  The stored form of a numeric, see the server's numeric.c.  It is fixed,
 *	  because pg_upgrade keeps data files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_NUMERIC_FORM_H
#define SAGG_NUMERIC_FORM_H

/* its header, 16 bits */
#define SIGN_MASK			0xC000
#define SIGN_NEGATIVE		0x4000
#define SIGN_SHORT			0x8000
#define SIGN_SPECIAL		0xC000
#define DSCALE_MASK			0x3FFF
#define SHORT_NEGATIVE		0x2000
#define SHORT_DSCALE_MASK	0x1F80
#define SHORT_DSCALE_SHIFT	7
#define SHORT_WEIGHT_SIGN	0x0040
#define SHORT_WEIGHT_MASK	0x003F

/* What precedes the digits of a number. */
typedef struct NumericHead
{
	bool		negative;
	int			scale;
	int			weight;			/* of the first digit */
} NumericHead;

/*
 * Read the header of "data", which is not a special value.  Returns where the
 * digits begin, an int16 each.
 */
static inline const char *
read_numeric_head(const char *data, uint16 header, NumericHead *head)
{
	data += sizeof(header);
	if (header & SIGN_SHORT)
	{
		head->scale = (header & SHORT_DSCALE_MASK) >> SHORT_DSCALE_SHIFT;
		head->weight = header & SHORT_WEIGHT_MASK;
		if (header & SHORT_WEIGHT_SIGN)
			head->weight |= ~SHORT_WEIGHT_MASK;
		head->negative = (header & SHORT_NEGATIVE) != 0;
	}
	else
	{
		int16		stored;

		memcpy(&stored, data, sizeof(stored));
		data += sizeof(stored);
		head->scale = header & DSCALE_MASK;
		head->weight = stored;
		head->negative = (header & SIGN_MASK) == SIGN_NEGATIVE;
	}
	return data;
}

#endif							/* SAGG_NUMERIC_FORM_H */
