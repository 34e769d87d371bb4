/* Nodes of a deployment, at the doors between servers: whom a peer's key lets in. */
#include "policy.h"

#include <string.h>

/* The key's own line, and those that want a CA of the path (`ca=`). `keys`: of the chain, leaf first. */
static const rule *binds_node(const view *lines, uint8_t (*keys)[HASH_BYTES], size_t count,
                              bool peers) {
    uint8_t key[KEY_BYTES];
    for (size_t i = 0; i < count; i++) {
        span issuer = i ? span_of(keys[i], HASH_BYTES) : span_of(NULL, 0);
        key_of(key, LINE_BIND, BIND_KEY, span_of(keys[0], HASH_BYTES), issuer);
        const rule *line = view_find(lines, key);
        if (line && (!peers || rule_binds_peer(line))) return line;
    }
    return NULL;
}

static reason node_revoked(const view *lines, X509 *const *chain, uint8_t (*keys)[HASH_BYTES],
                           size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint8_t cert[HASH_BYTES], tbs[HASH_BYTES], serial[SERIAL_BYTES];
        const size_t above = i + 1 < count ? i + 1 : i;
        seal own = {0};
        size_t len;
        if (!certificate_serial(chain[i], serial, &len) || !certificate_hashes(chain[i], cert, tbs))
            return REASON_MALFORMED;
        if (above > i) certificate_seal(chain[i], chain[above], &own);
        if (own.altered) return REASON_MALFORMED;
        if (is_revoked(lines,
                       (revocable){keys[above], cert, tbs, keys[i], &own, span_of(serial, len)}))
            return i ? REASON_CA_REVOKED : REASON_REVOKED;
    }
    return REASON_UNDECIDED;
}

reason policy_node(const policy *p, const policy *bootstrap, X509 *const *chain, size_t count,
                   uint8_t (*own)[HASH_BYTES], span address) {
    uint8_t keys[PATH_LENGTH + 1][HASH_BYTES];
    view lines = {p, NULL}, fixed = {bootstrap, NULL};
    bool revokes = p->revokes[REVOKE_SERIAL] || p->revokes[REVOKE_CERT] || p->revokes[REVOKE_KEY];
    bool scoped = p->scoped[BIND_KEY] || bootstrap->scoped[BIND_KEY];
    if (count == 0) return REASON_NO_CERTIFICATE;
    if (count > PATH_LENGTH + 1) return REASON_TOO_LARGE;
    for (size_t i = 0; i < (revokes || scoped ? count : 1); i++) {
        if (!certificate_key(chain[i], keys[i])) return REASON_MALFORMED;
    }
    reason bad = revokes ? node_revoked(&lines, chain, keys, count) : REASON_UNDECIDED;
    if (bad) return bad;
    for (int i = 0; i < 2; i++) {
        if (memcmp(own[i], keys[0], HASH_BYTES) == 0) return REASON_MATCHED;
    }
    const rule *line = binds_node(&fixed, keys, scoped ? count : 1, false);
    if (line == NULL) line = binds_node(&lines, keys, scoped ? count : 1, true);
    if (line == NULL) return REASON_NO_BINDING;
    return rule_covers(line, address) ? REASON_MATCHED : REASON_ADDRESS;
}
