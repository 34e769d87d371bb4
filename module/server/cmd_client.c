/* CERTAUTH.WHOAMI, LOGIN, EXPLAIN, SESSIONS and LOG. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>
#include <stdlib.h>

#include <arpa/inet.h>

/* ---- CERTAUTH.WHOAMI, LOGIN, EXPLAIN ---- */

int whoami(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv;
    if (argc != 1) return RedisModule_WrongArity(ctx);
    session *s = session_find(RedisModule_GetClientId(ctx));
    const identity *id = leaf_of(s);
    RedisModuleString *name = RedisModule_GetClientUserNameById(ctx, RedisModule_GetClientId(ctx));
    RedisModule_ReplyWithMap(ctx, 6);
    reply_optional(ctx, "user", name ? string_span(name) : span_of(NULL, 0));
    reply_named(ctx, "reason", reason_name(s ? s->why : REASON_UNDECIDED));
    reply_name(ctx, "subject", id->subject);
    reply_name(ctx, "issuer", id->issuer);
    reply_hex(ctx, "serial", id->serial);
    reply_text(ctx, "not_after");
    if (id->not_after) RedisModule_ReplyWithLongLong(ctx, id->not_after);
    else RedisModule_ReplyWithNull(ctx);
    if (name) RedisModule_FreeString(ctx, name);
    return REDISMODULE_OK;
}

int login(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    fault why;
    char text[320];
    if (argc > 2) return RedisModule_WrongArity(ctx);
    session *s = session_find(RedisModule_GetClientId(ctx));
    span user = argc == 2 ? string_span(argv[1]) : span_of(NULL, 0);
    if (s && s->leaf && choose(ctx, s, user, &why))
        return RedisModule_ReplyWithSimpleString(ctx, "OK");
    if (s == NULL || s->leaf == NULL) fail(&why, "this connection came without a certificate");
    snprintf(text, sizeof text, "DENIED %s", why.text);
    return RedisModule_ReplyWithError(ctx, text);
}

static void reply_trace(RedisModuleCtx *ctx, const request *r, const decision *d) {
    enum { MOST = 1000 }; /* lines looked at for the nearest: about a millisecond */
    static char text[65536];
    size_t len = decision_explain(node.policy, r, d, MOST, text, sizeof text), lines = 1;
    for (size_t i = 0; i < len; i++) lines += text[i] == '\n';
    reply_text(ctx, "trace");
    RedisModule_ReplyWithArray(ctx, (long)lines);
    span rest = span_of(text, len);
    while (lines--) {
        const uint8_t *newline = memchr(rest.ptr, '\n', rest.len);
        size_t line = newline ? (size_t)(newline - rest.ptr) : rest.len;
        RedisModule_ReplyWithStringBuffer(ctx, (const char *)rest.ptr, line);
        rest = span_skip(rest, line + (newline != NULL));
    }
}

static void reply_explanation(RedisModuleCtx *ctx, const request *r) {
    decision d = policy_decide(node.policy, node.bootstrap, r);
    bool named = d.act == ACTION_LOGIN || d.act == ACTION_CHOOSE;
    RedisModule_ReplyWithMap(ctx, 6);
    reply_named(ctx, "decision", action_name(d.act));
    reply_named(ctx, "reason", reason_name(d.why));
    reply_optional(ctx, "user", named ? decision_user(&d, 0) : span_of(NULL, 0));
    reply_name(ctx, "subject", r->leaf->subject);
    reply_optional(ctx, "line", d.line ? rule_text(d.line) : span_of(NULL, 0));
    reply_trace(ctx, r, &d);
}

/* Leaf first. The path is the handshake's, or ours where it was not asked or refuses; where it vouches for
 * nobody, what a connection would have. */
