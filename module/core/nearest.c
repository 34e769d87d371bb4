/* The lines that a person may have meant by a certificate that has none: the same but for spelling, of the
 * same CN, or the fewest attributes away. For explain alone. */
#include "explain.h"

/* A `bind` line, and how far its value is from the leaf's. */
typedef struct {
    const rule *line;
    int rank;        /* 0: the same but for spelling; 1: of the same CN; 2: another subject */
    size_t distance; /* attributes that only one of the two has */
    span other;      /* rank 0 of another kind than a subject: what the leaf has */
    size_t len;
    uint8_t subject[NAME_BYTES]; /* of the line, or its attributes */
} candidate;

static bool has_attribute(span name, const attribute *wanted) {
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) {
        if (span_equal(a.oid, wanted->oid) && span_equal(a.value, wanted->value)) return true;
    }
    return false;
}

/* The attributes of `name` that `other` does not have; with `w`, each is told. */
static size_t missing_in(span other, span name, writer *w) {
    size_t count = 0;
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) {
        uint8_t bytes[NAME_BYTES];
        writer one = {bytes, 0, sizeof bytes, false};
        if (has_attribute(other, &a)) continue;
        put_attribute(&one, true, a.oid, a.value);
        if (w && count) put_string(w, ", ");
        if (w) put_name(w, span_of(one.ptr, one.len));
        count++;
    }
    return count;
}

static size_t attributes_of(span name) {
    size_t count = 0;
    attribute a;
    for (size_t at = 0; name_next(name, &at, &a);) count++;
    return count;
}

/* The subject of a `bind subject` line, which stands in its text only. */
static bool read_subject(const rule *line, candidate *out) {
    uint8_t token[4 * NAME_BYTES];
    span text = rule_text(line);
    fault why;
    size_t len;
    if (rule_type(line) != LINE_BIND || line->kind != BIND_SUBJECT || text.len > sizeof token)
        return false;
    for (int i = 0; i < 3; i++) {
        if (token_read(&text, token, &len) != TOKEN_READ) return false;
    }
    out->line = line;
    return name_parse(span_of(token, len), out->subject, &out->len, &why);
}

static bool is_nearer(const candidate *one, const candidate *best) {
    if (best->line == NULL) return true;
    if (one->rank != best->rank) return one->rank < best->rank;
    if (one->distance != best->distance) return one->distance < best->distance;
    return span_compare(rule_text(one->line), rule_text(best->line)) < 0;
}

static bool measure_subject(const rule *line, span subject, candidate *out) {
    if (!read_subject(line, out)) return false;
    span other = span_of(out->subject, out->len);
    out->distance = missing_in(other, subject, NULL) + missing_in(subject, other, NULL);
    out->other = span_of(NULL, 0);
    return true;
}

/* Its distance is how many of the line's attributes the leaf lacks. */
static bool measure_attributes(const rule *line, span subject, candidate *out) {
    size_t at = 0;
    span sorted;
    if (!is_attributes(line) || !rule_field(line, FIELD_TEMPLATE, &at, &sorted)) return false;
    memcpy(out->subject, sorted.ptr, out->len = sorted.len);
    out->line = line;
    out->distance = missing_in(subject, sorted, NULL);
    out->other = span_of(NULL, 0);
    return true;
}

static void take_candidate(const candidate *one, candidate *best) {
    if (is_nearer(one, best)) *best = *one;
}

/* A leaf whose nearest line is looked for. */
typedef struct {
    const policy *p;
    span subject;
    uint64_t whole; /* its near_subject */
    size_t own;     /* its attributes */
    size_t left;    /* how many lines may still be looked at, large subjects counting as several */
    candidate *best;
} nearest;

/* `subject`: of the line that was looked at; empty for others. */
static void spend(nearest *n, span subject) {
    size_t cost = 1 + n->own * attributes_of(subject) / 64 + subject.len / 256;
    n->left -= cost < n->left ? cost : n->left;
}

