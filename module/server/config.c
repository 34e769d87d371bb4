/* The server's configuration: settings, its trust store, and the doors that are not the clients'. */
#define _XOPEN_SOURCE 700
#include "server.h"

#include <limits.h>
#include <stdlib.h>
#include <strings.h>

#include <openssl/x509.h>

/* ---- Configuration of the server ---- */

/* A setting as the server last told it. CONFIG GET is a command: each of ours is counted in commandstats,
 * and is in SLOWLOG where an operator logs all. */
typedef struct known_setting {
    struct known_setting *next;
    const char *name; /* a literal */
    char *value;      /* owned; NULL: this server has no such setting */
    int64_t asked;    /* microseconds; 0: it may have changed since */
} known_setting;

static known_setting *settings_known;

static known_setting *find_setting(const char *name) {
    known_setting *s = settings_known;
    while (s && strcmp(s->name, name) != 0) s = s->next;
    return s;
}

static char *ask_setting(const char *name) {
    RedisModuleCallReply *reply = RedisModule_Call(node.ctx, "CONFIG", "cc", "GET", name);
    RedisModuleCallReply *value =
        reply && RedisModule_CallReplyType(reply) == REDISMODULE_REPLY_ARRAY &&
                RedisModule_CallReplyLength(reply) == 2
            ? RedisModule_CallReplyArrayElement(reply, 1)
            : NULL;
    size_t len = 0;
    const char *text = value ? RedisModule_CallReplyStringPtr(value, &len) : NULL;
    char *copy = text ? must(calloc(1, len + 1)) : NULL;
    if (copy) memcpy(copy, text, len);
    if (reply) RedisModule_FreeCallReply(reply);
    return copy;
}

/* Text, until the next call; NULL: this server has no such setting. `name` is a literal. CONFIG SET tells
 * us of changes (on_config_change); another module's RM_ConfigSet tells nobody (Redis 8.6, module.c). */
static const char *setting_now(const char *name) {
    enum { SECONDS = 60 };
    known_setting *s = find_setting(name);
    if (s == NULL) {
        s = must(calloc(1, sizeof *s));
        s->name = name;
        s->next = settings_known;
        settings_known = s;
    }
    if (s->asked == 0 || now_us() >= s->asked + SECONDS * INT64_C(1000000)) {
        free(s->value);
        s->value = ask_setting(name);
        s->asked = now_us();
    }
    return s->value;
}

bool config_get(const char *name, char *out, size_t room) {
    const char *value = setting_now(name);
    size_t len = value ? strlen(value) : 0;
    bool good = value && len < room;
    if (good) memcpy(out, value, len);
    out[good ? len : 0] = 0;
    return good;
}

bool config_set(const char *name, const char *value, fault *why) {
    return call("CONFIG", "SET", text_span(name), text_span(value), why);
}

/* The server's own certificate login knows no issuer, no expiry and no refusal, and runs before us. */
bool switch_off_native_login(fault *why) {
    char value[64];
    if (!config_get("tls-auth-clients-user", value, sizeof value) || value[0] == 0) return true;
    if (strcasecmp(value, "off") == 0) return true;
    if (!config_set("tls-auth-clients-user", "off", why)) return false;
    RedisModule_Log(node.ctx, "warning",
                    "switched tls-auth-clients-user off (it was %s): the certauth policy maps "
                    "certificates to users",
                    value);
    return true;
}

/* The setting by which this node has links besides those of clients, to which the trust store is open
 * as well; NULL where it has none. */
const char *internal_links(void) {
    static const char *const settings[] = {"cluster-enabled", "tls-replication"};
    char value[8];
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (config_get(settings[i], value, sizeof value) && strcmp(value, "yes") == 0)
            return settings[i];
    }
    return NULL;
}

/* ---- The doors that are not the clients' ---- */

/* A server with an OpenSSL of its own asks nobody: until that is known, guarding costs nothing. */
static bool can_guard(void) { return node.watches && (!node.blind || doors_asked()); }

/* Only then the policy's CAs may come into the trust store. */
bool is_known_to_guard(void) { return node.watches && (node.shares || doors_asked()); }

/* As the server has them where the policy is not enforced. Unless the policy's CAs have come into the
 * trust store already: those are of clients. */