static handshake ask_handshake(identity *leaf, X509 *const *certificates, size_t given,
                               path *issuers) {
    char asks[16];
    fault unknown;
    handshake tls = handshake_ask(certificates[0], certificates + 1, given - 1, issuers);
    config_get("tls-auth-clients", asks, sizeof asks);
    if (strcmp(asks, "no") == 0)
        tls = (handshake){HANDSHAKE_WITHOUT, REASON_UNDECIDED, 0,
                          "this server asks for none (tls-auth-clients no)"};
    if (tls.state == HANDSHAKE_WITHOUT && strcmp(asks, "yes") == 0)
        tls.refused = REASON_NO_CERTIFICATE;
    if (tls.state == HANDSHAKE_ASKED && !tls.refused) {
        if (!issuers->known) path_of_session(leaf, certificates, 1, issuers);
        return tls;
    }
    path_verify(node.policy, certificates[0], certificates + 1, given - 1, 0, issuers, &unknown);
    if (!issuers->known)
        path_verify(node.bootstrap, certificates[0], certificates + 1, given - 1, 0, issuers, NULL);
    if (tls.state == HANDSHAKE_NOT_ASKED && !issuers->known && unknown.text[0]) {
        tls.refused = REASON_UNKNOWN_ALGORITHM;
        snprintf(tls.text, sizeof tls.text, "%.150s", unknown.text);
    }
    return tls;
}

/* EXPLAIN certificate [address] [TLS version]: what is known of a connection beside the certificate. */
static bool read_connection(RedisModuleString **argv, int argc, session *s, fault *why) {
    bool versioned = argc > 3;
    if (argc % 2 && !ip_parse((const char *)string_span(argv[2]).ptr, &s->address))
        return fail(why, "ERR not an IP address");
    if (!versioned) return true;
    s->tls_version = string_is(argv[argc - 1], "1.3")   ? 0x0304
                     : string_is(argv[argc - 1], "1.2") ? 0x0303
                                                        : 0;
    return (string_is(argv[argc - 2], "TLS") && s->tls_version) ||
           fail(why, "ERR behind the certificate, and the address of a client, stands TLS 1.2 or "
                     "TLS 1.3");
}

int explain(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    enum { MOST = PATH_LENGTH + 2 };
    static identity id;
    X509 *certificates[MOST];
    fault why;
    session s = {.issuers = NULL};
    path issuers;
    if (argc < 2 || argc > 5) return RedisModule_WrongArity(ctx);
    if (!may_administer(ctx, "LIST")) return deny(ctx, "LIST");
    if (!read_connection(argv, argc, &s, &why)) return RedisModule_ReplyWithError(ctx, why.text);
    size_t given = certificates_parse(string_span(argv[1]), certificates, MOST, &why);
    if (given == 0) {
        char text[300];
        snprintf(text, sizeof text, "ERR %s", why.text);
        return RedisModule_ReplyWithError(ctx, text);
    }
    identity_read(certificates[0], &id);
    handshake tls = ask_handshake(&id, certificates, given, &issuers);
    s.leaf = &id;
    s.issuers = &issuers;
    const regime now = regime_now();
    request r = request_for(&s, &now);
    r.tls = tls;
    r.managed = node.stamp.owner[0] != 0;
    reply_explanation(ctx, &r);
    while (given) certificate_free(certificates[--given]);
    return REDISMODULE_OK;
}

/* ---- CERTAUTH.SESSIONS and LOG ---- */

enum { PAGE = 1000 };

/* Options of NAME value pairs after the command. */
static bool read_page(RedisModuleString **argv, int argc, const char *start_word, long long *start,
                      long long *most, span *user, fault *why) {
    *start = 0;
    *most = PAGE;
    if (argc % 2 == 0) return fail(why, "ERR options come as a name and a value");
    for (int i = 1; i < argc; i += 2) {
        if (string_is(argv[i], start_word)) {
            if (!read_number(argv[i + 1], start, why)) return false;
        } else if (string_is(argv[i], "COUNT")) {
            if (!read_number(argv[i + 1], most, why)) return false;
        } else if (user && string_is(argv[i], "USER")) {
            *user = string_span(argv[i + 1]);
        } else {
            return fail(why, "ERR takes %s%s and COUNT", user ? "USER, " : "", start_word);
        }
    }
    if (*most < 1 || *most > PAGE) *most = PAGE;
    return true;
}

/* The keys of the CAs above a certificate, its issuer first: all that a login depends on. */
static void reply_path(RedisModuleCtx *ctx, const path *issuers) {
    uint8_t text[2 * HASH_BYTES];
    size_t count = issuers && issuers->known ? issuers->count : 0;
    reply_text(ctx, "path");
    RedisModule_ReplyWithArray(ctx, (long)count);
    for (size_t i = 0; i < count; i++) {
        writer hex = {text, 0, sizeof text, false};
        put_hex(&hex, span_of(issuers->ca[i].key, HASH_BYTES));
        RedisModule_ReplyWithStringBuffer(ctx, (const char *)text, hex.len);
    }
}