/* The lines that are near one value of the leaf. */
static void find_by_value(nearest *n, bind_kind kind, span value) {
    uint64_t hash = near_hash(kind, value);
    const near_lines *lines = policy_near(n->p);
    const rule *line;
    candidate one;
    for (uint32_t at = 0; hash && n->left && (line = near_next(lines, hash, &at));) {
        one.len = 0;
        one.line = line;
        one.rank = 0;
        one.distance = 0;
        one.other = value;
        if (is_attributes(line)) {
            measure_attributes(line, n->subject, &one);
            one.rank = 1;
        } else if (line->kind == BIND_SUBJECT) {
            if (!measure_subject(line, n->subject, &one)) continue;
            one.rank = near_subject(span_of(one.subject, one.len)) == n->whole ? 0 : 1;
        }
        spend(n, span_of(one.subject, one.len));
        take_candidate(&one, n->best);
    }
}

/* By each attribute of a name, alone. */
static void find_by_attributes(nearest *n, bind_kind kind, span name) {
    attribute a;
    for (size_t start = 0, at = 0; name_next(name, &at, &a); start = at) {
        if (a.value.len) find_by_value(n, kind, span_of(name.ptr + start, at - start));
    }
}

/* By all that the leaf could be bound by, over the whole policy. */
static void find_by_values(nearest *n, const identity *leaf) {
    bind_kind kind;
    span value;
    attribute a;
    if (name_common_names(leaf->subject, &value) == 0)
        find_by_value(n, BIND_SUBJECT, leaf->subject);
    for (size_t at = 0; name_next(leaf->subject, &at, &a);) {
        if (a.value.len && span_equal(a.oid, OID_CN)) find_by_value(n, BIND_CN, a.value);
    }
    for (size_t at = 0; identity_next_san(leaf, &at, &kind, &value);) find_by_value(n, kind, value);
    find_by_attributes(n, BIND_ATTRIBUTE, leaf->subject);
    find_by_attributes(n, BIND_EXTENSION, leaf->extensions);
    find_by_attributes(n, BIND_ATTRIBUTES, leaf->subject);
}

/* Another subject that has something in common, of the first lines of the policy. */
static void find_by_subject(nearest *n) {
    candidate one;
    size_t rules = policy_rules(n->p);
    for (size_t i = 0; i < rules && n->left; i++) {
        one.line = policy_rule(n->p, i);
        one.rank = 2;
        one.len = 0;
        bool part = measure_attributes(one.line, n->subject, &one);
        bool whole = !part && measure_subject(one.line, n->subject, &one);
        span other = span_of(one.subject, one.len);
        spend(n, other);
        bool common = part ? one.distance < attributes_of(other)
                           : whole && missing_in(other, n->subject, NULL) < n->own;
        if (common) take_candidate(&one, n->best);
    }
}

static void tell_subjects(writer *w, const candidate *best, span subject) {
    span other = span_of(best->subject, best->len);
    if (best->distance == 0) {
        put_string(w, span_equal(other, subject) ? ": it asks for another CA"
                                                 : ": it has the same attributes in another order");
        return;
    }
    put_string(w, ": the certificate has ");
    if (missing_in(other, subject, w) == 0) put_string(w, "nothing else");
    put_string(w, ", the line has ");
    if (missing_in(subject, other, w) == 0) put_string(w, "nothing else");
}

static void tell_lack(writer *w, const candidate *best, span subject) {
    put_string(w, best->distance ? ": the certificate lacks " : ": it asks for another CA");
    missing_in(subject, span_of(best->subject, best->len), w);
}

static void tell_other(writer *w, const candidate *best) {
    bind_kind kind = (bind_kind)best->line->kind;
    attribute one;
    size_t at = 0;
    put_string(w, ": the certificate has ");
    if (kind == BIND_ATTRIBUTE) put_name(w, best->other);
    else if (kind == BIND_EXTENSION && name_next(best->other, &at, &one)) put_extension(w, &one);
    else put_visible_token(w, best->other);
}

void tell_nearest(writer *w, const policy *p, const identity *leaf, size_t most) {
    candidate best;
    nearest n = {p,
                 leaf->subject,
                 near_subject(leaf->subject),
                 attributes_of(leaf->subject),
                 p ? most : 0,
                 &best};
    best.line = NULL;
    if (n.left) find_by_values(&n, leaf);
    if (n.left && best.line == NULL) find_by_subject(&n);
    if (best.line == NULL) return;
    put_string(w, "nearest: ");
    put_line(w, rule_text(best.line));
    if (is_attributes(best.line)) tell_lack(w, &best, leaf->subject);
    else if (best.other.len == 0) tell_subjects(w, &best, leaf->subject);
    else tell_other(w, &best);
    put_byte(w, '\n');
}
