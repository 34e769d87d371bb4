/* CERTAUTH.LOG, the server's log, and the counters. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>
#include <time.h>

#include <arpa/inet.h>

/* ---- What happens in handshakes ---- */

static bool may_log(RedisModuleCtx *ctx);

/* How a log line names a certificate: by its subject, or, where that is empty, by its first SAN. */
static const char *shown_name(const log_entry *e) {
    static char text[sizeof e->subject + sizeof e->sans];
    size_t first = strcspn(e->sans, "\n");
    bool by_san = e->subject[0] == 0 && first > 0;
    if (by_san) snprintf(text, sizeof text, "subject -, SAN %.*s", (int)first, e->sans);
    else snprintf(text, sizeof text, "subject %s", e->subject[0] ? e->subject : "-");
    return text;
}

static void log_handshake(const log_entry *e) {
    char address[INET6_ADDRSTRLEN];
    if (!may_log(node.ctx)) return;
    address_text(&e->address, address);
    RedisModule_Log(node.ctx, "notice",
                    "the TLS handshake of a client, %s:%u, has failed: %s (%s; %s, serial %s)",
                    address, e->port, reason_name(e->why), e->detail, shown_name(e),
                    e->serial[0] ? e->serial : "-");
}

static void log_door(const log_entry *e) {
    char address[INET6_ADDRSTRLEN], key[2 * HASH_BYTES + 1] = "-";
    writer hex = {(uint8_t *)key, 0, sizeof key - 1, false};
    address_text(&e->address, address);
    if (e->certified) put_hex(&hex, span_of(e->key, HASH_BYTES));
    RedisModule_Log(node.ctx, "notice", "%s at the %s, %s:%u: %s (%s, key %s)", e->event, e->door,
                    address, e->port, reason_name(e->why), shown_name(e), key);
}

/* What CERTAUTH.LOG calls a door_event. */
static const char *const DOOR_EVENTS[] = {"peer-refused", "peer-would-refuse", "peer-joined",
                                          "handshake"};

static void record_door(const door_note *n) {
    static const char *const doors[] = {"clients' port", "bus", "link"};
    static identity id;
    path issuers = {.count = 1};
    session s = {.address = n->address, .leaf = n->leaf ? &id : NULL, .issuers = &issuers};
    if (n->leaf) {
        identity_read(n->leaf, &id);
        identity_cert(&id);
        identity_key(&id);
    }
    issuers.known = n->issuer && certificate_key(n->issuer, issuers.ca[0].key);
    log_entry *e = record(&s, DOOR_EVENTS[n->event], n->why, span_of(NULL, 0));
    bool client = n->event == DOOR_HANDSHAKE;
    e->door = client ? NULL : doors[n->at];
    e->port = n->port;
    memcpy(e->detail, n->detail, sizeof n->detail);
    if (client) log_handshake(e);
    else log_door(e);
}

void tell_doors(void) {
    door_note n;
    while (doors_next(&n)) {
        record_door(&n);
        certificate_free(n.leaf);
        certificate_free(n.issuer);
    }
}

/* Cuts at the end of `room`, with a mark. */
static void put_cut(char *out, size_t room, span text) {
    size_t len = text.len < room ? text.len : room - 4;
    while (len < text.len && len > 0 && (text.ptr[len] & 0xc0) == 0x80)
        len--; /* not within a character */
    if (len) memcpy(out, text.ptr, len);
    memcpy(out + len, text.len < room ? "" : "...", text.len < room ? 1 : 4);
}

static void put_cut_name(char *out, size_t room, span name) {
    char text[2 * NAME_BYTES];
    put_cut(out, room, span_of(text, name_print(name, text, sizeof text)));
}

/* What does not fit is left out, and "..." says so. */
static void put_sans(char *out, size_t room, const identity *id) {
    writer w = {(uint8_t *)out, 0, room - sizeof "...\n", false};
    size_t at = 0, fits = 0;
    bind_kind kind;
    span value;
    while (identity_next_san(id, &at, &kind, &value)) {
        put_string(&w, bind_kind_name(kind));
        put_byte(&w, ':');
        if (kind == BIND_IP) put_address(&w, value);
        else put_visible(&w, value, "\\x");
        put_byte(&w, '\n');
        if (w.full) break;
        fits = w.len;
    }
    memcpy(out + fits, w.full ? "...\n" : "", w.full ? sizeof "...\n" : 1);
}

