/*
 * leaf_fuzz.c
 *	  Feeds random records to the part of the decoder that reads bytes
 *	  (json_leaf.cpp, json_token.cpp), and checks what it promises.  To be built
 *	  with the sanitizers, which see every byte read or written outside.
 *
 *		leaf_fuzz SEED RECORDS [FIRST]
 *
 * Prints how many records were valid, a digest of all verdicts and values, which
 * must not depend on the processor's vector instructions
 * (SIMDJSON_FORCE_IMPLEMENTATION), and how many fields had a name in another case
 * or in several.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/read/format/json_leaf.h"
#include "record_maker.h"

#define MAX_DEPTH		1000
#define NAMES			5
#define PATHS			10
#define SPELLINGS		9
#define CASED			6
#define CROWD			40

static const SaggJsonName names[NAMES] = {
	{"w", 1}, {"v", 1}, {"", 0}, {"\xc3\xa4", 2}, {"\xf0\x9f\x98\x80", 4}
};
/* of fields at the top, and of places deeper in them, some inside of others */
static const SaggJsonPath tops[NAMES] = {
	{&names[0], 1}, {&names[1], 1}, {&names[2], 1}, {&names[3], 1}, {&names[4], 1}
};
static const SaggJsonName vx[] = {{"v", 1}, {"x", 1}, {"y", 1}}, vy[] = {{"v", 1}, {"y", 1}, {"x", 1}},
	v0[] = {{"v", 1}, {"0", 1}, {"0", 1}}, v1x[] = {{"v", 1}, {"1", 1}, {"x", 1}},
	vv[] = {{"v", 1}, {"v", 1}}, wv[] = {{"w", 1}, {"v", 1}}, w0[] = {{"w", 1}, {"0", 1}};
static const SaggJsonPath deep[PATHS] = {
	{vx, 1}, {vx, 2}, {vx, 3}, {vy, 3}, {v0, 2}, {v0, 3}, {v1x, 3}, {vv, 2}, {wv, 2}, {w0, 2}
};
static const SaggJsonPath kinds[2] = {{vx, 1, .kind_only = 1}, {vx, 2}};

/* fields by all their spellings; most of them in any case, and the whole record */
static const SaggJsonName spelling[] = {{"v", 1}, {"V", 1}, {"vv", 2}, {"vV", 2}, {"Vv", 2}, {"VV", 2}, {"X", 1}},
	vX[] = {{"v", 1}, {"X", 1}};
static const SaggJsonPath spelled[SPELLINGS] = {
	{&spelling[0], 1}, {&spelling[1], 1}, {&spelling[2], 1}, {&spelling[3], 1}, {&spelling[4], 1}, {&spelling[5], 1}, {vx, 2}, {vX, 2},
	{&spelling[6], 1}
};
static const SaggJsonPath cased[CASED] = {
	{&spelling[0], 1, .any_case = 1}, {&spelling[3], 1, .any_case = 1}, {&spelling[2], 1, .any_case = 1}, {vx, 2, .any_case = 1},
	{&spelling[6], 1}, {NULL, 0}
};
/* of all but the last: its own spelling, and others, which belong to the first that they fit */
static const struct
{
	int			own;
	int			nothers;
	int			others[2];
}			spellings_of[CASED - 1] = {{0, 1, {1}}, {3, 2, {4, 5}}, {2}, {6, 1, {7}}, {8}};

static uint64_t current_seed;
static uint64_t current_record;
static uint64_t in_other_case;
static uint64_t ambiguous;
static uint64_t digest = UINT64_C(0xcbf29ce484222325);

static void
check(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "leaf_fuzz: record %llu of seed %llu: %s\n",
			(unsigned long long) current_record, (unsigned long long) current_seed, what);
	abort();
}

static void
add_to_digest(const void *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		digest = (digest ^ ((const unsigned char *) bytes)[i]) * UINT64_C(0x100000001b3);
}

/* Is it UTF-8 as RFC 3629 has it? */
static bool
is_utf8(const unsigned char *p, const unsigned char *end)
{
	while (p < end)
	{
		unsigned	c = *p++;
		int			more = c < 0x80 ? 0 : c < 0xc2 ? -1 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf5 ? 3 : -1;

		if (more < 0 || end - p < more)
			return false;
		if ((c == 0xe0 && p[0] < 0xa0) || (c == 0xed && p[0] > 0x9f) ||
			(c == 0xf0 && p[0] < 0x90) || (c == 0xf4 && p[0] > 0x8f))
			return false;
		for (; more > 0; more--)
			if ((*p++ & 0xc0) != 0x80)
				return false;
	}
	return true;
}

