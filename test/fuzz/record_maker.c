/*
 * record_maker.c
 *	  Random records, see record_maker.h.
 *
 * A record is an object whose field "v" is a value that some type's short way
 * or input function takes, or nearly; then, of every other record, bytes are
 * changed, put in, doubled or cut off.
 */
#include "record_maker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define lengthof(array)		(sizeof(array) / sizeof((array)[0]))
#define PICK(maker, array)	((array)[record_random(maker, lengthof(array))])

static const char *const names[] = {
	"v", "v", "v", "v", "v", "v", "\\u0076", "w", "w", "x", "V", "", "v ", "vv", "vV", "Vv", "\\u0056V",
	"\\\"v", "\xc3\xa4", "\\u00e4", "\\ud83d\\ude00", "a long name, longer than any vector of bytes that is looked at once"
};
static const char *const words[] = {
	"", " ", "a", "abc", "abcdef", "true", "false", "t", "no", "on", "yes", " true ", "null", "NaN", "nan", "Infinity",
	"-infinity", "inf", "epoch", "now", "today", "happy", "sad", "mad", "1", " 12 ", "0x1f", "1_000", "1e3", "1.0", "-0",
	"+5", ".5", "5.", "--1", "2147483648", "-32768", "9223372036854775808", "1e400", "6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab",
	"{6f1b1e3c7e4d4b7e8f2a0123456789ab}", "\\\\x00ff", "\\\\xzz", "a\\\\\\\\b", "\\\\000", "1 day 2 hours", "P1Y2M3DT4H", "-1:02:03",
	"@ 1 year ago", "12:34:56", "24:00:00", "12:34:56.789+02", "{1,2}", "{}", "{{1,2},{3,4}}", "{a,\\\"b c\\\",NULL}", "{1",
	"(1,abc)", "(,)", "127.0.0.1/8", "::1", "[1,5)", "(,5]", "empty", "[5,1]", "Jan 2 2026", "2/1/26", "20260102",
	"2026-01-02 BC", "J2451187", "infinity", "2026-01-02 03:04:05 Europe/Berlin", "04:05 PM", "101", "$1,234.56", "08:00:2b:01:02:03",
	"\\ud83d\\ude00", "\\u00E4\\u20ac", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\\n\\t\\r\\b\\f\\/\\\\\\\"", "\xef\xbf\xbf"
};
static const char *const bad_words[] = {
	"\\u0000", "\\ud83d", "\\ude00\\ud83d", "\\x", "\\u12", "\\", "\\u00g0", "\\ud83d\\u0041", "\\U00e4"
};
static const char *const numbers[] = {
	"0", "-0", "-0.0", "0.0", "0e0", "-0e5", "0e99999", "0e-99999", "1", "-1", "00", "01", "-01", "+1", "1.", ".1", "-", "-.", "1e", "1e+",
	"1E2", "1e+2", "1e-2", "1.0", "1.10", "1.50e1", "15e-1", "32767", "-32768", "32768", "-32769", "2147483647", "-2147483648",
	"2147483648", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809", "999999999999999999",
	"1000000000000000000", "999999999999999999.9", "0.999999999999999999", "0.9999999999999999999", "9007199254740992",
	"9007199254740993", "90071992547409.93", "0.1", "0.3", "2.675", "1.7976931348623157e308", "1.8e308", "5e-324", "1e-400",
	"1e131071", "1e131072", "1e-16383", "1e-16384", "1e1073741822", "1e1073741823", "1e-1073741823", "1e99999999999999999999", "9999.99",
	"9999.994", "9999.995", "99999.9", "-9999.999", "12345.6", "1767323045678", "1767323045678.901", "1767323045678.9015",
	"-1", "-62135596800000", "-210866803200000", "-210866803200001", "9224318015999999", "9224318016000000",
	"253402300799999", "1e12", "NaN", "Infinity", "0x10"
};
static const char *const raw_values[] = {
	"null", "true", "false", "nul", "True", "nulll", "falsetrue", "{}", "[]", "[1,2,3]", "[null]", "[[1,2],[3,4]]", "[[1],[2,3]]", "[\"a\",\"b c\",null]",
	"{\"x\":1,\"y\":\"p\"}", "{\"x\":\"2\"}", "{\"y\":null,\"z\":[]}", "[1,]", "[,]", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{1:2}", "{a:1}",
	"'v'", "[1 2]", "[\"a\"\"b\"]", "[true,false]", "[{\"x\":1,\"y\":\"2\"},null]", "[1.5,\"2\"]", "{\"x\":[1],\"y\":{}}"
};
static const char *const zones[] = {
	"", "", "Z", "Z", "z", "+00", "+01", "-05", "+05:30", "-0330", "+15:59", "+16:00", "-15", "+5", "+05:60", "+05:3", "+053", "+05:30:15", " UTC",
	" +02", " Europe/Berlin", "GMT", "+1:00", "Zulu", "-", "+", "+-1"
};