static doors_mode doors_wanted(void) {
    bool shadow = policy_setting(node.policy, SET_ENFORCE) == ENFORCE_SHADOW;
    if (!can_guard()) return DOORS_OPEN;
    if (enforced() || damaged() || node.trusts) return DOORS_GUARDED;
    return shadow ? DOORS_WATCHED : DOORS_OPEN;
}

/* Makes a change of the policy; NULL: something else that counts at the doors has changed. */
void commit_to_doors(patch *change) {
    doors_lock();
    if (change) policy_commit(node.policy, change);
    doors_unlock(node.policy, node.bootstrap, doors_wanted());
    doors_sweep();
}

void follow_doors(void) {
    if (doors_now() != doors_wanted()) commit_to_doors(NULL);
}

/* False where no file is set. */
static bool learn_own(bool connects, const char *name) {
    char file[PATH_MAX];
    if (!config_get(name, file, sizeof file) || file[0] == 0) return false;
    doors_own(connects, file);
    return true;
}

void learn_doors(void) {
    char value[PATH_MAX];
    if (config_get("tls-port", value, sizeof value)) doors_client_port((uint16_t)atoi(value));
    doors_cluster(config_get("cluster-enabled", value, sizeof value) && strcmp(value, "yes") == 0);
    learn_own(false, "tls-cert-file");
    if (!learn_own(true, "tls-client-cert-file")) learn_own(true, "tls-cert-file");
}

/* Where the server has its certificates and keys from. */
void learn_files(shown_files *out) {
    static const char *const names[2][3] = {{"tls-cert-file", "tls-key-file", "tls-key-file-pass"},
                                            {"tls-client-cert-file", "tls-client-key-file",
                                             "tls-client-key-file-pass"}};
    for (int i = 0; i < 2; i++) {
        shown_pair *p = &out->pairs[i];
        config_get(names[i][0], p->certificate, sizeof p->certificate);
        config_get(names[i][1], p->key, sizeof p->key);
        config_get(names[i][2], p->password, sizeof p->password);
    }
}

/* The server has just read them. */
void note_files(void) {
    static shown_files files;
    learn_files(&files);
    shown_stat(&files, &node.own.read);
}

/* Each setting of TLS has it read them again, but for those of its doors (config.c of each version). */
static bool reads_files(const RedisModuleConfigChange *change) {
    for (uint32_t i = 0; change && i < change->num_changes; i++) {
        const char *name = change->config_names[i];
        if (strncmp(name, "tls-", 4) == 0 && strcmp(name, "tls-port") != 0 &&
            strncmp(name, "tls-auth-clients", 16) != 0)
            return true;
    }
    return false;
}

/* Within CONFIG SET: nobody has come to a new port yet. */
void on_config_change(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data) {
    const RedisModuleConfigChange *changed = data;
    (void)ctx, (void)event, (void)sub;
    for (size_t i = 0; i < changed->num_changes; i++) {
        known_setting *s = find_setting(changed->config_names[i]);
        if (s) s->asked = 0;
    }
    learn_doors();
    if (reads_files(data)) note_files();
}

/* The setting by which this server has doors that nobody guards, which keeps the policy's certificates
 * out of the trust store; NULL: they may go there. */
static const char *withheld(void) {
    bool allowed = policy_setting(node.policy, SET_INTERNAL_TRUST) == INTERNAL_TRUST_ALLOW;
    bool guarded = is_known_to_guard() && (enforced() || node.trusts);
    return allowed || guarded ? NULL : internal_links();
}

/* Does this value of tls-ca-cert-dir lead to our directory? In any thread. */
static bool is_directory(const char *value) {
    char real[PATH_MAX], ours[PATH_MAX];
    return value[0] && realpath(value, real) && realpath(node.trust, ours) &&
           strcmp(real, ours) == 0;
}

/* Our directory is used where the operator pointed the server at it. */
static bool uses_directory(void) {
    char value[PATH_MAX];
    return config_get("tls-ca-cert-dir", value, sizeof value) && is_directory(value);
}

/* `holds`: certificates of the policy are there. Files outlive enforcement, and restarts. */
void learn_trust(bool holds) {
    bool allowed = policy_setting(node.policy, SET_INTERNAL_TRUST) == INTERNAL_TRUST_ALLOW;
    node.trusts = holds && !allowed && internal_links() && uses_directory();
    follow_doors();
    doors_take(uses_directory() && withheld() == NULL);
}

