/* `lock` lines: who is out for the time being, by user, identity, CA or network. They take nothing away
 * from the other lines, so that everything is as it was when they go. */
#include "line.h"
#include "policy.h"

#include <string.h>

enum { LOCK_USER, LOCK_CA, LOCK_NETWORK, LOCK_WAYS };

/* Behind the ways, the kinds of names that a certificate has by itself. */
static int lock_of(bind_kind kind) { return LOCK_WAYS + (int)kind; }

static bool read_lock_name(line *l) {
    uint8_t bytes[NAME_BYTES];
    size_t len = 0;
    int kind = one_of(l, BIND_NAMES, BIND_KEY + 1);
    if (kind < 0)
        return bad_token(l, "lock takes user, ca, network, subject, cn, uri, dns, email, ip, upn, "
                            "cert or key, not");
    say(l, l->token);
    l->head.kind = (uint8_t)lock_of((bind_kind)kind);
    if (!read_bind_value(l, (bind_kind)kind, bytes, &len)) return false;
    line_key(l, l->head.kind, span_of(bytes, len), span_of(NULL, 0));
    return true;
}

static bool read_lock_user(line *l) {
    if (!need(l, "the name of the user") || !read_user_name(l)) return false;
    line_key(l, LOCK_USER, l->token, span_of(NULL, 0));
    return true;
}

static bool read_lock_ca(line *l) {
    uint8_t key[HASH_BYTES];
    if (!read_hash(l, "the CA's key id", key)) return false;
    say_hex(l, span_of(key, sizeof key));
    line_key(l, LOCK_CA, span_of(key, sizeof key), span_of(NULL, 0));
    return true;
}

static bool read_lock_network(line *l) {
    uint8_t net[NET_BYTES];
    size_t len = 0;
    if (!need(l, "the address or the network") ||
        !read_net(l, "lock network takes an address or a network", l->token, net, &len))
        return false;
    put_byte(&l->text, ' ');
    put_net(&l->text, span_of(net, len));
    put_field(l, FIELD_NET, span_of(net, len));
    line_key(l, LOCK_NETWORK, span_of(net, len), span_of(NULL, 0));
    return true;
}

bool read_lock(line *l) {
    static const char *const ways[LOCK_WAYS] = {"user", "ca", "network"};
    static bool (*const read[LOCK_WAYS])(line *) = {read_lock_user, read_lock_ca,
                                                    read_lock_network};
    if (!need(l, "what to lock")) return false;
    int way = one_of(l, ways, LOCK_WAYS);
    if (way < 0) return read_lock_name(l);
    say(l, l->token);
    l->head.kind = (uint8_t)way;
    return read[way](l);
}

/* ---- Which line it is ---- */

static const rule *lock_by(const view *v, int way, span value) {
    uint8_t key[KEY_BYTES];
    key_of(key, LINE_LOCK, way, value, span_of(NULL, 0));
    return view_find(v, key);
}

const rule *view_lock_user(const view *v, span user) {
    return view_locks(v) ? lock_by(v, LOCK_USER, user) : NULL;
}

/* One look for each length that a prefix may have: with many lines it is not slower than with one. */
const rule *view_lock_network(const view *v, span address) {
    uint8_t net[NET_BYTES] = {0};
    const rule *found = NULL;
    if (!view_locks(v) || address.len == 0 || address.len >= NET_BYTES) return NULL;
    for (size_t prefix = 0; prefix <= address.len * 8 && found == NULL; prefix++) {
        if (prefix) {
            size_t at = (prefix - 1) / 8;
            uint8_t bit = (uint8_t)(0x80 >> (prefix - 1) % 8);
            net[at] = (uint8_t)(net[at] | (address.ptr[at] & bit));
        }
        net[address.len] = (uint8_t)prefix;
        found = lock_by(v, LOCK_NETWORK, span_of(net, address.len + 1));
    }
    return found;
}

typedef struct {
    const view *lines;
    const rule *found;
} search;

static bool look_for(bind_kind kind, span value, bool repeated, void *data) {
    search *s = data;
    (void)repeated;
    s->found = lock_by(s->lines, lock_of(kind), value);
    return s->found == NULL;
}

const rule *view_lock(const view *v, const request *r) {
    const rule *found = view_lock_network(v, r->address);
    if (found || !view_locks(v)) return found;
    for (size_t i = 0; r->issuers->known && i < r->issuers->count && !found; i++)
        found = lock_by(v, LOCK_CA, span_of(r->issuers->ca[i].key, HASH_BYTES));
    search s = {v, found};
    if (!found) identity_bindings(r->leaf, look_for, &s);
    return s.found;
}
