/* `pattern` lines: many certificates, each its own user or all of them one, by one line. What a placeholder takes holds no
 * delimiter, no glob character and nothing that a line, an ACL rule or a URI would have to escape, and
 * behind it stands what it cannot hold. So a value matches in one way or not at all, and a made name or
 * rule says back which values made it. */
#include "internal.h"

#include <stdlib.h>

enum {
    PLACEHOLDERS = 8,       /* in one template */
    PLACEHOLDER_NAME = 32,  /* bytes of one's name */
    VALUE_BYTES = 255,      /* that one takes */
    RULE_LITERALS = 4096,   /* of an ACL rule with placeholders */
    RULE_PLACEHOLDERS = 16, /* in it; MADE_RULE_BYTES is what these come to */
    ANCHOR_BYTES = UINT8_MAX
};

typedef struct {
    span name, value;
} given;
typedef struct {
    size_t count;
    given of[PLACEHOLDERS];
} values;

static const given *find_value(const values *v, span name) {
    for (size_t i = 0; i < v->count; i++) {
        if (span_equal(v->of[i].name, name)) return &v->of[i];
    }
    return NULL;
}

/* ---- Characters ---- */

/* What a placeholder takes, the narrowest first, each a part of the next. */
typedef enum { OF_LABEL, OF_SEGMENT, OF_LOCAL_PART, OF_ATTRIBUTE } alphabet;

