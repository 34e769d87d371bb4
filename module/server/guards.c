/* What was made or set once is looked at again. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <sys/stat.h>

#include <openssl/x509.h>

/* ---- Once a second ---- */

/* A user that is not what its line says: one of the bootstrap file, one of the policy, or `default`
 * where the journal cannot be read. */
static void repair_user(span name) {
    const RedisModuleString *expected =
        RedisModule_DictGetC(node.managed, (void *)(uintptr_t)name.ptr, name.len, NULL);
    bool first_look = expected && string_span(expected).len == 0; /* see set_user */
    const rule *own = policy_user(node.bootstrap, LINE_USER, name);
    const rule *line = own ? own : policy_user(node.policy, LINE_USER, name);
    const made_user *made = made_find(name);
    if (!first_look) {
        RedisModule_Log(node.ctx, "warning", "user '%.*s' was changed by hand: restored",
                        (int)name.len, (const char *)name.ptr);
    }
    if (line) apply_user(line, own == NULL);
    else if (made) set_user(name, text_span(made->rules));
    else set_user(name, LITERAL("resetpass off"));
    if (first_look) know_user(name);
    const regime now = regime_now();
    if (span_equal(name, LITERAL("default")) && default_is_off(&now)) close_default(NULL);
}

static bool has_drifted(span name, const RedisModuleString *expected) {
    if (string_span(expected).len == 0) return true;
    RedisModuleString *now = user_rules(name);
    bool same = now && span_equal(string_span(now), string_span(expected));
    if (now) RedisModule_FreeString(NULL, now);
    return !same;
}

/* Users that somebody changed by hand, since a line is their whole state. A sixtieth a second, at least
 * a thousand, so that all are seen within a minute; `default` each time, for it is everybody's. */
void repair_users(void) {
    enum { SLICE = 1000 };
    static char last[520];
    static size_t last_len;
    RedisModuleString *drifted[SLICE], *expected;
    size_t found = 0, seen = 0, name_len, most = RedisModule_DictSize(node.managed) / 60 + SLICE;
    char *name;
    expected = RedisModule_DictGetC(node.managed, (void *)(uintptr_t)"default", 7, NULL);
    if (expected && has_drifted(LITERAL("default"), expected)) repair_user(LITERAL("default"));
    RedisModuleDictIter *at =
        RedisModule_DictIteratorStartC(node.managed, last_len ? ">" : "^", last, last_len);
    while (seen++ < most && found < SLICE &&
           (name = RedisModule_DictNextC(at, &name_len, (void **)&expected)) != NULL) {
        last_len = name_len < sizeof last ? name_len : 0;
        memcpy(last, name, last_len);
        if (has_drifted(span_of(name, name_len), expected))
            drifted[found++] = string_of(span_of(name, name_len));
    }
    if (seen <= most && found < SLICE) last_len = 0; /* the end: from the start next time */
    RedisModule_DictIteratorStop(at); /* before the repairs, which change the dictionary */
    int64_t stop = now_us() + 10000;
    size_t done = 0;
    while (done < found && (done == 0 || now_us() < stop))
        repair_user(string_span(drifted[done++]));
    if (done < found) { /* go on behind the last one that was repaired */
        span at_last = string_span(drifted[done - 1]);
        last_len = at_last.len < sizeof last ? at_last.len : 0;
        memcpy(last, at_last.ptr, last_len);
    }
    for (size_t i = 0; i < found; i++) RedisModule_FreeString(NULL, drifted[i]);
}

/* The server's own certificate login, or another tls-ca-cert-dir, set by hand. */
void repair_configuration(void) {
    static bool told;
    fault why;
    bool good = !enforced() || switch_off_native_login(&why);
    if (!good && !told) RedisModule_Log(node.ctx, "warning", "tls-auth-clients-user: %s", why.text);
    told = !good;
    apply_client_auth();
    if (!node.look.under_way && !node.order && moved_trust()) {
        learn_openssl();
        node.look.next = 0;
    }
    follow_doors();
}

/* ---- Guards are looked at again ----
 *
 * What was made or found good at the start may be gone by the next one, and what was set may be set to
 * something else by hand: a look finds it while there is time. */

/* What opens or closes a door of the server, and is not ours to set. */
void watch_settings(void) {
    static const char *const names[] = {"port", "tls-port", "bind", "tls-ca-cert-file"};
    static char last[sizeof names / sizeof *names][512];
    static bool known;
    char now[512];
    fault text;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!config_get(names[i], now, sizeof now) || strcmp(now, last[i]) == 0) continue;
        fail(&text, "%s was '%.80s' and is '%.80s' now", names[i], last[i], now);
        memcpy(last[i], now, sizeof now);
        if (known) tell("setting", text.text);
    }
    known = true;
}

