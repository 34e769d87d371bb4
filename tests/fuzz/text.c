/* Distinguished names, tokens and strings of ASN.1: what is read, printed and read again is the same. */
#include "fuzz.h"

enum {
    PRINTED_BYTES = 5 * NAME_BYTES
}; /* a dotted type of 255 arcs and a value that is all escaped */

/* Prints into as many bytes as there are, and into one less, which must not do. */
static void check_room(span name, span printed) {
    char *out = must(malloc(printed.len));
    LAW(name_print(name, out, printed.len) == printed.len);
    LAW(memcmp(out, printed.ptr, printed.len) == 0);
    free(out);
    out = must(malloc(printed.len));
    LAW(name_print(name, out, printed.len - 1) == 0);
    free(out);
}

static void check_reversed(span name) {
    uint8_t once[NAME_BYTES], twice[NAME_BYTES];
    LAW(name_reverse(name, once));
    LAW(name_reverse(span_of(once, name.len), twice));
    LAW(span_equal(name, span_of(twice, name.len)));
}

static void check_name(span text) {
    uint8_t first[NAME_BYTES], second[NAME_BYTES];
    char printed[PRINTED_BYTES];
    size_t len = 0, again = 0;
    fault why;
    if (!name_parse(text, first, &len, &why)) {
        LAW(memchr(why.text, 0, sizeof why.text) && why.text[0]);
        return;
    }
    span name = exact(span_of(first, len));
    size_t size = name_print(name, printed, sizeof printed);
    span shown = exact(span_of(printed, size));
    LAW(size > 0 && text_clean(shown));
    LAW(name_parse(shown, second, &again, &why));
    LAW(span_equal(name, span_of(second, again)));
    check_room(name, shown);
    check_reversed(name);
    release(shown);
    release(name);
}

static void check_token(span value) {
    size_t room = 4 * value.len + 2, len = 0;
    char *out = must(malloc(room));
    uint8_t *back = must(malloc(room));
    size_t size = token_print(value, out, room);
    LAW(size > 0);
    span line = exact(span_of(out, size)), rest = line;
    LAW(token_read(&rest, back, &len) == TOKEN_READ);
    LAW(span_equal(value, span_of(back, len)) && rest.len == 0);
    release(line);
    free(back);
    free(out);
}

/* All tokens of a line: each is no longer than the text it was read from. */
static void check_tokens(span line) {
    uint8_t *out = must(malloc(line.len + 1));
    for (size_t len = 0, before = line.len; token_read(&line, out, &len) == TOKEN_READ;
         before = line.len)
        LAW(len <= before && line.len < before);
    free(out);
}

/* What ASN.1 says in any type is clean text, or is refused. */
static void check_string(span content) {
    for (int tag = 0; tag < 32; tag++) {
        uint8_t bytes[NAME_BYTES];
        writer out = {bytes, 0, sizeof bytes, false};
        if (put_asn1_text(&out, tag, content) == content.len && !out.full)
            LAW(text_clean(span_of(bytes, out.len)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    span input = exact(span_of(data, size));
    uint8_t hash[HASH_BYTES];
    check_name(input);
    check_token(input);
    check_tokens(input);
    check_string(input);
    (void)hex_parse(input, hash, sizeof hash);
    release(input);
    return 0;
}