static void say_trust(const char *links) {
    const char *why = is_known_to_guard() ? "the policy is not enforced"
                      : node.api_certificates
                          ? "with `certificates api` nobody checks clients that connect by it"
                          : "this server has an OpenSSL of its own, so nobody checks clients that "
                            "connect by it";
    fail(&node.trust_state,
         links ? "not managed: %s is on, and %s; `set internal-trust allow` would open it to "
                 "clients"
               : "managed",
         links, why);
}

/* A server that makes an SSL_CTX, as it does each time this is set (tlsConfigure in their tls.c), and does
 * not tell our libcrypto of it has another one. On Redis 7.0 nothing can be set while a cluster is down. */
static bool makes_contexts_of_ours(void) {
    char value[PATH_MAX];
    fault why;
    uint64_t before = handshake_contexts();
    return config_get("tls-ca-cert-dir", value, sizeof value) &&
           config_set("tls-ca-cert-dir", value, &why) && handshake_contexts() > before;
}

/* Is the server linked with an OpenSSL of its own, as a static one? To be known before a handshake is: such
 * a server would let the holder of any certificate of the policy's CAs to the cluster bus. */
void learn_openssl(void) {
    if (!node.watches || !internal_links() || is_known_to_guard()) return;
    node.shares = makes_contexts_of_ours();
    if (!is_known_to_guard())
        RedisModule_Log(
            node.ctx, "warning",
            "this server has an OpenSSL of its own: the cluster bus, and what this server "
            "connects to, are guarded by nobody, and the policy's CAs stay out of its trust store");
}

/* After a change of the policy's CAs. */
void learn_unverified(void) {
    const fault before = node.unverified;
    if (policy_unverified(node.policy, &node.unverified) == 0) node.unverified.text[0] = 0;
    if (node.unverified.text[0] && strcmp(before.text, node.unverified.text) != 0)
        tell("trust", node.unverified.text);
}

static void put_subject(fault *out, X509 *certificate) {
    char name[64] = "";
    if (certificate) X509_NAME_oneline(X509_get_subject_name(certificate), name, sizeof name);
    fail(out, "%.60s", name);
}

/* What the policy trusts beside roots, where nobody takes it in the handshakes of this server. With
 * `certificates api`, what the server's own files hold is not known. */
static void say_untaken(size_t pins, X509 *pin, size_t rootless, X509 *ca) {
    fault one, other;
    put_subject(&one, pin);
    put_subject(&other, ca);
    const char *why = !node.watches  ? "with certificates api nobody answers it"
                      : !can_guard() ? "this server has an OpenSSL of its own"
                                     : node.trust_state.text;
    fail(&node.untaken, "the TLS handshake takes %s%.60s%s%s%s%.60s%s: %.100s",
         pins ? "no pin line (" : "", one.text, pins ? ")" : "", pins && rootless ? ", and " : "",
         rootless ? "no ca line without its root (" : "", other.text, rootless ? ")" : "", why);
}

static void learn_untaken(void) {
    const fault before = node.untaken;
    X509 *pin = NULL, *ca = NULL;
    node.untaken.text[0] = 0;
    if (doors_takes() && can_guard()) return;
    size_t pins = policy_pins(node.policy, &pin);
    size_t rootless = node.watches ? handshake_rootless(node.policy, &ca)
                                   : policy_rootless(node.policy, NULL, &ca);
    if (pins || rootless) say_untaken(pins, pin, rootless, ca);
    certificate_free(pin);
    if (node.untaken.text[0] && strcmp(before.text, node.untaken.text) != 0)
        tell("trust", node.untaken.text);
}

/* What is to be written, from what the main thread knows. The bootstrap file's certificates are the
 * operator's own word; a CA of clients must not open the cluster bus and the links that this node makes.
 * Nothing goes away while the policy is not enforced, or cannot be read; but all does with the policy. */
