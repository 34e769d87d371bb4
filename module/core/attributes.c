/* `bind attributes` lines: part of a subject, whatever else it has. A line is found by its attributes as
 * any other by its value; which lists of attributes are looked up is said by the shapes, the lists of types
 * that the lines have, of which there are few. */
#include "policy.h"

#include <stdlib.h>

/* ---- One order ---- */

/* An attribute as it stands in an encoded name, behind the mark of the start of an RDN. */
static span piece_of(span name, size_t start, size_t end) {
    return span_of(name.ptr + start + 1, end - start - 1);
}

static span type_of(span piece) { return span_of(piece.ptr + 1, piece.ptr[0]); }

/* The different attributes of a name that are clean text, sorted: those of one type stand together. */
typedef struct {
    span of[NAME_ATTRIBUTES];
    size_t count;
} pieces;

static void insert_piece(pieces *p, span piece) {
    size_t at = p->count;
    while (at && span_compare(piece, p->of[at - 1]) < 0) at--;
    if (p->count == NAME_ATTRIBUTES || (at && span_equal(piece, p->of[at - 1]))) return;
    memmove(p->of + at + 1, p->of + at, (p->count++ - at) * sizeof *p->of);
    p->of[at] = piece;
}

/* Returns how many attributes the name has. */
static size_t read_pieces(span name, pieces *out) {
    size_t total = 0;
    attribute a;
    out->count = 0;
    for (size_t start = 0, end = 0; name_next(name, &end, &a); start = end, total++) {
        if (a.value.len) insert_piece(out, piece_of(name, start, end));
    }
    return total;
}

bool attributes_sort(span name, uint8_t out[NAME_BYTES]) {
    pieces sorted;
    writer w = {out, 0, NAME_BYTES, false};
    if (read_pieces(name, &sorted) != sorted.count) return false;
    for (size_t i = 0; i < sorted.count; i++) {
        put_byte(&w, 1);
        put_span(&w, sorted.of[i]);
    }
    return !w.full;
}

/* By what lines are found: the keys of their attributes, so that a value is hashed once for all the lists
 * that it is part of. */
size_t attributes_value(span sorted, uint8_t out[ATTRIBUTES_VALUE]) {
    size_t count = 0;
    attribute a;
    for (size_t start = 0, end = 0; name_next(sorted, &end, &a); start = end)
        lookup_key(piece_of(sorted, start, end), out + KEY_BYTES * count++);
    return KEY_BYTES * count;
}

/* ---- Shapes ---- */

enum { TYPES_BYTES = ATTRIBUTES_MOST * (1 + UINT8_MAX) };

static size_t types_of(span sorted, uint8_t out[TYPES_BYTES], size_t *count) {
    writer w = {out, 0, TYPES_BYTES, false};
    attribute a;
    *count = 0;
    for (size_t at = 0; name_next(sorted, &at, &a); ++*count) {
        put_byte(&w, (uint8_t)a.oid.len);
        put_span(&w, a.oid);
    }
    return w.len;
}

void alias_shape(uint8_t out[KEY_BYTES], span sorted) {
    uint8_t types[TYPES_BYTES];
    size_t count, len = types_of(sorted, types, &count);
    key_of(out, LINE_BIND, BIND_ATTRIBUTES, span_of(types, len), span_of(NULL, 0));
}

static const uint8_t *key_of_shape(const rule *r) {
    size_t at = 0;
    span alias = {0};
    rule_field(r, FIELD_ALIAS, &at, &alias);
    return alias.ptr;
}

static shape *find_shape(const shapes *s, const uint8_t *key) {
    for (size_t i = 0; i < s->count; i++) {
        if (memcmp(s->of[i].key, key, KEY_BYTES) == 0) return (shape *)(uintptr_t)&s->of[i];
    }
    return NULL;
}

bool shapes_add(shapes *s, const rule *r) {
    uint8_t types[TYPES_BYTES];
    size_t at = 0;
    span sorted = {0};
    shape *held = find_shape(s, key_of_shape(r));
    if (held) held->lines++;
    if (held || s->count == ATTRIBUTES_SHAPES) return held != NULL;
    held = &s->of[s->count++];
    rule_field(r, FIELD_TEMPLATE, &at, &sorted);
    held->len = types_of(sorted, types, &held->count);
    held->types = must(malloc(held->len));
    held->lines = 1;
    memcpy(held->types, types, held->len);
    memcpy(held->key, key_of_shape(r), KEY_BYTES);
    return true;
}

