/* Lines that a person may have meant: by values that are one but for case and blanks, and subjects by
 * their CN. For explain alone; no decision is made here. */
#include "internal.h"

#include <stdlib.h>

enum { TWINS = 64 }; /* lines of one hash that are kept: as many are looked at */

/* ---- Folding ---- */

/* Without blanks, a no-break space being one, and ASCII in lower case. */
static void put_folded(writer *w, span value) {
    for (size_t i = 0; i < value.len; i++) {
        uint8_t c = value.ptr[i];
        bool wide = c == 0xc2 && i + 1 < value.len && value.ptr[i + 1] == 0xa0;
        if (wide) i++;
        else if (c != ' ') put_byte(w, c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    }
}

static uint64_t hash_folded(int kind, span oid, span value) {
    uint8_t bytes[2 * NAME_BYTES], out[KEY_BYTES];
    writer w = {bytes, 0, sizeof bytes, false};
    uint64_t hash;
    put_byte(&w, (uint8_t)kind);
    put_u16(&w, oid.len);
    put_span(&w, oid);
    put_folded(&w, value);
    lookup_key(span_of(bytes, w.len), out);
    memcpy(&hash, out, sizeof hash);
    return hash | 1; /* 0: none */
}

uint64_t near_subject(span name) {
    uint64_t sum = 0;
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) sum += hash_folded(BIND_SUBJECT, a.oid, a.value);
    return sum | 1;
}

/* Of a list of attributes, that which says most: its CN, or the last one. */
static attribute telling(span name) {
    attribute a = {0}, found = {0};
    for (size_t at = 0; name_next(name, &at, &a);) {
        if (!span_equal(found.oid, OID_CN)) found = a;
    }
    return found;
}

uint64_t near_hash(bind_kind kind, span value) {
    const span none = {0};
    attribute one;
    span cn;
    switch (kind) {
    case BIND_SUBJECT:
        return name_common_names(value, &cn) ? near_hash(BIND_CN, cn) : near_subject(value);
    case BIND_CN:
    case BIND_URI:
    case BIND_DNS:
    case BIND_EMAIL:
    case BIND_UPN: return hash_folded((int)kind, none, value);
    case BIND_ATTRIBUTE:
    case BIND_EXTENSION:
    case BIND_ATTRIBUTES: one = telling(value); return hash_folded((int)kind, one.oid, one.value);
    default: return 0;
    }
}

/* ---- The index ---- */

static uint32_t *head_of(const near_lines *n, uint64_t hash) {
    return &n->heads[(hash >> 1) & (n->room - 1)];
}

static void link_entry(near_lines *n, size_t index) {
    uint32_t *head = head_of(n, n->entries[index].line->near);
    n->entries[index].next = *head;
    *head = (uint32_t)index + 1;
}

static void grow(near_lines *n) {
    n->room = n->room ? n->room * 2 : 8;
    n->entries = must(realloc(n->entries, n->room * sizeof *n->entries));
    free(n->heads);
    n->heads = must(calloc(n->room, sizeof *n->heads));
    for (size_t i = 0; i < n->count; i++) link_entry(n, i);
}

/* What points to the entry of the line; NULL: it is not there. */
static uint32_t *link_of(const near_lines *n, const rule *line) {
    uint32_t *link = n->count ? head_of(n, line->near) : NULL;
    while (link && *link && n->entries[*link - 1].line != line) link = &n->entries[*link - 1].next;
    return link && *link ? link : NULL;
}

void near_add(near_lines *n, const rule *line) {
    size_t twins = 0;
    if (line->near == 0) return;
    for (uint32_t at = 0; near_next(n, line->near, &at);) twins++;
    if (twins >= TWINS) return;
    if (n->count == n->room) grow(n);
    n->entries[n->count++].line = line;
    link_entry(n, n->count - 1);
}

/* The last entry moves to the place that becomes free. */
void near_remove(near_lines *n, const rule *line) {
    uint32_t *link = line->near ? link_of(n, line) : NULL;
    if (link == NULL) return;
    uint32_t hole = *link, last = (uint32_t)n->count;
    *link = n->entries[hole - 1].next;
    if (hole != last) {
        *link_of(n, n->entries[last - 1].line) = hole;
        n->entries[hole - 1] = n->entries[last - 1];
    }
    n->count--;
}

const rule *near_next(const near_lines *n, uint64_t hash, uint32_t *at) {
    *at = *at ? n->entries[*at - 1].next : n->count ? *head_of(n, hash) : 0;
    while (*at && n->entries[*at - 1].line->near != hash) *at = n->entries[*at - 1].next;
    return *at ? n->entries[*at - 1].line : NULL;
}

void near_free(near_lines *n) {
    free(n->entries);
    free(n->heads);
}