/* What would become of it: who it is now, who it would be, and whether it could stay connected. */
static void reply_future(RedisModuleCtx *ctx, const session *s, const regime *after) {
    decision d = decide(s, after);
    bool named = d.act == ACTION_LOGIN || d.act == ACTION_CHOOSE;
    RedisModuleString *name = RedisModule_GetClientUserNameById(ctx, s->id);
    span user = name ? string_span(name) : span_of(NULL, 0);
    reply_optional(ctx, "holds", user);
    reply_named(ctx, "then", action_name(d.act));
    reply_named(ctx, "then_reason", reason_name(d.why));
    reply_optional(ctx, "then_user", named ? decision_user(&d, 0) : span_of(NULL, 0));
    reply_number(ctx, "stays", !s->closing && survives(after, s, &d));
    if (name) RedisModule_FreeString(ctx, name);
}

/* `after` NULL: no change is asked about. */
static void reply_session(RedisModuleCtx *ctx, const session *s, const regime *after) {
    const identity *id = leaf_of(s);
    char address[INET6_ADDRSTRLEN];
    address_text(&s->address, address);
    RedisModule_ReplyWithMap(ctx, after ? 18 : 13);
    reply_number(ctx, "id", s->id);
    reply_named(ctx, "address", address);
    reply_optional(ctx, "user", s->user ? string_span(s->user) : span_of(NULL, 0));
    reply_named(ctx, "reason", reason_name(s->why));
    reply_name(ctx, "subject", id->subject);
    reply_hex(ctx, "serial", id->serial);
    reply_number(ctx, "since", (uint64_t)s->since);
    reply_number(ctx, "end", (uint64_t)s->end);
    bool vouched = s->leaf && s->issuers->known && s->issuers->count > 0;
    reply_hash(ctx, "cert", s->leaf, id->cert);
    reply_hash(ctx, "key", s->leaf, id->key);
    reply_hash(ctx, "ca", vouched, vouched ? s->issuers->ca[0].key : NULL);
    reply_number(ctx, "not_after", (uint64_t)id->not_after);
    reply_path(ctx, s->leaf ? s->issuers : NULL);
    if (after) reply_future(ctx, s, after);
}

/* What a page of sessions is of. */
typedef struct {
    long long cursor, most;
    RedisModuleString *user; /* owned; NULL: of all */
} session_page;

static bool is_on_page(const session *s, const session_page *p) {
    return p->user == NULL || (s->user && span_equal(string_span(s->user), string_span(p->user)));
}

/* The page ends early where it takes long: each session is decided, and many may be none of the user's. */
static void reply_sessions(RedisModuleCtx *ctx, const session_page *p, const regime *after) {
    enum { TICKS = 3000 };
    slice now = slice_start();
    session *s = NULL;
    long long found = 0;
    uint64_t from = session_key((uint64_t)p->cursor), last = 0;
    bool more;
    now.stop += TICKS;
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.sessions, ">", &from, sizeof from);
    RedisModule_ReplyWithMap(ctx, 2);
    reply_text(ctx, "sessions");
    RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
    while ((more = RedisModule_DictNextC(at, NULL, (void **)&s) != NULL) && found < p->most &&
           (last == 0 || slice_goes_on(&now))) {
        last = s->id;
        if (!is_on_page(s, p)) continue;
        reply_session(ctx, s, after);
        found++;
    }
    RedisModule_DictIteratorStop(at);
    RedisModule_ReplySetArrayLength(ctx, (long)found);
    reply_number(ctx, "cursor", more ? last : 0);
}

/* A change that is asked about and not made. */
typedef struct {
    RedisModuleBlockedClient *client;
    session_page page;
    write_order order; /* for the checks; nobody's but this question's */
    uint64_t edition;  /* of the policy that it is a change of */
    bool read;
} question;