static void
check_value(const SaggFieldValue *value, size_t record_len)
{
	const char *text = value->text;

	if (value->kind == SAGG_FIELD_MISSING || value->kind == SAGG_FIELD_AMBIGUOUS)
	{
		check(text == NULL && value->len == 0, "a missing field has a text");
		return;
	}
	check(text != NULL, "a field has no text");
	check(value->len <= record_len, "a field is longer than its record");
	check(text[value->len] == '\0', "a field does not end with a NUL");
	check(strlen(text) == value->len, "a field has a NUL inside");
	check(is_utf8((const unsigned char *) text, (const unsigned char *) text + value->len), "a field is not UTF-8");
	switch (value->kind)
	{
		case SAGG_FIELD_NULL:
			check(strcmp(text, "null") == 0, "null is not null");
			break;
		case SAGG_FIELD_TRUE:
			check(strcmp(text, "true") == 0, "true is not true");
			break;
		case SAGG_FIELD_FALSE:
			check(strcmp(text, "false") == 0, "false is not false");
			break;
		case SAGG_FIELD_NUMBER:
			check(value->len > 0 && strspn(text, "0123456789+-.eE") == value->len, "a number is none");
			break;
		case SAGG_FIELD_ARRAY:
			check(value->len >= 2 && text[0] == '[' && text[value->len - 1] == ']', "an array is none");
			break;
		case SAGG_FIELD_OBJECT:
			check(value->len >= 2 && text[0] == '{' && text[value->len - 1] == '}', "an object is none");
			break;
		default:
			check(value->kind == SAGG_FIELD_STRING, "a field has no kind");
	}
}

static bool
same_value(const SaggFieldValue *a, const SaggFieldValue *b)
{
	return a->kind == b->kind && a->len == b->len && (a->len == 0 || memcmp(a->text, b->text, a->len) == 0);
}

/* Values of "cased" are those of "spelled" that are meant, and the last one is the record. */
static void
check_cases(const SaggFieldValue *values, const SaggFieldValue *spelled_values, const RecordMaker *maker)
{
	static const SaggFieldValue missing;
	const char *record = (const char *) maker->data;
	const SaggFieldValue *whole = &values[CASED - 1];
	size_t		start = 0;
	size_t		end = maker->len;

	for (int i = 0; i < CASED - 1; i++)
	{
		const SaggFieldValue *meant = &spelled_values[spellings_of[i].own];
		bool		own = meant->kind != SAGG_FIELD_MISSING;
		int			nfound = 0;

		check_value(&values[i], maker->len);
		for (int j = 0; j < spellings_of[i].nothers; j++)
		{
			const SaggFieldValue *other = &spelled_values[spellings_of[i].others[j]];

			if (other->kind == SAGG_FIELD_MISSING)
				continue;
			nfound++;
			if (!own)
				meant = other;
		}
		if (!own && nfound > 1)
			check(values[i].kind == SAGG_FIELD_AMBIGUOUS, "a field of several names is not ambiguous");
		else
			check(same_value(&values[i], own || nfound > 0 ? meant : &missing), "a field in any case is another one");
		in_other_case += !own && nfound == 1;
		ambiguous += !own && nfound > 1;
	}
	while (strchr(" \n\r\t", record[start]))
		start++;
	while (strchr(" \n\r\t", record[end - 1]))
		end--;
	check_value(whole, maker->len);
	check(whole->kind == SAGG_FIELD_OBJECT && whole->len == end - start &&
		  memcmp(whole->text, record + start, whole->len) == 0, "the whole record is another one");
}

/* A leaf for "cased" among so many names that they are found by hash. */
static SaggJsonLeaf *
make_crowd(void)
{
	char		texts[CROWD][2];
	SaggJsonName others[CROWD];
	SaggJsonPath paths[CASED + CROWD];

	memcpy(paths, cased, sizeof(cased));
	for (int i = 0; i < CROWD; i++)
	{
		texts[i][0] = 'a' + i % 20;
		texts[i][1] = 'a' + i / 20;
		others[i] = (SaggJsonName) {texts[i], 2};
		paths[CASED + i] = (SaggJsonPath) {&others[i], 1, .any_case = i % 3 > 0};
	}
	return sagg_json_leaf_make(paths, CASED + CROWD, MAX_DEPTH);
}

/*
 * Parses a copy of the record that ends where its memory ends, so that reading
 * behind it is seen.
 */
static SaggJsonResult
parse(SaggJsonLeaf *leaf, const RecordMaker *maker, SaggFieldValue *values, SaggJsonError *error)
{
	char	   *copy = malloc(maker->len > 0 ? maker->len : 1);
	SaggJsonResult result;

	memcpy(copy, maker->data, maker->len);
	result = sagg_json_leaf_parse(leaf, copy, maker->len, values, error, NULL);
	free(copy);
	check(result != SAGG_JSON_NO_MEMORY, "no memory");
	if (result == SAGG_JSON_INVALID)
	{
		check(error->reason != NULL && error->reason[0] != '\0', "invalid without a reason");
		check(!error->has_position || error->position < maker->len, "the error is behind the record");
	}
	return result;
}