void plan_trust(void) {
    trust *t = &node.trust_files;
    bool only = enforced() || policy_rules(node.policy) == 0;
    const char *links = withheld();
    config_get("tls-ca-cert-dir", t->setting, sizeof t->setting);
    t->again = t->ours && t->links == links && t->why.text[0] == 0;
    t->links = links;
    t->lines = t->links ? NULL : node.policy;
    t->work = (trust_work){.only = only && !damaged(), .stale = t->work.stale};
}

/* In any thread: the policy stays as it is meanwhile. */
void write_trust(void) {
    trust *t = &node.trust_files;
    t->why.text[0] = 0;
    t->ours = is_directory(t->setting);
    if (t->ours) trust_write(node.trust, t->lines, node.bootstrap, &t->work, &t->why);
    t->holds = trust_holds(node.trust, node.policy, node.bootstrap);
}

/* A thread has done its part. The server reads its trust store again only where it must: Valkey 9.1 reads
 * each file twice for that (tls.c, tlsRefreshCACertInfo), some 60 us a file. */
void take_trust(void) {
    trust *t = &node.trust_files;
    fault why;
    if (t->ours && t->work.stale) {
        t->work.stale = !config_set("tls-ca-cert-dir", t->setting, &why);
        if (t->work.stale && t->why.text[0] == 0) t->why = why;
    }
    learn_trust(t->holds);
    if (withheld() != t->links)
        node.look.next = 0; /* what it holds has us guard the doors, or not */
    say_trust(t->links);
    if (!t->ours) fail(&node.trust_state, "not managed: tls-ca-cert-dir is '%.80s'", t->setting);
    if (t->why.text[0]) node.trust_state = t->why;
    learn_untaken();
}

static void trust_is_over(void *none) {
    (void)none;
    node.trust_files.done = true;
    act_in(0);
}

static void *write_trust_in_thread(void *none) {
    (void)none;
    write_trust();
    RedisModule_EventLoopAddOneShot(trust_is_over, NULL);
    return NULL;
}

/* Not by the main thread: to write 2,000 files takes a fifth of a second. */
void start_trust(void) {
    trust *t = &node.trust_files;
    plan_trust();
    t->done = false;
    t->under_way = true;
    if (in_thread(write_trust_in_thread, NULL)) return;
    write_trust();
    t->done = true;
}

void end_trust(void) {
    trust *t = &node.trust_files;
    if (!t->under_way || !t->done) return;
    t->under_way = false;
    take_trust();
}

/* Is tls-ca-cert-dir, or what may be in it, another than at the last call? */
bool moved_trust(void) {
    static char last[PATH_MAX] = "?"; /* what no setting is: the first call says yes */
    static const char *last_links;
    char value[PATH_MAX];
    const char *links = withheld();
    if (!config_get("tls-ca-cert-dir", value, sizeof value)) return false;
    if (strcmp(value, last) == 0 && links == last_links) return false;
    memcpy(last, value, sizeof last);
    last_links = links;
    return true;
}

/* Of what somebody set by hand, if it is not what the policy says. */
static void tell_client_auth(const char *was, const char *is) {
    fault text;
    fail(&text,
         "tls-auth-clients had been set to '%s' by hand: set back to '%s', as the policy says", was,
         is);
    tell("setting", text.text);
}

/* Set when a change asks for it, and set back when somebody else has set it. What the operator had
 * set comes back when the policy asks for nothing any more. */
void apply_client_auth(void) {
    static bool told;
    static const char *const values[] = {NULL, "yes", "optional"};
    static char before[16];
    static const char *ours; /* what we have set; NULL: nothing */
    const char *value =
        enforced() ? values[policy_setting(node.policy, SET_TLS_CLIENT_AUTH)] : NULL;
    char now[sizeof before];
    fault why;
    if ((value == NULL && ours == NULL) || !config_get("tls-auth-clients", now, sizeof now)) return;
    const char *wanted = value ? value : strcmp(now, ours) == 0 ? before : now;
    if (value && ours == NULL) memcpy(before, now, sizeof before);
    bool same = strcmp(now, wanted) == 0;
    if (!same && !config_set("tls-auth-clients", wanted, &why)) {
        if (!told)
            RedisModule_Log(node.ctx, "warning", "tls-auth-clients could not be set: %s", why.text);
        told = true;
        return;
    }
    if (!same && value && ours == value) tell_client_auth(now, wanted);
    told = false;
    ours = value;
}