/* splitmix64 */
uint32_t
record_random(RecordMaker *maker, uint32_t below)
{
	uint64_t	z = (maker->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t) ((z ^ (z >> 31)) % below);
}

static void
reserve(RecordMaker *maker, size_t more)
{
	if (maker->len + more <= maker->capacity)
		return;
	maker->capacity = 2 * (maker->len + more);
	maker->data = (unsigned char *) realloc(maker->data, maker->capacity);
	if (maker->data == NULL)
		abort();
}

static void
put_bytes(RecordMaker *maker, const void *bytes, size_t len)
{
	reserve(maker, len);
	memcpy(maker->data + maker->len, bytes, len);
	maker->len += len;
}

static void
put(RecordMaker *maker, const char *text)
{
	put_bytes(maker, text, strlen(text));
}

static void
put_repeated(RecordMaker *maker, const char *text, size_t times)
{
	while (times-- > 0)
		put(maker, text);
}

static void
put_space(RecordMaker *maker)
{
	static const char *const spaces[] = {" ", "\n", "\t", "\r", "  ", "\f", "\v", "\xc2\xa0", "/**/"};

	if (record_random(maker, 8) == 0)
		put(maker, spaces[record_random(maker, record_random(maker, 10) ? 5 : lengthof(spaces))]);
}

static void
put_digits(RecordMaker *maker, size_t n)
{
	while (n-- > 0)
	{
		char		digit = (char) ('0' + record_random(maker, 10));

		put_bytes(maker, &digit, 1);
	}
}

/* Digits with sign, point and exponent, at lengths where the ways part. */
static void
put_number(RecordMaker *maker)
{
	if (record_random(maker, 4) == 0)
	{
		put(maker, PICK(maker, numbers));
		return;
	}
	if (record_random(maker, 3) == 0)
		put(maker, "-");
	if (record_random(maker, 4) == 0)
		put(maker, "0");
	else
	{
		put_repeated(maker, "9", record_random(maker, 2) * record_random(maker, 3));
		put(maker, PICK(maker, ((const char *const[]) {"1", "2", "5", "9"})));
		put_digits(maker, record_random(maker, record_random(maker, 2) ? 5 : 22));
	}
	if (record_random(maker, 2) == 0)
	{
		put(maker, ".");
		put_digits(maker, 1 + record_random(maker, record_random(maker, 2) ? 4 : 20));
		put_repeated(maker, "0", record_random(maker, 3));
	}
	if (record_random(maker, 5) == 0)
	{
		put(maker, PICK(maker, ((const char *const[]) {"e", "E", "e+", "e-", "E-0"})));
		put_digits(maker, 1 + record_random(maker, record_random(maker, 8) ? 2 : 7));
	}
}

/* A date and perhaps a time, in ISO 8601 or nearly. */
static void
put_time(RecordMaker *maker)
{
	static const int years[] = {0, 1, 2, 1582, 1883, 1900, 1970, 1999, 2000, 2024, 2026, 2100, 9999, 10000, 99999};
	char		text[100];
	int			edge = record_random(maker, 4) == 0;

	snprintf(text, sizeof(text), "%04d-%02d-%02d",
			 record_random(maker, 2) ? PICK(maker, years) : (int) record_random(maker, 3000),
			 edge ? (int) record_random(maker, 15) : 1 + (int) record_random(maker, 12),
			 edge ? (int) record_random(maker, 34) : 1 + (int) record_random(maker, 29));
	put(maker, text);
	if (record_random(maker, 5) == 0)
		return;
	snprintf(text, sizeof(text), "%s%02d:%02d",
			 record_random(maker, 20) ? (record_random(maker, 2) ? "T" : " ") :
			 PICK(maker, ((const char *const[]) {"t", "", "  ", "_", "-"})),
			 (int) record_random(maker, edge ? 27 : 24), (int) record_random(maker, edge ? 63 : 60));
	put(maker, text);
	if (record_random(maker, 12))
	{
		snprintf(text, sizeof(text), ":%02d", (int) record_random(maker, edge ? 63 : 60));
		put(maker, text);
	}
	if (record_random(maker, 2))
	{
		put(maker, record_random(maker, 20) ? "." : ",");
		put_digits(maker, record_random(maker, 9));
	}
	put(maker, PICK(maker, zones));
}

