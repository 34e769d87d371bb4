/* What the fuzz targets share: each reads one input and aborts where a law of the core does not hold.
 * Inputs are copied to memory of exactly their size, so that ASan sees a read one byte behind. */
#ifndef CERTAUTH_FUZZ_H
#define CERTAUTH_FUZZ_H

#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not assert(3), which NDEBUG takes away. */
#define LAW(holds)                                                                                 \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "%s:%d: law broken: %s\n", __FILE__, __LINE__, #holds);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Bytes of their own, to be freed. */
static inline span exact(span s) {
    uint8_t *copy = must(malloc(s.len ? s.len : 1));
    if (s.len) memcpy(copy, s.ptr, s.len);
    return span_of(copy, s.len);
}
static inline void release(span s) { free((void *)(uintptr_t)s.ptr); }

/* The text up to the next '\n', which is skipped; false at the end. */
static inline bool next_line(span *rest, span *line) {
    if (rest->len == 0) return false;
    const uint8_t *end = memchr(rest->ptr, '\n', rest->len);
    size_t len = end ? (size_t)(end - rest->ptr) : rest->len;
    *line = span_of(rest->ptr, len);
    *rest = span_skip(*rest, end ? len + 1 : len);
    return true;
}

static inline bool digest_equal(digest a, digest b) {
    return a.lines == b.lines && memcmp(a.sum, b.sum, sizeof a.sum) == 0;
}

#endif