/* As the write that its sender would make of it is checked. True where there is more to do. */
static bool check_wish(void *data, const slice *now) {
    question *q = data;
    if (q->edition != node.edition) return false;
    if (!q->read) {
        if (read_lines(q->order.change, false, &q->order.given, 1, now)) return true;
        q->read = true;
        q->order.when = transition_of(q->order.change);
        patch_finish(q->order.change, false);
    }
    return check_lines(&q->order, now);
}

static void answer_question(RedisModuleCtx *ctx, question *q) {
    write_order *wish = &q->order;
    if (q->edition != node.edition) {
        RedisModule_ReplyWithError(ctx, "CURSOR the policy has changed: start again with cursor 0");
    } else if (patch_problems(wish->change) || !check_change(wish)) {
        reply_error(ctx, wish);
    } else {
        const regime after = regime_after(wish->change);
        reply_sessions(ctx, &q->page, &after);
    }
}

static int reply_question(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv, (void)argc;
    answer_question(ctx, RedisModule_GetBlockedClientPrivateData(ctx));
    return REDISMODULE_OK;
}

static void free_question(RedisModuleCtx *ctx, void *data) {
    question *q = data;
    (void)ctx;
    drop_patch(q->order.change);
    if (q->page.user) RedisModule_FreeString(NULL, q->page.user);
    free(q->order.given.lines);
    free(q);
}

static bool ask_more(void *data, const slice *now) {
    question *q = data;
    if (check_wish(q, now)) return true;
    RedisModule_UnblockClient(q->client, q);
    return false;
}

/* Takes the page. */
static int ask(RedisModuleCtx *ctx, session_page which, bool force, RedisModuleString **texts,
               int count) {
    question *q = must(calloc(1, sizeof *q));
    slice now = slice_start();
    q->page = which;
    q->edition = node.edition;
    q->order.force = force;
    q->order.sender = RedisModule_GetClientId(ctx);
    q->order.change = patch_new(node.policy, FROM_WIRE);
    q->order.given = keep_lines(texts, count);
    if (check_wish(q, &now)) {
        q->client = RedisModule_BlockClient(ctx, reply_question, NULL, free_question, 0);
        add_chore(ask_more, q);
        return REDISMODULE_OK;
    }
    answer_question(ctx, q);
    free_question(ctx, q);
    return REDISMODULE_OK;
}

/* SESSIONS [USER name] [CURSOR id] [COUNT n] [[FORCE] LINES ±line …]: in the order of client ids;
 * the cursor of the answer is the last id, 0 when there are no more. LINES are a change that is not
 * made. */
int sessions(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    fault why;
    session_page which = {0};
    span user = {0};
    int given = 1;
    while (given < argc && !string_is(argv[given], "LINES") && !string_is(argv[given], "FORCE"))
        given += 2;
    if (!may_administer(ctx, "LIST")) return deny(ctx, "LIST");
    if (!read_page(argv, given < argc ? given : argc, "CURSOR", &which.cursor, &which.most, &user,
                   &why))
        return RedisModule_ReplyWithError(ctx, why.text);
    bool asks = given < argc, force = asks && string_is(argv[given], "FORCE");
    int from = given + force + 1, count = argc - from;
    if (asks && (count < 0 || !string_is(argv[from - 1], "LINES")))
        return RedisModule_ReplyWithError(ctx, "ERR FORCE stands before LINES");
    if (asks && !may_administer(ctx, "SETUSER")) return deny(ctx, "SETUSER");
    if (asks && !may_wait(ctx))
        return RedisModule_ReplyWithError(ctx,
                                          "ERR LINES is not for MULTI, scripts or the time while a "
                                          "dataset is loaded: the reply waits for them to be "
                                          "tried");
    if (asks && (!may_take_lines(argv + from, count, &why) || !has_journal(&why)))
        return RedisModule_ReplyWithError(ctx, why.text);
    if (user.len) which.user = string_of(user);
    if (asks) return ask(ctx, which, force, argv + from, count);
    reply_sessions(ctx, &which, NULL);
    if (which.user) RedisModule_FreeString(NULL, which.user);
    return REDISMODULE_OK;
}