/* Escapes at the edges of what UTF-8, and pairs of surrogates, are made of. */
static void
put_escapes(RecordMaker *maker)
{
	static const unsigned edges[] = {
		0, 1, 0x1f, 0x22, 0x5c, 0x7f, 0x80, 0xe4, 0x7ff, 0x800, 0x20ac, 0xd7ff, 0xd800, 0xd83d, 0xdbff, 0xdc00, 0xde00, 0xdfff,
		0xe000, 0xfffd, 0xffff
	};
	char		text[16];

	for (uint32_t n = 1 + record_random(maker, 2); n > 0; n--)
	{
		int			high = record_random(maker, 2) == 0;

		/* a pair that is one, half of the time */
		if (high)
		{
			snprintf(text, sizeof(text), "\\u%04x", 0xd800 + record_random(maker, 0x400));
			put(maker, text);
		}
		snprintf(text, sizeof(text), record_random(maker, 2) ? "\\u%04x" : "\\u%04X",
				 high && record_random(maker, 4) ? 0xdc00 + record_random(maker, 0x400) :
				 record_random(maker, 3) ? 0x20 + record_random(maker, 0xd000) : PICK(maker, edges));
		put(maker, text);
	}
}

static void
put_string(RecordMaker *maker)
{
	put(maker, "\"");
	switch (record_random(maker, 9))
	{
		case 8:
			put_escapes(maker);
			break;
		case 0:
		case 1:
		case 2:
			put_time(maker);
			break;
		case 3:
			put_number(maker);
			break;
		case 4:
			for (uint32_t n = record_random(maker, 4); n > 0; n--)
				put(maker, PICK(maker, words));
			break;
		case 5:
			put_repeated(maker, PICK(maker, words), record_random(maker, 60));
			if (record_random(maker, 8) == 0)
				put(maker, PICK(maker, bad_words));
			break;
		default:
			put(maker, PICK(maker, words));
			break;
	}
	put(maker, "\"");
}

static void
put_value(RecordMaker *maker, int depth)
{
	uint32_t	kind = record_random(maker, 20);
	uint32_t	n = record_random(maker, 4);

	if (kind < 7)
		put_number(maker);
	else if (kind < 14)
		put_string(maker);
	else if (kind < 17 || depth > 6)
		put(maker, raw_values[record_random(maker, record_random(maker, 4) ? 3 : lengthof(raw_values))]);
	else
	{
		int			object = record_random(maker, 2);

		put(maker, object ? "{" : "[");
		for (uint32_t i = 0; i < n; i++)
		{
			if (i > 0)
				put(maker, ",");
			if (object)
			{
				put(maker, PICK(maker, ((const char *const[]) {"\"x\":", "\"y\" :", "\"v\":", "\"\\u0078\":", "\"X\":"})));
			}
			put_value(maker, depth + 1);
			put_space(maker);
		}
		put(maker, object ? "}" : "]");
	}
}

/* Values that reach limits of the decoder, or of numeric. */
static void
put_extreme(RecordMaker *maker)
{
	size_t		depth = record_random(maker, 4) ? 990 + record_random(maker, 20) : 1 + record_random(maker, 3000);
	size_t		shut = record_random(maker, 10) ? depth : record_random(maker, 1500);
	size_t		places = 16370 + record_random(maker, 30);

	switch (record_random(maker, 7))
	{
		case 0:
			put_repeated(maker, "[", depth);
			put_repeated(maker, "]", shut);
			break;
		case 1:
			put_repeated(maker, "{\"v\":", depth);
			put(maker, "1");
			put_repeated(maker, "}", shut);
			break;
		case 2:
			put(maker, "0.");
			put_repeated(maker, "0", places);
			put(maker, "1");
			break;
		case 3:
			put(maker, "1");
			put_repeated(maker, "0", 131060 + record_random(maker, 20));
			break;
		case 4:
			put(maker, "1.5e-");
			put_digits(maker, 1 + record_random(maker, 6));
			break;
		case 5:
			put(maker, "\"");
			put_repeated(maker, PICK(maker, words), record_random(maker, 3000));
			put(maker, "\"");
			break;
		default:
			/* more than the decoder keeps a buffer for */
			put(maker, "\"");
			put_repeated(maker, "0123456789abcdef", record_random(maker, 5) ? 300 : 70000);
			put(maker, "\"");
			break;
	}
}