static bool is_lower_or_digit(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* OF_SEGMENT is RFC 3986's unreserved. */
static bool takes(alphabet a, uint8_t c) {
    if (is_lower_or_digit(c) || (c >= 'A' && c <= 'Z') || c == '-' || c == '_') return true;
    if (c == '.' || c == '~') return a >= OF_SEGMENT;
    return (c == '+' && a >= OF_LOCAL_PART) || (c == '@' && a >= OF_ATTRIBUTE);
}

static size_t taken(alphabet a, span text) {
    size_t len = 0;
    while (len < text.len && takes(a, text.ptr[len])) len++;
    return len;
}

static alphabet alphabet_of(bind_kind kind, bool behind_at) {
    switch (kind) {
    case BIND_URI: return OF_SEGMENT;
    case BIND_EMAIL:
    case BIND_UPN: return behind_at ? OF_LABEL : OF_LOCAL_PART;
    case BIND_CN:
    case BIND_SUBJECT: return OF_ATTRIBUTE;
    default: return OF_LABEL;
    }
}

/* ---- Parts ---- */

/* Length of the placeholder that `text` starts with: {name}; 0 where it starts with none. */
static size_t placeholder(span text) {
    size_t i = 1;
    if (text.len == 0 || text.ptr[0] != '{') return 0;
    while (i < text.len && (is_lower_or_digit(text.ptr[i]) || text.ptr[i] == '_')) i++;
    bool named = i > 1 && i <= 1 + PLACEHOLDER_NAME;
    return named && i < text.len && text.ptr[i] == '}' ? i + 1 : 0;
}

/* The name of the placeholder that `rest` starts with, or the literal up to the next one. */
static span next_part(span *rest, bool *hole) {
    size_t len = placeholder(*rest);
    *hole = len > 0;
    while (!*hole && len < rest->len && !placeholder(span_skip(*rest, len))) len++;
    span part = span_of(rest->ptr, len);
    *rest = span_skip(*rest, len);
    return *hole ? span_of(part.ptr + 1, len - 2) : part;
}

bool has_placeholder(span text) {
    for (bool hole = false; text.len;) {
        next_part(&text, &hole);
        if (hole) return true;
    }
    return false;
}

/* Writes `text` with the values of its placeholders. */
static void expand(writer *w, span text, const values *v) {
    while (text.len) {
        bool hole;
        span part = next_part(&text, &hole);
        const given *one = hole ? find_value(v, part) : NULL;
        put_span(w, one ? one->value : part);
    }
}

/* ---- Templates ---- */

/* The next text of a template or of a value: all of it, or one attribute of a subject. */
static bool next_text(bind_kind kind, span whole, size_t *at, attribute *out) {
    if (kind == BIND_SUBJECT) return name_next(whole, at, out);
    *out = (attribute){true, {0}, whole};
    bool first = *at == 0;
    *at = 1;
    return first;
}

static bool collect(values *names, span name, fault *why) {
    if (find_value(names, name)) {
        return fail(why, "the placeholder {%.*s} stands twice", (int)name.len, name.ptr);
    }
    if (names->count == PLACEHOLDERS) {
        return fail(why, "a pattern has at most %d placeholders", PLACEHOLDERS);
    }
    names->of[names->count++] = (given){name, {0}};
    return true;
}

static bool no_brace(span literal, fault *why) {
    bool none = literal.len == 0 || (memchr(literal.ptr, '{', literal.len) == NULL &&
                                     memchr(literal.ptr, '}', literal.len) == NULL);
    return none || fail(why,
                        "a brace that is part of no placeholder: one is {name}, with at most %d "
                        "of a-z, 0-9 and _",
                        PLACEHOLDER_NAME);
}

/* Behind a placeholder stands the end, or what it cannot take: else one value could be read in two
 * ways. */
static bool ends_here(alphabet a, span name, span rest, fault *why) {
    if (rest.len == 0) return true;
    if (placeholder(rest)) {
        return fail(why, "{%.*s} is followed by another placeholder: nothing says where it ends",
                    (int)name.len, name.ptr);
    }
    return !takes(a, rest.ptr[0]) ||
           fail(why,
                "{%.*s} is followed by '%c', which its value may hold: nothing says where it ends",
                (int)name.len, name.ptr, rest.ptr[0]);
}

static bool check_text(bind_kind kind, span text, values *names, fault *why) {
    bool behind_at = false, hole;
    while (text.len) {
        span part = next_part(&text, &hole);
        if (hole && (!collect(names, part, why) ||
                     !ends_here(alphabet_of(kind, behind_at), part, text, why)))
            return false;
        if (!hole && !no_brace(part, why)) return false;
        behind_at = behind_at || (!hole && memchr(part.ptr, '@', part.len));
    }
    return true;
}

static bool check_at_sign(bind_kind kind, span text, fault *why) {
    if (kind != BIND_EMAIL && kind != BIND_UPN) return true;
    const uint8_t *at = memchr(text.ptr, '@', text.len);
    size_t behind = at ? text.len - (size_t)(at - text.ptr) - 1 : 0;
    return (behind && memchr(at + 1, '@', behind) == NULL) ||
           fail(why, "a pattern of this kind has one '@', and something behind it");
}

static bool read_template(bind_kind kind, span template, values *names, fault *why) {
    attribute a;
    for (size_t at = 0; next_text(kind, template, &at, &a);) {
        if (!a.starts) return fail(why, "a pattern takes no RDN with several attributes");
        if (!check_text(kind, a.value, names, why) || !check_at_sign(kind, a.value, why))
            return false;
    }
    return true;
}

/* A path with "." or ".." means another path to anyone who resolves it (RFC 3986 5.2.4). */
static bool has_dot_segment(span uri) {
    for (size_t at = 0, end = 0; at <= uri.len; at = end + 1) {
        for (end = at; end < uri.len && memchr("/?#", uri.ptr[end], 3) == NULL;) end++;
        span segment = span_of(uri.ptr + at, end - at);
        if (span_equal(segment, LITERAL(".")) || span_equal(segment, LITERAL(".."))) return true;
    }
    return false;
}

bool pattern_check_template(bind_kind kind, span template, fault *why) {
    values names = {0};
    if (!read_template(kind, template, &names, why)) return false;
    if (kind == BIND_URI && has_dot_segment(template))
        return fail(why, "a segment of the URI is . or .., which no certificate matches");
    return names.count > 0 ||
           fail(why, "a pattern has a placeholder, such as {id}; a value without one takes `bind`");
}

/* ---- The user that is made ---- */

span word_of(span user) {
    size_t len = taken(OF_SEGMENT, user);
    return span_of(user.ptr, len < user.len && user.ptr[len] == ':' ? len : 0);
}

bool rule_is_maker(const rule *r) { return r->makes; }

span rule_word(const rule *r) {
    size_t at = 0;
    span name;
    bool named = (r->type == LINE_PATTERN || r->type == LINE_USER) &&
                 rule_field(r, r->makes ? FIELD_MAKES : FIELD_USER, &at, &name);
    return named ? word_of(name) : span_of(NULL, 0);
}

static bool is_known(const values *names, span name, fault *why) {
    return find_value(names, name) ||
           fail(why, "the user names {%.*s}, which the pattern does not have", (int)name.len,
                name.ptr);
}

/* Between two colons stands one placeholder at the most. No value holds a colon, so the name says back
 * which values made it, and no two lists of values make one name. */
static bool check_segments(span user, const values *names, fault *why) {
    bool filled = false, hole;
    while (user.len) {
        span part = next_part(&user, &hole);
        if (hole && filled) {
            return fail(why, "two placeholders of a user stand without ':' between them: two "
                             "certificates could make one user");
        }
        if (hole ? !is_known(names, part, why) : !no_brace(part, why)) return false;
        filled = hole || (filled && memchr(part.ptr, ':', part.len) == NULL);
    }
    return true;
}

bool pattern_check_user(bind_kind kind, span template, span user, fault *why) {
    values names = {0};
    size_t word = word_of(user).len;
    if (!has_placeholder(user)) return no_brace(user, why);
    if (word == 0 || user.len == word + 1) {
        return fail(why, "the user of a pattern starts with a word of its own and ':', such as "
                         "app:{id}; letters, digits and - . _ ~ make a word");
    }
    return read_template(kind, template, &names, why) && check_segments(user, &names, why);
}

/* Which values made this name. */
static bool give(values *v, span name, span value) {
    const given *known = find_value(v, name);
    if (value.len == 0 || value.len > VALUE_BYTES) return false;
    if (known) return span_equal(known->value, value);
    v->of[v->count++] = (given){name, value};
    return true;
}

static size_t up_to_colon(span text) {
    const uint8_t *colon = text.len ? memchr(text.ptr, ':', text.len) : NULL;
    return colon ? (size_t)(colon - text.ptr) : text.len;
}

static bool read_back(span template, span user, values *v) {
    while (template.len) {
        bool hole;
        span part = next_part(&template, &hole);
        if (!hole && !span_starts(user, part)) return false;
        size_t len = part.len, literal = up_to_colon(template);
        if (hole) {
            len = up_to_colon(user);
            if (len <= literal) return false;
            len -= literal;
            span value = span_of(user.ptr, len);
            if (taken(OF_ATTRIBUTE, value) < len || !give(v, part, value)) return false;
        }
        user = span_skip(user, len);
    }
    return user.len == 0;
}

static bool rule_values(const rule *r, span user, values *v) {
    size_t at = 0;
    span template;
    return user.len <= USER_BYTES && r->type == LINE_PATTERN &&
           rule_field(r, FIELD_MAKES, &at, &template) && read_back(template, user, v);
}

bool rule_makes(const rule *r, span user) {
    values v = {0};
    return rule_values(r, user, &v);
}

size_t rule_sample(const rule *r, uint8_t out[USER_BYTES]) {
    size_t at = 0;
    bool hole;
    span template;
    writer w = {out, 0, USER_BYTES, false};
    if (r->type != LINE_PATTERN || !rule_field(r, FIELD_MAKES, &at, &template)) return 0;
    while (template.len) {
        span part = next_part(&template, &hole);
        put_span(&w, hole ? LITERAL("x") : part);
    }
    return w.len;
}

/* ---- The ACL rules that are made ---- */

/* Where the pattern of a key or channel rule starts, behind the parenthesis of a selector; 0 in other
 * rules (acl.c: ACLSetSelector, Redis 7.0.15). */
static size_t glob_start(span acl) {
    size_t at = acl.len && acl.ptr[0] == '(';
    if (at == acl.len) return 0;
    if (acl.ptr[at] == '~' || acl.ptr[at] == '&') return at + 1;
    if (acl.ptr[at++] != '%') return 0;
    while (at < acl.len && memchr("RWrw", acl.ptr[at], 4)) at++;
    return at < acl.len && acl.ptr[at] == '~' ? at + 1 : 0;
}

/* Beside a value stands the edge of the pattern or what no value holds, and no glob: ~{id}* would
 * give a the keys of ab, and ~{id}-* those of a-b. */
static bool is_apart(uint8_t c) { return !takes(OF_ATTRIBUTE, c) && memchr("*?[]", c, 4) == NULL; }

static bool check_beside(span acl, size_t start, span name, size_t at, fault *why) {
    size_t end = at + name.len + 2;
    bool before = at == start || is_apart(acl.ptr[at - 1]);
    bool behind = end == acl.len || is_apart(acl.ptr[end]);
    bool chained = end < acl.len && placeholder(span_skip(acl, end));
    if (before && behind && !chained) return true;
    return fail(why,
                "{%.*s} of an ACL rule stands right beside a wildcard, a placeholder or what a "
                "value may hold: it would reach other keys; ':' keeps them apart",
                (int)name.len, name.ptr);
}

static bool check_holes(span acl, size_t start, const values *names, fault *why) {
    size_t count = 0;
    for (span rest = acl; rest.len;) {
        size_t at = (size_t)(rest.ptr - acl.ptr);
        bool hole;
        span part = next_part(&rest, &hole);
        if (!hole) continue;
        if (find_value(names, part) == NULL) {
            return fail(why,
                        "{%.*s} of an ACL rule does not stand in the user: users of one name "
                        "would have different rules",
                        (int)part.len, part.ptr);
        }
        if (++count > RULE_PLACEHOLDERS) {
            return fail(why, "an ACL rule has at most %d placeholders", RULE_PLACEHOLDERS);
        }
        if (!check_beside(acl, start, part, at, why)) return false;
    }
    return true;
}

bool pattern_check_acl(span user, span acl, fault *why) {
    values names = {0};
    size_t start = glob_start(acl);
    bool hole;
    if (!has_placeholder(acl)) return true;
    if (start == 0)
        return fail(why, "a placeholder stands in key and channel rules (~ %%R~ %%W~ &) only");
    if (memchr(acl.ptr, '[', acl.len) || memchr(acl.ptr, ']', acl.len)) {
        return fail(why,
                    "an ACL rule with a placeholder takes no [ ]: any character of the value would "
                    "match");
    }
    if (acl.len > RULE_LITERALS) return fail(why, "an ACL rule with a placeholder is too long");
    while (user.len) {
        span part = next_part(&user, &hole);
        if (hole && find_value(&names, part) == NULL) names.of[names.count++] = (given){part, {0}};
    }
    return check_holes(acl, start, &names, why);
}

bool rule_acl_made(const rule *r, span user, size_t *at, uint8_t out[MADE_RULE_BYTES],
                   span *token) {
    values v = {0};
    if (!rule_values(r, user, &v) || !rule_field(r, FIELD_ACL, at, token)) return false;
    if (!has_placeholder(*token)) return true;
    writer w = {out, 0, MADE_RULE_BYTES, false};
    expand(&w, *token, &v);
    *token = span_of(out, w.len);
    return true;
}

/* ---- Matching ---- */

static bool match_text(bind_kind kind, span template, span value, values *v) {
    bool behind_at = false, hole;
    while (template.len) {
        span part = next_part(&template, &hole);
        size_t len = hole ? taken(alphabet_of(kind, behind_at), value) : part.len;
        if (hole ? !give(v, part, span_of(value.ptr, len)) : !span_starts(value, part))
            return false;
        behind_at = behind_at || (!hole && memchr(part.ptr, '@', part.len));
        value = span_skip(value, len);
    }
    return value.len == 0;
}

bool pattern_match(const rule *r, span value, writer *made) {
    bind_kind kind = (bind_kind)r->kind;
    values v = {0};
    size_t field = 0, at = 0, here = 0;
    span template, user;
    attribute a, b;
    if (!rule_field(r, FIELD_TEMPLATE, &field, &template)) return false;
    while (next_text(kind, template, &at, &a)) {
        if (!next_text(kind, value, &here, &b) || a.starts != b.starts ||
            !span_equal(a.oid, b.oid) || !match_text(kind, a.value, b.value, &v))
            return false;
    }
    if (next_text(kind, value, &here, &b) || (kind == BIND_URI && has_dot_segment(value)))
        return false;
    if (!r->makes) return true;
    if (!rule_field(r, FIELD_MAKES, &field, &user)) return false;
    expand(made, user, &v);
    return !made->full;
}

/* ---- The index ---- */

static bool is_suffix(bind_kind kind) {
    return kind == BIND_DNS || kind == BIND_EMAIL || kind == BIND_UPN;
}

span pattern_anchor(bind_kind kind, span template) {
    size_t at = 0, end = 0;
    attribute a;
    bool hole = true;
    span rest = template, part = span_of(NULL, 0);
    while (kind == BIND_SUBJECT && name_next(template, &at, &a) && !has_placeholder(a.value))
        end = at;
    if (kind == BIND_SUBJECT) return span_of(template.ptr, end < ANCHOR_BYTES ? end : ANCHOR_BYTES);
    do part = next_part(&rest, &hole);
    while (is_suffix(kind) && rest.len);
    if (hole) return span_of(template.ptr, 0);
    size_t over = part.len > ANCHOR_BYTES ? part.len - ANCHOR_BYTES : 0;
    return span_of(part.ptr + (is_suffix(kind) ? over : 0), part.len - over);
}

/* FNV-1a over what is read so far, from the end that the anchors of the kind are at. A clash costs one
 * comparison: the whole line is matched in any case. */
static uint64_t hash_start(int kind) { return 0xcbf29ce484222325u ^ (uint64_t)kind; }
static uint64_t hash_byte(uint64_t hash, uint8_t byte) { return (hash ^ byte) * 0x100000001b3u; }
static uint8_t byte_at(bind_kind kind, span text, size_t index) {
    return text.ptr[is_suffix(kind) ? text.len - 1 - index : index];
}

static uint64_t hash_text(bind_kind kind, span text) {
    uint64_t hash = hash_start((int)kind);
    for (size_t i = 0; i < text.len; i++) hash = hash_byte(hash, byte_at(kind, text, i));
    return hash;
}

static uint32_t *head_of(const patterns *p, uint64_t hash) {
    return &p->heads[(hash ^ hash >> 32) & (p->room - 1)];
}

static void link_entry(patterns *p, size_t index) {
    uint32_t *head = head_of(p, p->entries[index].hash);
    p->entries[index].next = *head;
    *head = (uint32_t)index + 1;
}

static void add_entry(patterns *p, const rule *r, uint64_t hash) {
    if (p->count == p->room) {
        p->room = p->room ? p->room * 2 : 8;
        p->entries = must(realloc(p->entries, p->room * sizeof *p->entries));
        free(p->heads);
        p->heads = must(calloc(p->room, sizeof *p->heads));
        for (size_t i = 0; i < p->count; i++) link_entry(p, i);
    }
    p->entries[p->count] = (pattern_entry){r, hash, 0};
    link_entry(p, p->count++);
}

/* The last entry moves to the place that becomes free. */
static void remove_entry(patterns *p, const rule *r, uint64_t hash) {
    uint32_t *link = head_of(p, hash);
    while (p->entries[*link - 1].line != r || p->entries[*link - 1].hash != hash)
        link = &p->entries[*link - 1].next;
    uint32_t hole = *link, last = (uint32_t)p->count--;
    *link = p->entries[hole - 1].next;
    if (hole == last) return;
    link = head_of(p, p->entries[last - 1].hash);
    while (*link != last) link = &p->entries[*link - 1].next;
    *link = hole;
    p->entries[hole - 1] = p->entries[last - 1];
}

static span rule_anchor(const rule *r) {
    size_t at = 0;
    span template = {0};
    rule_field(r, FIELD_TEMPLATE, &at, &template);
    return pattern_anchor((bind_kind)r->kind, template);
}

void patterns_add(patterns *p, const rule *r) {
    span anchor = rule_anchor(r);
    add_entry(p, r, hash_text((bind_kind)r->kind, anchor));
    if (r->makes) add_entry(p, r, hash_text(BIND_KINDS, rule_word(r)));
    p->lengths[r->kind][anchor.len] = true;
}

void patterns_remove(patterns *p, const rule *r) {
    remove_entry(p, r, hash_text((bind_kind)r->kind, rule_anchor(r)));
    if (r->makes) remove_entry(p, r, hash_text(BIND_KINDS, rule_word(r)));
}

void patterns_free(patterns *p) {
    free(p->entries);
    free(p->heads);
}

pattern_search pattern_search_of(const patterns *p, bind_kind kind, span value) {
    return (pattern_search){p, kind, value, hash_start((int)kind), 0, 0};
}

const rule *pattern_search_next(pattern_search *s) {
    for (;;) {
        while (s->next) {
            const pattern_entry *e = &s->in->entries[s->next - 1];
            s->next = e->next;
            if (e->hash == s->hash) return e->line;
        }
        if (s->len > s->value.len || s->len > ANCHOR_BYTES) return NULL;
        if (s->len) s->hash = hash_byte(s->hash, byte_at(s->kind, s->value, s->len - 1));
        if (s->in->lengths[s->kind][s->len++]) s->next = *head_of(s->in, s->hash);
    }
}

const rule *patterns_of_word(const patterns *p, span word) {
    uint64_t hash = hash_text(BIND_KINDS, word);
    for (uint32_t at = p->count ? *head_of(p, hash) : 0; at; at = p->entries[at - 1].next) {
        const pattern_entry *e = &p->entries[at - 1];
        if (e->hash == hash && span_equal(rule_word(e->line), word)) return e->line;
    }
    return NULL;
}
