/* Distinguished names, tokens and globs as text (name.c, text.c). A part of core.h. */

/* A distinguished name is kept in one encoding everywhere, and two names are the same exactly
 * when these bytes are: for each attribute, in the order of the certificate,
 *     1 where it starts an RDN, else 0 | length of OID | OID (DER content) | u16 length | UTF-8
 * attributes of one RDN being sorted, since X.501 makes an RDN a set. */

/* Reads a name as people write it: RFC 4514 ("CN=alice,OU=eng,O=acme", blanks beside , + and =
 * allowed, "quoted" values, #hex), most specific RDN first; or OpenSSL's /C=…/CN=… , the other
 * way round. Writes the encoding to `out` (NAME_BYTES) and its length to `len`. False with the
 * character named in `why`. */
bool name_parse(span text, uint8_t *out, size_t *len, fault *why);

/* Writes an encoded name as RFC 4514 text, not NUL ended. Returns its length, at most `room`;
 * 0 also where it does not fit. */
size_t name_print(span name, char *out, size_t room);

/* Writes a token of a policy line, quoted as in redis.conf where that is needed. Returns its length,
 * 0 where it does not fit. */
size_t token_print(span value, char *out, size_t room);

/* What SHOW MATCH takes: `*` any characters, `?` one, `\\` the next as it is. All places of the pattern
 * are tried at once, as bits, so a text takes a step for each of its bytes, whatever the pattern. */
enum { GLOB_PLACES = 255, GLOB_WORDS = 4 };
typedef struct {
    size_t places;
    uint64_t takes[256][GLOB_WORDS]; /* by byte: the places that go on with it */
    uint64_t stays[GLOB_WORDS];      /* the places where a star stands */
} glob;
bool glob_read(span pattern, glob *); /* false where it has more places */
bool glob_matches(const glob *, span text);