/* Empty where the address is not known: a unix socket, a peer that has gone. */
void address_text(const ip *address, char out[INET6_ADDRSTRLEN]) {
    out[0] = 0;
    if (address->len)
        inet_ntop(address->len == 4 ? AF_INET : AF_INET6, address->bytes, out, INET6_ADDRSTRLEN);
}

/* What there is to be told of a client's certificate; nothing where there is none. What a session keeps
 * has its hashes. */
const identity *leaf_of(const session *s) {
    static const identity none;
    return s && s->leaf ? s->leaf : &none;
}

/* `user` may be empty. */
log_entry *record(const session *s, const char *event, reason why, span user) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    log_entry *e = &node.log[++node.seq % LOG_ENTRIES];
    const identity *id = leaf_of(s);
    memset(e, 0, offsetof(log_entry, user));
    e->seq = node.seq;
    e->client = s->id;
    e->time = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
    e->event = event;
    e->why = why;
    e->address = s->address;
    e->port = s->port;
    put_cut(e->user, sizeof e->user, user);
    put_cut_name(e->subject, sizeof e->subject, id->subject);
    put_cut_name(e->issuer, sizeof e->issuer, id->issuer);
    put_sans(e->sans, sizeof e->sans, id);
    put_cut(e->ocsp, sizeof e->ocsp, id->ocsp);
    writer serial = {(uint8_t *)e->serial, 0, sizeof e->serial, false};
    put_hex(&serial, id->serial);
    put_byte(&serial, 0);
    e->detail[0] = 0;
    e->certified = s->leaf != NULL;
    e->serves = id->serves;
    e->not_after = id->not_after;
    memcpy(e->cert, id->cert, HASH_BYTES);
    memcpy(e->key, id->key, HASH_BYTES);
    e->vouched = s->leaf && s->issuers->known && s->issuers->count > 0;
    if (e->vouched) memcpy(e->ca, s->issuers->ca[0].key, HASH_BYTES);
    return e;
}

void give_ticket(log_entry *e) {
    uint8_t key[KEY_BYTES];
    lookup_key(span_of((const uint8_t *)&e->seq, sizeof e->seq), key);
    memcpy(&e->ticket, key, sizeof e->ticket);
    if (e->ticket == 0) e->ticket = 1;
}

void ticket_text(const log_entry *e, char out[TICKET_TEXT]) {
    out[0] = 0;
    if (e->ticket) snprintf(out, TICKET_TEXT, "%016llx", (unsigned long long)e->ticket);
}

/* What happens to the node and not to a client, for CERTAUTH.LOG and the server's. */
void tell(const char *event, const char *text) {
    static const session none;
    log_entry *e = record(&none, event, REASON_UNDECIDED, span_of(NULL, 0));
    put_cut(e->detail, sizeof e->detail, text_span(text));
    RedisModule_Log(node.ctx, "warning", "%s", text);
}

/* At most ten lines a second: a stranger must not fill the disk. The ring has them all. */
static bool may_log(RedisModuleCtx *ctx) {
    int64_t second = now_seconds();
    if (second != node.log_second) {
        if (node.logged > 10)
            RedisModule_Log(ctx, "notice", "%u more clients refused", node.logged - 10);
        node.log_second = second;
        node.logged = 0;
    }
    return node.logged++ < 10;
}

void log_refusal(RedisModuleCtx *ctx, const log_entry *e, bool shadow) {
    if (!may_log(ctx)) return;
    char address[INET6_ADDRSTRLEN];
    address_text(&e->address, address);
    RedisModule_Log(ctx, "notice", "client %llu from %s %srefused: %s (%s)",
                    (unsigned long long)e->client, address, shadow ? "would be " : "",
                    reason_name(e->why), shown_name(e));
}

void log_to_acl(RedisModuleCtx *ctx, const log_entry *e) {
    RedisModuleString *object = string_of(text_span(reason_name(e->why)));
    if (RedisModule_ACLAddLogEntryByUserName) {
        const char *name = e->subject[0] ? e->subject : shown_name(e);
        RedisModuleString *user = string_of(text_span(e->certified ? name : "no certificate"));
        RedisModule_ACLAddLogEntryByUserName(ctx, user, object, REDISMODULE_ACL_LOG_AUTH);
        RedisModule_FreeString(NULL, user);
    } else {
        RedisModule_ACLAddLogEntry(ctx, node.nobody, object, REDISMODULE_ACL_LOG_AUTH);
    }
    RedisModule_FreeString(NULL, object);
}

void count(const decision *d) {
    if (d->act == ACTION_LOGIN) node.logins++;
    if (d->act != ACTION_REFUSE) return;
    node.refused++;
    node.reasons[d->why]++;
}
