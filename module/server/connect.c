/* A client connects; and the last connections are kept for administrators. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdlib.h>

/* ---- Connecting ---- */

/* Made while `default` was on, and left alone now: it would keep that, for switching it off cuts nobody.
 * Or the server's own certificate login has made it somebody. */
static bool may_be_left(const regime *r, const session *s, const decision *d) {
    if (d->act != ACTION_LEAVE || (!enforced() && !damaged())) return true;
    return !(s->id <= node.before && default_is_off(r)) && may_stay(r, s, d);
}

/* At a login the server says it when the client becomes the user: to ask before costs as much as the
 * user has ACL rules. */
static user_state ask_at_login(span name, void *under) {
    return enforced() && !node.settling ? USER_UNKNOWN : ask_server(name, under);
}

/* ---- Room for those who administrate ----
 *
 * Who holds all connections cannot be revoked where the control plane is not let in. So the last few
 * of `maxclients` are for unix sockets, peers, and anyone whom the bootstrap file binds. */

/* One in a hundred, at least eight; but not more than a quarter. */
static size_t reserve(void) {
    size_t part = node.room / 100 > 8 ? node.room / 100 : 8;
    return part < node.room / 4 ? part : node.room / 4;
}

/* What the server counts (networking.c, acceptCommonHandler), as we know it: clients, handshakes, and
 * links of the cluster bus. */
static size_t taken(void) { return RedisModule_DictSize(node.sessions) + tls_unclaimed(); }

/* Would that many more take from the reserve? A client about which we decide is among those taken. */
static bool is_full_for(size_t more) {
    return enforced() && node.room && taken() + more > node.room - reserve();
}

static bool lacks_room(const decision *d) {
    return is_full_for(0) && d->act != ACTION_REFUSE && !is_peer(d);
}

static void refuse_for_room(RedisModuleCtx *ctx, session *s, const peer *p, const decision *d) {
    bool named = d->act == ACTION_LOGIN || d->act == ACTION_CHOOSE;
    record(s, "full", d->why, named ? decision_user(d, 0) : span_of(NULL, 0));
    node.no_room++;
    s->act = ACTION_REFUSE;
    s->why = d->why;
    refuse_client(ctx, s, p);
}

/* Is it nobody, and has been for seconds? It came without a certificate, has not logged in, and
 * `default`, which it is, is off. */
static bool is_idle_stranger(const session *s) {
    enum { SECONDS = 5 };
    if (s->local || s->leaf || s->closing || s->act != ACTION_LEAVE) return false;
    if (now_seconds() < s->since + SECONDS) return false;
    RedisModuleString *name = RedisModule_GetClientUserNameById(node.ctx, s->id);
    bool nobody = name && span_equal(string_span(name), LITERAL("default"));
    if (name) RedisModule_FreeString(node.ctx, name);
    return nobody;
}

/* The oldest first, for a slice. True where there are more. */
static bool end_strangers(const slice *now) {
    static uint64_t seen;
    enum { MOST = 32 };
    uint64_t from = session_key(seen);
    size_t found = 0;
    session *s = NULL;
    bool more = true;
    const regime r = regime_now();
    if (!is_full_for(1) || !default_is_off(&r)) return false;
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.sessions, ">", &from, sizeof from);
    while (found < MOST && slice_goes_on(now) &&
           (more = RedisModule_DictNextC(at, NULL, (void **)&s) != NULL)) {
        seen = s->id;
        if (!is_idle_stranger(s)) continue;
        end_session(s, "full", s->why);
        found++;
    }
    RedisModule_DictIteratorStop(at);
    if (!more) seen = 0;
    return more;
}

static bool make_room(void *none, const slice *now) {
    (void)none;
    return end_strangers(now);
}

/* Once a second. A handshake takes a fraction of one; it has five, or one where there is no room. */
void look_at_room(void) {
    enum { LOOKS = 5 };
    static int64_t told;
    char text[24];
    fault why;
    node.room = config_get("maxclients", text, sizeof text) ? strtoul(text, NULL, 10) : 0;
    bool was = node.full;
    node.full = is_full_for(1); /* clients that come now are refused, and gone before we look */
    tls_end_unfinished(node.full ? 1 : LOOKS);
    if (node.full) add_chore(make_room, NULL);
    if (!node.full || was || now_seconds() < told + 60) return;
    told = now_seconds();
    fail(&why,
         "%zu of %zu connections (maxclients) are taken: the last %zu are for unix sockets, peers "
         "and users of the bootstrap file",
         taken(), node.room, reserve());
    tell("full", why.text);
}

/* The server gives what is kept to handshakes too, which are nobody's yet: half of it is kept from them. At
 * once, for who is revoked may have brought them; a second later others have come in their place. */
void keep_room(void) {
    size_t most = node.room - reserve() / 2, now = taken();
    if (node.room && now > most && enforced()) tls_make_room(now - most);
}

static void connected(RedisModuleCtx *ctx, session *s, const RedisModuleClientInfo *client) {
    peer found = {{NULL}, 0, NULL, -1, 0};
    bool tls = client->flags & REDISMODULE_CLIENTINFO_FLAG_SSL;
    bool readable = !tls || session_certificate(ctx, s, client->port, &found);
    const regime now = regime_now();
    s->socket = found.socket;
    s->tls_version = found.version;
    request r = request_for(s, &now);
    r.ask = ask_at_login;
    decision d = policy_decide(node.policy, node.bootstrap, &r);
    if (!readable && (enforced() || damaged()))
        d = (decision){.act = ACTION_REFUSE, .why = REASON_MALFORMED};
    if (!may_be_left(&now, s, &d)) d = (decision){.act = ACTION_REFUSE, .why = REASON_USER_OFF};
    if (d.act != ACTION_REFUSE && is_peer(&d)) tls_spare(&s->address);
    if (lacks_room(&d)) refuse_for_room(ctx, s, &found, &d);
    else enact(ctx, s, &found, d);
}

/* Told only where somebody has asked for it lately: it takes half of the ring. */
static void disconnected(session *s) {
    if (!s->local && now_seconds() < node.ends_until)
        record(s, "disconnected", s->why, s->user ? string_span(s->user) : span_of(NULL, 0));
    session_free(s);
}

void on_client_change(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data) {
    const RedisModuleClientInfo *client = data;
    (void)event;
    if (sub != REDISMODULE_CLIENT_CHANGE_CONNECTED) {
        session *ended = session_find(client->id);
        if (ended)
            disconnected(ended); /* links that this server made also end here, unknown to us */
        return;
    }
    /* The first client after a start has nobody beside it that could run anything. After MODULE LOAD a
     * script may be behind that in one breath: who comes meanwhile counts as one from before. */
    if (!script_runs()) put_in_force();
    session *s = session_new(client->id, client->addr,
                             client->flags & REDISMODULE_CLIENTINFO_FLAG_UNIXSOCKET);
    s->port = client->port;
    if (!s->local && node.started) connected(ctx, s, client);
}
