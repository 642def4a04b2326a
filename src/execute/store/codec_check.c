/*-------------------------------------------------------------------------
 *
 * codec_check.c
 *	  Verifies that bytes are a value of a type.
 *
 * All bytes that come from the state log are verified, because anybody can
 * compute a correct checksum.  A receive function verifies its own input.
 * What is stored without conversion (codec.c) is verified here, so that
 * functions of the type never see bytes that none of them has made.
 *
 * Nothing here reads beyond the bytes, or follows an offset in them before
 * checking that it is within them.  Errors are
 * ERRCODE_SAGG_CHECKPOINT_CORRUPT, or what a receive function raises.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/inet.h"

#include "execute/execute_internal.h"

/* the stored form of a numeric, see numeric.c */
#define SIGN_MASK			0xC000
#define SIGN_SPECIAL		0xC000
#define SIGN_SHORT			0x8000
#define SPECIAL_NAN			0xC000
#define SPECIAL_PINF		0xD000
#define SPECIAL_NINF		0xF000
#define DIGIT_BASE			10000
#define MAX_DIGITS			((131072 + 16383) / 4 + 2)

static void check_value(SaggCodec *codec, Datum value);

/*
 * Verify a text.
 */
void
sagg_text_check(const char *data, Size len)
{
	if (!pg_verify_mbstr(GetDatabaseEncoding(), data, (int) len, true))
		sagg_codec_corrupt("A text is not in the encoding of the database.");
}

/*
 * Verify a numeric, without its varlena header.
 */
void
sagg_numeric_check(const char *data, Size len)
{
	uint16		header;
	Size		head;
	Size		ndigits;

	if (len < sizeof(header))
		sagg_codec_corrupt("A numeric is too short.");
	memcpy(&header, data, sizeof(header));
	if ((header & SIGN_MASK) == SIGN_SPECIAL)
	{
		if (len != sizeof(header) ||
			(header != SPECIAL_NAN && header != SPECIAL_PINF && header != SPECIAL_NINF))
			sagg_codec_corrupt("A numeric has an invalid header.");
		return;
	}
	head = (header & SIGN_SHORT) ? sizeof(header) : sizeof(header) + sizeof(int16);
	if (len < head || (len - head) % sizeof(int16) != 0)
		sagg_codec_corrupt("A numeric has the wrong length.");
	ndigits = (len - head) / sizeof(int16);
	if (ndigits > MAX_DIGITS)
		sagg_codec_corrupt("A numeric has too many digits.");
	for (Size i = 0; i < ndigits; i++)
	{
		int16		digit;

		memcpy(&digit, data + head + i * sizeof(int16), sizeof(digit));
		if (digit < 0 || digit >= DIGIT_BASE)
			sagg_codec_corrupt("A numeric has an invalid digit.");
	}
}

static void
check_name(const NameData *name)
{
	Size		len = strnlen(NameStr(*name), NAMEDATALEN);

	if (len == NAMEDATALEN)
		sagg_codec_corrupt("A name has no end.");
	sagg_text_check(NameStr(*name), len);
}

static void
check_inet(const char *data, Size len)
{
	const inet_struct *inet = (const inet_struct *) data;
	Size		head = offsetof(inet_struct, ipaddr);

	if (len == head + 4 && inet->family == PGSQL_AF_INET && inet->bits <= 32)
		return;
	if (len == head + 16 && inet->family == PGSQL_AF_INET6 && inet->bits <= 128)
		return;
	sagg_codec_corrupt("A network address is invalid.");
}

/*
 * Returns the value at "p", within an array that ends at "end"; sets "after".
 */
static Datum
element_at(const SaggCodec *element, char *p, char *end, char **after)
{
	Size		len = (Size) element->len;

	/* alignment may have led beyond the end */
	if (p >= end)
		sagg_codec_corrupt("An element of an array is missing.");
	if (element->len < 0)
	{
		if (VARATT_IS_1B_E(p) ||
			(!VARATT_IS_1B(p) && (end - p < VARHDRSZ || !VARATT_IS_4B_U(p))))
			sagg_codec_corrupt("An element of an array has no valid header.");
		len = VARSIZE_ANY(p);
		if (!VARATT_IS_1B(p) && len < VARHDRSZ)
			sagg_codec_corrupt("An element of an array has no valid length.");
	}
	if (len > (Size) (end - p))
		sagg_codec_corrupt("An element of an array ends too late.");
	*after = p + len;
	return fetch_att(p, element->byval, element->len);
}

