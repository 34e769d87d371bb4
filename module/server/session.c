/* Clients from connection to end, and the certificate that each came with. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdlib.h>
#include <time.h>

/* ---- Sessions ---- */

/* Big-endian, so that the dictionary is in the order of ids. */
uint64_t session_key(uint64_t id) {
    uint8_t bytes[8];
    uint64_t key;
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(id >> (56 - 8 * i));
    memcpy(&key, bytes, sizeof key);
    return key;
}

session *session_find(uint64_t id) {
    uint64_t key = session_key(id);
    return RedisModule_DictGetC(node.sessions, &key, sizeof key, NULL);
}

/* Moves a session in a dictionary that is in the order of times, `*time` being where it is; 0: not. */
void session_moves(RedisModuleDict *dict, session *s, int64_t *time, int64_t to) {
    uint64_t key[2] = {session_key((uint64_t)*time), session_key(s->id)};
    if (*time == to) return;
    if (*time) RedisModule_DictDelC(dict, key, sizeof key, NULL);
    *time = to;
    key[0] = session_key((uint64_t)to);
    if (to) RedisModule_DictReplaceC(dict, key, sizeof key, s);
}

session *session_first(RedisModuleDict *dict) {
    session *s = NULL;
    RedisModuleDictIter *at = RedisModule_DictIteratorStartC(dict, "^", NULL, 0);
    RedisModule_DictNextC(at, NULL, (void **)&s);
    RedisModule_DictIteratorStop(at);
    return s;
}

/* Milliseconds until `second` of the wall clock begins; 0: it has. */
int64_t until_second(int64_t second) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (second == INT64_MAX) return second;
    return second > t.tv_sec ? (second - t.tv_sec) * 1000 - t.tv_nsec / 1000000 : 0;
}

void session_ends_at(session *s, int64_t end) {
    session_moves(node.ends, s, &s->end, end);
    if (end == 0 || end >= node.next_end) return;
    node.next_end = end;
    if (until_second(end) <= SCRIPT_MS) watch_commands();
    act_in(until_second(end));
}

void session_user(session *s, span user) {
    if (s->made && --s->made->sessions == 0) node.idle++;
    if (s->user) RedisModule_FreeString(NULL, s->user);
    s->user = user.len ? string_of(user) : NULL;
    s->made = user.len ? made_find(user) : NULL;
    if (s->made && s->made->sessions++ == 0) node.idle--;
}

void session_free(session *s) {
    node.closing -= s->closing;
    node.turned_away -= s->turned_away;
    if (s->hung_up && node.hung_up > 0) node.hung_up--;
    session_ends_at(s, 0);
    session_moves(node.due, s, &s->due, 0);
    session_user(s, span_of(NULL, 0));
    uint64_t key = session_key(s->id);
    RedisModule_DictDelC(node.sessions, &key, sizeof key, NULL);
    identity_free(s->leaf);
    path_free(s->issuers);
    free(s);
}

session *session_new(uint64_t id, const char *address, bool local) {
    session *s =
        session_find(id); /* from before the module, if at all: its handshake had not ended */
    if (s) session_free(s);
    s = must(calloc(1, sizeof *s));
    s->id = id;
    s->since = now_seconds();
    s->local = local;
    s->act = ACTION_LEAVE;
    s->socket = -1;
    ip_parse(address, &s->address);
    uint64_t key = session_key(id);
    RedisModule_DictReplaceC(node.sessions, &key, sizeof key, s);
    return s;
}

/* ---- Certificates ---- */

/* The way of the module API: the leaf alone, as PEM. Leaks an X509 a call on servers before Redis
 * 8.6.2 and Valkey 9.1, so it is called once a connection, and counted. */
static size_t peer_by_api(RedisModuleCtx *ctx, const session *s, X509 *certificates[2],
                          bool *readable) {
    RedisModuleString *pem = RedisModule_GetClientCertificate(ctx, s->id);
    if (pem == NULL) return 0;
    fault why;
    size_t count = certificates_parse(string_span(pem), certificates, 2, &why);
    *readable = count > 0;
    RedisModule_FreeString(ctx, pem);
    if (node.api_reads++ == 0) {
        RedisModule_Log(ctx, "warning",
                        "a client's TLS connection could not be identified, so its "
                        "certificate came through the server, which leaks memory each time before "
                        "Redis 8.6.2 "
                        "and Valkey 9.1: see certauth_api_certificates in INFO");
    }
    return count;
}

/* `chain`: of a handshake, or the leaf alone. */
void path_of_session(identity *leaf, X509 *const *chain, size_t count, path *out) {
    path_after_handshake(node.policy, leaf, chain, count, out);
    if (!out->known) path_after_handshake(node.bootstrap, leaf, chain, 1, out);
}

static void session_leaf(session *s, const peer *found) {
    static identity id; /* 24 kB */
    static path issuers;
    identity_read(found->chain[0], &id);
    path_of_session(&id, found->chain, found->count, &issuers);
    s->leaf = identity_keep(&id);
    s->issuers = path_keep(&issuers);
}

/* What the handshake left, into the session. False where there is a certificate that cannot be read. */
bool session_certificate(RedisModuleCtx *ctx, session *s, uint16_t port, peer *found) {
    X509 *owned[2] = {NULL, NULL};
    bool readable = true;
    if (node.api_certificates || !tls_claim(&s->address, port, found)) {
        node.blind = node.blind || !doors_asked();
        if (s->address.len == 0) return false; /* gone already: not worth the leak */
        found->count = peer_by_api(ctx, s, owned, &readable);
        found->chain[0] = owned[0];
    }
    if (found->count) session_leaf(s, found);
    certificate_free(owned[0]);
    return readable;
}
