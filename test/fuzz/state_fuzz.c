/*
 * state_fuzz.c
 *	  Damages a blob of stream_agg.state in a way that its checksum does not tell.
 *
 * The header is src/checkpoint/state_blob.c's: its length and checksum are made
 * to fit.  The entries are bytes here; integers in them are changed to such as
 * lengths, counts and offsets may be, and pieces come from another blob.
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"

#define HEADER_BYTES	56
#define LEN_PLACE		48
#define CRC_PLACE		52

PG_FUNCTION_INFO_V1(fuzz_blob);

static uint64
draw(uint64 *state, uint64 below)
{
	uint64		z = (*state += UINT64CONST(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

/* Put an integer where one may have been. */
static void
put_integer(uint64 *state, char *data, int len)
{
	static const int64 likely[] = {0, 1, 2, 3, 4, 8, 16, 17, 24, 25, 64, 127, 128, 255, 256, 1000, 0x7fff, 0x8000, 0xffff,
		0x10000, 0x7ffffff, 0x7fffffff, 0x80000000, 0xffffffff, PG_INT64_MAX, PG_INT64_MIN, -1, -2, -3};
	static const int sizes[] = {1, 2, 4, 4, 4, 8};
	int			size = sizes[draw(state, lengthof(sizes))];
	int64		value = likely[draw(state, lengthof(likely))];
	int			place;

	if (len < size)
		return;
	place = (int) draw(state, len - size + 1);
	if (draw(state, 3) == 0)
	{
		int64		old = 0;

		memcpy(&old, data + place, size);
		value = old + (int64) draw(state, 9) - 4;
	}
	if (draw(state, 4) == 0)	/* as serialize functions have them */
		value = size == 8 ? (int64) pg_bswap64(value) : size == 4 ? (int64) pg_bswap32((uint32) value) : value;
	memcpy(data + place, &value, size);
}

/* One change; returns the new length. */
static int
damage(uint64 *state, char *data, int len, const char *donor, int donor_len)
{
	int			place = len > 0 ? (int) draw(state, len) : 0;
	int			count;

	switch (draw(state, 10))
	{
		case 0:
			if (len > 0)
				data[place] ^= (char) (1 << draw(state, 8));
			return len;
		case 1:
			if (len > 0)
				data[place] = (char) draw(state, 256);
			return len;
		case 2:					/* cut bytes out, often few */
			count = (int) draw(state, Min(len - place, draw(state, 4) ? 9 : len) + 1);
			count = Min(count, len - place);
			memmove(data + place, data + place + count, len - place - count);
			return len - count;
		case 3:					/* double bytes */
			count = (int) draw(state, Min(len - place, 64) + 1);
			memmove(data + place + count, data + place, len - place);
			return len + count;
		case 4:					/* bytes of another blob */
			if (donor_len > 0 && len > 0)
			{
				int			from = (int) draw(state, donor_len);

				count = (int) draw(state, Min(Min(len - place, donor_len - from), 64) + 1);
				memcpy(data + place, donor + from, count);
			}
			return len;
		default:
			put_integer(state, data, len);
			return len;
	}
}

/*
 * fuzz_blob(blob bytea, donor bytea, seed bigint, n bigint) returns bytea
 */
Datum
fuzz_blob(PG_FUNCTION_ARGS)
{
	bytea	   *blob = PG_GETARG_BYTEA_P(0);
	bytea	   *donor = PG_GETARG_BYTEA_P(1);
	uint64		state = (uint64) PG_GETARG_INT64(2) * 1000003 + (uint64) PG_GETARG_INT64(3);
	int			len = VARSIZE(blob) - VARHDRSZ - HEADER_BYTES;
	bytea	   *result = palloc0(VARSIZE(blob) + 1024);
	char	   *header = VARDATA(result);
	char	   *payload = header + HEADER_BYTES;
	uint32		stored;
	pg_crc32c	crc;

	memcpy(header, VARDATA(blob), HEADER_BYTES + len);
	for (int changes = 1 + (int) draw(&state, 4); changes > 0; changes--)
		len = damage(&state, payload, len, VARDATA(donor) + HEADER_BYTES,
					 VARSIZE(donor) - VARHDRSZ - HEADER_BYTES);
	stored = (uint32) len;
	memcpy(header + LEN_PLACE, &stored, sizeof(stored));
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, CRC_PLACE);
	COMP_CRC32C(crc, payload, len);
	FIN_CRC32C(crc);
	memcpy(header + CRC_PLACE, &crc, sizeof(crc));
	SET_VARSIZE(result, VARHDRSZ + HEADER_BYTES + len);
	PG_RETURN_BYTEA_P(result);
}