/* Texts with a newline behind each. */
static void reply_lines(RedisModuleCtx *ctx, const char *name, const char *lines) {
    long count = 0;
    for (const char *at = lines; *at; at++) count += *at == '\n';
    reply_text(ctx, name);
    RedisModule_ReplyWithArray(ctx, count);
    for (const char *at = lines; *at;) {
        size_t len = strcspn(at, "\n");
        RedisModule_ReplyWithStringBuffer(ctx, at, len);
        at += len + 1;
    }
}

static void reply_entry(RedisModuleCtx *ctx, const log_entry *e) {
    char address[INET6_ADDRSTRLEN];
    address_text(&e->address, address);
    char ticket[TICKET_TEXT];
    ticket_text(e, ticket);
    RedisModule_ReplyWithMap(ctx, 21);
    reply_number(ctx, "seq", e->seq);
    reply_number(ctx, "time_us", (uint64_t)e->time);
    reply_named(ctx, "event", e->event);
    reply_named(ctx, "reason", reason_name(e->why));
    reply_number(ctx, "client", e->client);
    reply_named(ctx, "address", address);
    reply_named(ctx, "user", e->user);
    reply_named(ctx, "subject", e->subject);
    reply_named(ctx, "issuer", e->issuer);
    reply_named(ctx, "serial", e->serial);
    reply_hash(ctx, "cert", e->certified, e->cert);
    reply_hash(ctx, "key", e->certified, e->key);
    reply_hash(ctx, "ca", e->vouched, e->ca);
    reply_number(ctx, "not_after", (uint64_t)e->not_after);
    reply_optional(ctx, "door", e->door ? text_span(e->door) : span_of(NULL, 0));
    reply_text(ctx, "port");
    if (e->port) RedisModule_ReplyWithLongLong(ctx, e->port);
    else RedisModule_ReplyWithNull(ctx);
    reply_optional(ctx, "detail", text_span(e->detail));
    reply_text(ctx, "serves");
    if (e->serves) RedisModule_ReplyWithLongLong(ctx, 1);
    else RedisModule_ReplyWithNull(ctx);
    reply_lines(ctx, "sans", e->sans);
    reply_optional(ctx, "ticket", text_span(ticket));
    reply_optional(ctx, "ocsp", text_span(e->ocsp));
}

/* [ENDS seconds], which stands last: for so long ends of connections are told, an hour at most. */
static bool read_ends(RedisModuleString **argv, int *argc, fault *why) {
    enum { LONGEST = 3600 };
    long long seconds;
    if (*argc < 3 || *argc % 2 == 0 || !string_is(argv[*argc - 2], "ENDS")) return true;
    if (!read_number(argv[*argc - 1], &seconds, why)) return false;
    if (seconds > LONGEST) seconds = LONGEST;
    if (now_seconds() + seconds > node.ends_until) node.ends_until = now_seconds() + seconds;
    *argc -= 2;
    return true;
}

/* LOG [SINCE seq] [COUNT n] [ENDS seconds]: entries after `seq`, oldest first. `lost`: how many of those
 * asked for the ring does not hold any more. A reader that sees another `boot` starts from 0. */
int show_log(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    fault why;
    long long since, most;
    if (!may_administer(ctx, "LIST")) return deny(ctx, "LIST");
    if (!read_ends(argv, &argc, &why)) return RedisModule_ReplyWithError(ctx, why.text);
    if (!read_page(argv, argc, "SINCE", &since, &most, NULL, &why))
        return RedisModule_ReplyWithError(ctx, why.text);
    tell_doors();
    uint64_t oldest = node.seq > LOG_ENTRIES ? node.seq - LOG_ENTRIES : 0, from = (uint64_t)since;
    uint64_t lost = from < oldest ? oldest - from : 0, first = from + lost;
    uint64_t found = first < node.seq ? node.seq - first : 0;
    if (found > (uint64_t)most) found = (uint64_t)most;
    RedisModule_ReplyWithMap(ctx, 4);
    reply_named(ctx, "boot", node.boot);
    reply_number(ctx, "last", node.seq);
    reply_number(ctx, "lost", lost);
    reply_text(ctx, "entries");
    RedisModule_ReplyWithArray(ctx, (long)found);
    for (uint64_t i = 1; i <= found; i++) reply_entry(ctx, &node.log[(first + i) % LOG_ENTRIES]);
    return REDISMODULE_OK;
}