static void
check_elements(SaggCodec *element, ArrayType *array, int nitems)
{
	bits8	   *nulls = ARR_NULLBITMAP(array);
	char	   *start = (char *) array;
	char	   *end = start + ARR_SIZE(array);
	char	   *p = ARR_DATA_PTR(array);

	for (int i = 0; i < nitems; i++)
	{
		if (nulls && !(nulls[i / 8] & (1 << (i % 8))))
			continue;
		check_value(element, element_at(element, p, end, &p));
		p = start + att_align_nominal(p - start, element->align);
	}
	if (p != end)
		sagg_codec_corrupt("An array has the wrong length.");
}

static void
check_array(SaggCodec *codec, ArrayType *array)
{
	Size		size = VARSIZE(array);
	int			ndim;
	int			nitems;
	Size		offset;

	if (size < sizeof(ArrayType))
		sagg_codec_corrupt("An array is too short.");
	ndim = ARR_NDIM(array);
	if (ndim < 0 || ndim > MAXDIM || size < ARR_OVERHEAD_NONULLS(ndim) ||
		ARR_ELEMTYPE(array) != codec->element->type)
		sagg_codec_corrupt("An array has no valid header.");
	nitems = ArrayGetNItems(ndim, ARR_DIMS(array));
	ArrayCheckBounds(ndim, ARR_DIMS(array), ARR_LBOUND(array));
	offset = ARR_HASNULL(array) ? ARR_OVERHEAD_WITHNULLS(ndim, nitems) : ARR_OVERHEAD_NONULLS(ndim);
	if (size < offset || (ARR_HASNULL(array) && (Size) array->dataoffset != offset))
		sagg_codec_corrupt("An array has no valid header.");
	check_elements(codec->element, array, nitems);
}

/*
 * Verify a value that the receive function would also accept.
 */
static void
check_received(SaggCodec *codec, Datum value)
{
	bytea	   *sent = sagg_codec_send(codec, value);

	(void) sagg_codec_receive(codec, VARDATA(sent), VARSIZE(sent) - VARHDRSZ);
}

/*
 * Verify a value of which only the place is known: it is aligned, and has the
 * length that it says.
 */
static void
check_value(SaggCodec *codec, Datum value)
{
	void	   *pointer = DatumGetPointer(value);

	switch (codec->kind)
	{
		case SAGG_RAW_NONE:
		case SAGG_RAW_ANY:
			break;
		case SAGG_RAW_BOOL:
			if (value > 1)
				sagg_codec_corrupt("A boolean is neither true nor false.");
			break;
		case SAGG_RAW_NAME:
			check_name(pointer);
			break;
		case SAGG_RAW_RECEIVED:
			check_received(codec, value);
			break;
		case SAGG_RAW_TEXT:
			sagg_text_check(VARDATA_ANY(pointer), VARSIZE_ANY_EXHDR(pointer));
			break;
		case SAGG_RAW_JSON:
			(void) sagg_codec_receive(codec, VARDATA_ANY(pointer), VARSIZE_ANY_EXHDR(pointer));
			break;
		case SAGG_RAW_NUMERIC:
			sagg_numeric_check(VARDATA_ANY(pointer), VARSIZE_ANY_EXHDR(pointer));
			break;
		case SAGG_RAW_INET:
			check_inet(VARDATA_ANY(pointer), VARSIZE_ANY_EXHDR(pointer));
			break;
		case SAGG_RAW_JSONB:
			if (VARATT_IS_SHORT(pointer))
				pointer = PG_DETOAST_DATUM(value);
			sagg_jsonb_check(VARDATA(pointer), VARSIZE(pointer) - VARHDRSZ);
			break;
		case SAGG_RAW_ARRAY:
			check_array(codec, pointer);
			break;
	}
}

/*
 * Verify that "len" bytes are a value.  Allocates in the current context.
 */
void
sagg_codec_check(SaggCodec *codec, const char *data, Size len)
{
	if (codec->record)
		sagg_record_check(codec, data, len);
	else if (codec->raw)
		check_value(codec, sagg_codec_read(codec, data, len));
	else
	{
		if (codec->text)
			sagg_text_check(data, len);
		(void) sagg_codec_read(codec, data, len);
	}
}