static void
put_object(RecordMaker *maker)
{
	uint32_t	n = record_random(maker, 5);

	put_space(maker);
	put(maker, "{");
	for (uint32_t i = 0; i <= n; i++)
	{
		put_space(maker);
		put(maker, "\"");
		put(maker, i == 0 ? "v" : PICK(maker, names));
		put(maker, "\"");
		put_space(maker);
		put(maker, ":");
		put_space(maker);
		if (record_random(maker, 300) == 0)
			put_extreme(maker);
		else
			put_value(maker, 1);
		put_space(maker);
		if (i < n)
			put(maker, ",");
	}
	put(maker, "}");
	put_space(maker);
}

/* ---------- mutations ---------- */

static void
replace(RecordMaker *maker, size_t at, size_t len, const void *bytes, size_t nbytes)
{
	reserve(maker, nbytes);
	memmove(maker->data + at + nbytes, maker->data + at + len, maker->len - at - len);
	memcpy(maker->data + at, bytes, nbytes);
	maker->len += nbytes - len;
}

static void
mutate(RecordMaker *maker)
{
	static const struct
	{
		const char *bytes;
		size_t		len;
	}			inserts[] = {
		{"\0", 1}, {"\x01", 1}, {"\x1f", 1}, {"\x7f", 1}, {"\n", 1}, {"\t", 1}, {"\xef\xbb\xbf", 3}, {"\xff", 1}, {"\x80", 1},
		{"\xc0\xaf", 2}, {"\xed\xa0\x80", 3}, {"\xf4\x90\x80\x80", 4}, {"\xf0\x9f\x98", 3}, {"\xe2\x82", 2}, {"\"", 1}, {"\\", 1}, {"\\u", 2},
		{"\\u0000", 6}, {"\\ud800", 6}, {"\\udc00", 6}, {"{", 1}, {"}", 1}, {"[", 1}, {"]", 1}, {",", 1}, {":", 1}, {"-", 1}, {".", 1}, {"e", 1},
		{"0", 1}, {"9", 1}, {" ", 1}, {"\xc2\x85", 2}, {"\xe2\x80\xa8", 3}, {"null", 4}, {"\"v\":", 4}, {"/", 1}, {"'", 1}
	};
	size_t		at = record_random(maker, (uint32_t) maker->len + 1);
	size_t		rest = maker->len - at;
	size_t		len = rest ? record_random(maker, (uint32_t) (rest < 8 ? rest : 8)) + 1 : 0;
	uint32_t	which = record_random(maker, lengthof(inserts));
	unsigned char copy[64];

	switch (record_random(maker, 8))
	{
		case 0:
			if (rest)
				maker->data[at] ^= (unsigned char) (1 << record_random(maker, 8));
			break;
		case 1:
			if (rest)
				maker->data[at] = (unsigned char) record_random(maker, 256);
			break;
		case 2:
		case 3:
			replace(maker, at, 0, inserts[which].bytes, inserts[which].len);
			break;
		case 4:
			replace(maker, at, len, inserts[which].bytes, inserts[which].len);
			break;
		case 5:
			replace(maker, at, len, "", 0);
			break;
		case 6:
			if (record_random(maker, 4) == 0)
				maker->len = at;
			break;
		default:
			memcpy(copy, maker->data + at, len);
			replace(maker, record_random(maker, (uint32_t) maker->len + 1), 0, copy, len);
			break;
	}
}

/*
 * White space up to a length where something changes: the 64 bytes that vector
 * instructions take at once, a buffer that is just large enough.
 */
static void
pad(RecordMaker *maker)
{
	size_t		length;

	if (record_random(maker, 10) == 0)
		length = (maker->len / 64 + 1) * 64 + record_random(maker, 3) - 1;
	else if (record_random(maker, 200) == 0)
		length = ((size_t) 4096 << record_random(maker, 3)) + record_random(maker, 80) - 72;
	else
		return;
	while (maker->len < length)
		put(maker, " ");
}

/*
 * Makes record n of a seed in maker->data, of maker->len bytes; may be empty.
 * The maker is zero at first; free maker->data at the end.
 */
void
make_record(RecordMaker *maker, uint64_t seed, uint64_t n)
{
	maker->state = seed * UINT64_C(0xd1342543de82ef95) + n * UINT64_C(0x2545f4914f6cdd1d);
	record_random(maker, 2);
	maker->len = 0;
	reserve(maker, 64);
	if (record_random(maker, 25) > 0)
		put_object(maker);
	else
		put_value(maker, 0);
	pad(maker);
	if (record_random(maker, 5) < 2)
	{
		for (uint32_t times = 1 + record_random(maker, 3); times > 0; times--)
			mutate(maker);
	}
}