void watch_trust(void) {
    static fault last = {"managed"};
    static bool known;
    fault text;
    bool expected = !known && strncmp(node.trust_state.text, "not managed", 11) == 0;
    known = true;
    if (strcmp(node.trust_state.text, last.text) == 0) return;
    last = node.trust_state;
    fail(&text, "managed trust: %.240s", last.text);
    if (!expected) tell("trust", text.text);
}

/* Two looks have to find the same: a pair that is half replaced is none. */
static void look_at_files(look *l) {
    shown_stat(&l->files, &l->now);
    l->renewed = shown_same(&l->now, &l->last) && !shown_same(&l->now, &l->read);
    l->unfit.text[0] = 0;
    if (l->renewed) shown_read(&l->files, l->leaves, &l->unfit);
}

static void say_own(const char *text) {
    own_certificate *o = &node.own;
    if (text[0] && strcmp(text, o->wrong.text) != 0) tell("certificate", text);
    fail(&o->wrong, "%s", text);
}

/* Would the other nodes refuse it? They have this policy as well: so where it knows the key that this node
 * shows now, or there are links between nodes, it has to know the next one. */
static bool must_wait(const look *l, int which) {
    own_certificate *o = &node.own;
    X509 *leaf = l->leaves[which];
    fault why;
    if (leaf == NULL) return false;
    reason said = doors_would_say(leaf);
    if (doors_now() != DOORS_GUARDED || said == REASON_MATCHED) return false;
    if (said == REASON_NO_BINDING && !internal_links() && !doors_own_is_bound()) return false;
    bool unknown = said == REASON_NO_BINDING;
    o->waits = unknown && certificate_key(leaf, o->next);
    fail(&why, "%s: the key of %.150s is %s; the old certificate is still shown",
         unknown ? "waits" : "refused", l->files.pairs[which].certificate,
         unknown ? "bound nowhere, so the other nodes would refuse it" : reason_name(said));
    say_own(why.text);
    return true;
}

/* CONFIG SET reads all of them, also where the value stays (VOLATILE_CONFIG, config.c). */
static void show_files(const look *l) {
    own_certificate *o = &node.own;
    const char *file = l->files.pairs[0].certificate;
    fault why;
    for (int i = 0; i < 2; i++) {
        if (must_wait(l, i)) return;
    }
    if (shown_same(&l->now, &o->failed)) return;
    if (!config_set("tls-cert-file", file, &why)) {
        o->failed = l->now;
        say_own(why.text);
        return;
    }
    o->read = l->now; /* and not as they are by now, which may be later */
    say_own("");
    fail(&why, "%.200s has changed, and is shown from now on", file);
    tell("certificate", why.text);
}

static bool is_behind(const own_certificate *o) { return !shown_same(&o->last, &o->read); }

static void end_look_at_files(look *l) {
    own_certificate *o = &node.own;
    o->last = l->now;
    if (l->renewed || !is_behind(o)) o->waits = false;
    if (!is_behind(o)) say_own("");
    else if (l->unfit.text[0]) say_own(l->unfit.text);
    else if (l->renewed) show_files(l);
    for (int i = 0; i < 2; i++) {
        X509_free(l->leaves[i]);
        l->leaves[i] = NULL;
    }
}

static void look_is_over(void *none) {
    (void)none;
    node.look.done = true;
    act_in(0);
}

/* Not by the main thread: a disk may take its time. */
static void *look_in_thread(void *none) {
    look *l = &node.look;
    fault why;
    (void)none;
    l->wrong.text[0] = 0;
    bool good = l->journal && journal_look(node.journal, node.policy, &l->wrong);
    mkdir(node.trust, 0755); /* where it is gone */
    if (good && l->ever && !make_markers(&why)) l->wrong = why;
    look_at_files(l);
    write_trust();
    RedisModule_EventLoopAddOneShot(look_is_over, NULL);
    return NULL;
}

void start_look(void) {
    look *l = &node.look;
    if (l->under_way || node.order || now_us() < l->next) return;
    l->journal = !damaged();
    l->ever = node.ever;
    learn_files(&l->files);
    l->read = node.own.read;
    l->last = node.own.last;
    plan_trust();
    l->under_way = in_thread(look_in_thread, NULL);
}

void end_look(void) {
    enum { SECONDS = 5 };
    look *l = &node.look;
    if (!l->done) return;
    l->done = l->under_way = false;
    end_look_at_files(l);
    bool soon = l->wrong.text[0] || is_behind(&node.own);
    l->next = now_us() + (soon ? 1 : SECONDS) * 1000000;
    if (l->journal) tell_journal();
    if (strcmp(l->wrong.text, node.lost.text) != 0)
        tell("journal", l->wrong.text[0] ? l->wrong.text : "the journal is as it should be again");
    node.lost = l->wrong;
    const trust *t = &node.trust_files;
    if (t->again && t->ours && t->work.changed)
        tell("trust", "managed trust: files were changed by hand, and are the policy's again");
    take_trust();
}