int
main(int argc, char **argv)
{
	SaggJsonLeaf *leaf = sagg_json_leaf_make(tops, NAMES, MAX_DEPTH);
	SaggJsonLeaf *one = sagg_json_leaf_make(&tops[1], 1, MAX_DEPTH);
	SaggJsonLeaf *deeper = sagg_json_leaf_make(deep, PATHS, MAX_DEPTH);
	SaggJsonLeaf *kind = sagg_json_leaf_make(kinds, 2, MAX_DEPTH);
	SaggJsonLeaf *none = sagg_json_leaf_make(NULL, 0, MAX_DEPTH);
	SaggJsonLeaf *by_spelling = sagg_json_leaf_make(spelled, SPELLINGS, MAX_DEPTH);
	SaggJsonLeaf *in_any_case = sagg_json_leaf_make(cased, CASED, MAX_DEPTH);
	SaggJsonLeaf *crowd = make_crowd();
	RecordMaker maker = {0};
	uint64_t	records;
	uint64_t	first;
	uint64_t	valid = 0;

	if (argc < 3 || !leaf || !one || !none || !deeper || !kind || !by_spelling || !in_any_case || !crowd)
		return 2;
	current_seed = strtoull(argv[1], NULL, 10);
	records = strtoull(argv[2], NULL, 10);
	first = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
	for (current_record = first; current_record < first + records; current_record++)
	{
		SaggFieldValue values[NAMES];
		SaggFieldValue inner[PATHS];
		SaggFieldValue part[2];
		SaggFieldValue spelled_values[SPELLINGS];
		SaggFieldValue cased_values[CASED];
		SaggFieldValue crowd_values[CASED + CROWD];
		SaggFieldValue value;
		SaggJsonError error;
		SaggJsonResult result;

		make_record(&maker, current_seed, current_record);
		result = parse(leaf, &maker, values, &error);
		check(parse(none, &maker, NULL, &error) == result, "validity depends on the fields wanted");
		check(parse(one, &maker, &value, &error) == result, "validity depends on the fields wanted");
		check(parse(deeper, &maker, inner, &error) == result, "validity depends on the paths wanted");
		check(parse(kind, &maker, part, &error) == result, "validity depends on the paths wanted");
		check(parse(by_spelling, &maker, spelled_values, &error) == result, "validity depends on the names wanted");
		check(parse(in_any_case, &maker, cased_values, &error) == result, "validity depends on the case of names");
		check(parse(crowd, &maker, crowd_values, &error) == result, "validity depends on how many names are wanted");
		add_to_digest(&result, sizeof(result));
		if (result != SAGG_JSON_OK)
			continue;
		valid++;
		check_value(&value, maker.len);
		for (int i = 0; i < NAMES; i++)
		{
			check_value(&values[i], maker.len);
			add_to_digest(&values[i].kind, sizeof(values[i].kind));
			add_to_digest(values[i].text, values[i].len);
		}
		check(same_value(&value, &values[1]), "a value depends on the fields wanted");
		for (int i = 0; i < PATHS; i++)
		{
			check_value(&inner[i], maker.len);
			add_to_digest(&inner[i].kind, sizeof(inner[i].kind));
			add_to_digest(inner[i].text, inner[i].len);
		}
		check(same_value(&value, &inner[0]), "a value depends on the paths inside it");
		check(part[0].kind == value.kind, "a kind is another one");
		check(same_value(&part[1], &inner[1]), "a value depends on the paths wanted");
		for (int i = 0; i < CASED; i++)
			add_to_digest(&cased_values[i].kind, sizeof(cased_values[i].kind));
		check_cases(cased_values, spelled_values, &maker);
		check_cases(crowd_values, spelled_values, &maker);
	}
	free(maker.data);
	sagg_json_leaf_free(leaf);
	sagg_json_leaf_free(one);
	sagg_json_leaf_free(none);
	sagg_json_leaf_free(deeper);
	sagg_json_leaf_free(kind);
	sagg_json_leaf_free(by_spelling);
	sagg_json_leaf_free(in_any_case);
	sagg_json_leaf_free(crowd);
	printf("%llu records of seed %llu from %llu on: %llu valid, digest %016llx, %llu fields in another case, %llu ambiguous\n",
		   (unsigned long long) records, (unsigned long long) current_seed, (unsigned long long) first,
		   (unsigned long long) valid, (unsigned long long) digest,
		   (unsigned long long) in_other_case, (unsigned long long) ambiguous);
	return 0;
}