void shapes_remove(shapes *s, const rule *r) {
    shape *held = find_shape(s, key_of_shape(r));
    if (held == NULL || --held->lines) return;
    free(held->types);
    *held = s->of[--s->count];
}

void shapes_free(shapes *s) {
    while (s->count) free(s->of[--s->count].types);
}

/* Lines of `base` that go take their shape with them, where no other line has it. */
static bool is_kept(const view *v, const shape *s) {
    return v->pending == NULL || view_alias(v, s->key);
}

static size_t kept_shapes(const view *v) {
    size_t count = 0;
    for (size_t i = 0; i < v->base->shapes.count; i++) count += is_kept(v, &v->base->shapes.of[i]);
    return count;
}

/* Each shape costs every login a little. */
void patch_check_shapes(patch *p) {
    const view v = {p->base, p};
    size_t kept = kept_shapes(&v);
    for (size_t i = 0; i < p->added.count; i++) {
        const rule *r = p->added.rules[i];
        if (!is_attributes(r) || find_shape(&p->base->shapes, key_of_shape(r))) continue;
        bool room =
            find_shape(&p->shapes, key_of_shape(r)) || kept + p->shapes.count < ATTRIBUTES_SHAPES;
        if (room) shapes_add(&p->shapes, r);
        else
            patch_problem(p, r->number,
                          "the `bind attributes` lines of a policy have at most 32 different lists "
                          "of "
                          "attribute types, and this line would bring another");
    }
}

/* ---- Search ---- */

/* A subject of many attributes is not worth more of everybody's time: some 0.1 ms, and as much again for
 * each CA of its path where a line has ca=. */
enum { COMBINATIONS = 512 };

typedef struct {
    pieces own; /* of the subject */
    uint8_t keys[NAME_ATTRIBUTES][KEY_BYTES];
    size_t left;
    attributes_taker take;
    void *data;
    bool cn; /* is there a CN in the shape? */
    size_t from[ATTRIBUTES_MOST],
        to[ATTRIBUTES_MOST]; /* by place in the shape: what may stand there */
    uint8_t value[ATTRIBUTES_VALUE];
} search;

/* Which of the pieces may stand in each place. False where the subject has too few of a type. */
static bool find_ranges(search *s, const shape *one) {
    span type[ATTRIBUTES_MOST];
    const uint8_t *p = one->types;
    s->cn = false;
    for (size_t i = 0; i < one->count; i++, p += 1 + p[0]) {
        type[i] = span_of(p + 1, p[0]);
        s->cn = s->cn || span_equal(type[i], OID_CN);
    }
    for (size_t i = 0; i < one->count; i++) {
        size_t low = 0, high, needed = 0;
        while (low < s->own.count && !span_equal(type_of(s->own.of[low]), type[i])) low++;
        high = low;
        while (high < s->own.count && span_equal(type_of(s->own.of[high]), type[i])) high++;
        for (size_t j = 0; j < one->count; j++) needed += span_equal(type[j], type[i]);
        if (high - low < needed) return false;
        s->from[i] = low;
        s->to[i] = high;
    }
    return true;
}

/* False where there are too many. */
static bool choose(search *s, const shape *one, size_t place, size_t next) {
    if (place == one->count) {
        if (s->left == 0) return false;
        s->left--;
        s->take(span_of(s->value, KEY_BYTES * place), s->cn, s->data);
        return true;
    }
    for (size_t i = s->from[place] > next ? s->from[place] : next; i < s->to[place]; i++) {
        memcpy(s->value + KEY_BYTES * place, s->keys[i], KEY_BYTES);
        if (!choose(s, one, place + 1, i + 1)) return false;
    }
    return true;
}

static bool search_shape(search *s, const shape *one) {
    return !find_ranges(s, one) || choose(s, one, 0, 0);
}

bool view_combinations(const view *v, span subject, attributes_taker take, void *data) {
    const shapes *held = &v->base->shapes, *added = v->pending ? &v->pending->shapes : NULL;
    search s; /* not cleared: it is large */
    if (held->count == 0 && (added == NULL || added->count == 0)) return true;
    s.left = COMBINATIONS;
    s.take = take;
    s.data = data;
    read_pieces(subject, &s.own);
    for (size_t i = 0; i < s.own.count; i++) lookup_key(s.own.of[i], s.keys[i]);
    bool good = true;
    for (size_t i = 0; good && i < held->count; i++)
        good = !is_kept(v, &held->of[i]) || search_shape(&s, &held->of[i]);
    for (size_t i = 0; good && added && i < added->count; i++)
        good = search_shape(&s, &added->of[i]);
    return good;
}
