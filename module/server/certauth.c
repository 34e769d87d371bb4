/* Loading the module: its arguments, its commands, and what it runs on.
 *
 *     connect.c ─▶ session.c ─▶ policy_decide ─▶ login.c: become the user, wait, be left, be refused
 *     cmd_policy.c ─▶ write.c: check ─▶ journal (a thread) ─▶ change.c: users, trust, lines, sweep ─▶ reply
 *
 * What the core decides about a certificate is done here. What is decided here is only who may go on
 * holding a user that it came to by AUTH or RESET: see rights.c, may_hold.
 *
 * The server's main thread does all of it but what takes long of a change: holding many lines against
 * the policy, the journal, the new tables, and freeing what went. Hazards of the API, version
 * by version, are named where they are met (docs/servers.md). */
#define _GNU_SOURCE /* dladdr(3) */
#include "server.h"

#include <dlfcn.h>
#include <stdio.h>

#include <openssl/rand.h>

/* ---- Loading ---- */

/* CONFIG REWRITE writes the loadmodule line without the quotes that stood in it (config.c,
 * rewriteConfigLoadmoduleOption): at the next start its words would be others. */
static bool check_word(const char *word, fault *why) {
    if (word[0] && strpbrk(word, " \t\n\v\f\r\"'") == NULL) return true;
    return fail(why,
                "'%.120s' in the loadmodule line is empty, or holds a blank or a quote: CONFIG "
                "REWRITE "
                "loses what quotes it. Give it another path; a symbolic link will do",
                word);
}

static bool check_words(RedisModuleString **argv, int argc, fault *why) {
    Dl_info module; /* whose path is the line's first word */
    static const char here;
    if (dladdr(&here, &module) && !check_word(module.dli_fname, why)) return false;
    for (int i = 0; i < argc; i++) {
        if (!check_word((const char *)string_span(argv[i]).ptr, why)) return false;
    }
    return true;
}

static bool read_arguments(RedisModuleString **argv, int argc, fault *why) {
    span directory = {0};
    if (!check_words(argv, argc, why)) return false;
    for (int i = 0; i < argc; i += 2) {
        if (i + 1 == argc)
            return fail(why, "'%.60s' lacks its value", (const char *)string_span(argv[i]).ptr);
        span value = string_span(argv[i + 1]);
        if (string_is(argv[i], "journal")) directory = value;
        else if (string_is(argv[i], "certificates") && string_is(argv[i + 1], "api"))
            node.api_certificates = true;
        else if (string_is(argv[i], "refusals") && string_is(argv[i + 1], "told"))
            node.tells = true;
        else if (string_is(argv[i], "bootstrap")) {
            if (!read_bootstrap((const char *)value.ptr, why)) return false;
        } else
            return fail(why, "'%.60s %.60s' is not an argument",
                        (const char *)string_span(argv[i]).ptr, (const char *)value.ptr);
    }
    if (directory.len == 0)
        return fail(why,
                    "the journal is missing: loadmodule certauth.so journal PATH [bootstrap FILE]");
    open_journal(directory);
    return true;
}

static bool check_server(fault *why) {
    void *none;
    node.is_valkey = RedisModule_GetApi("ValkeyModule_GetClientId", &none) == REDISMODULE_OK;
    node.version = RedisModule_GetServerVersion ? RedisModule_GetServerVersion() : 0;
    if (node.version >= 0x070006) return true;
    return fail(why, "Redis 7.0.6 or later is needed: earlier ones reset a client's database when "
                     "it connects "
                     "(redis PR 11500)");
}

/* The first release of each line without the faults published of closing TLS clients, as
 * RedisModule_GetServerVersion() has it. docs/servers.md names the faults. */
typedef struct {
    bool valkey;
    int release;
} mended;
static const mended MENDED[] = {
    {false, 0x070210}, {false, 0x07040b}, {false, 0x080209}, {false, 0x080406},
    {false, 0x080606}, {false, 0x080802}, {false, 0x080a01}, {true, 0x07020e},
    {true, 0x08000a},  {true, 0x080109},  {true, 0x090005},  {true, 0x090101},
};

/* The release to change to: 0 where none need be, -1 where the line of this server has none. */
static int better_release(void) {
    int newest = 0;
    for (size_t i = 0; i < sizeof MENDED / sizeof *MENDED; i++) {
        if (MENDED[i].valkey != node.is_valkey) continue;
        newest = MENDED[i].release;
        if (node.version >> 8 == newest >> 8) return node.version < newest ? newest : 0;
    }
    return node.version < newest ? -1 : 0;
}

static void version_text(int version, char out[16]) {
    snprintf(out, 16, "%d.%d.%d", version >> 16 & 255, version >> 8 & 255, version & 255);
}

/* As MODULE LIST has it: two digits for each part of 1.2.3, so 10203. */
static int version_number(void) {
    int parts[3] = {0, 0, 0}, at = 0;
    for (const char *c = CERTAUTH_VERSION; *c && at < 3; c++) {
        if (*c >= '0' && *c <= '9') parts[at] = (parts[at] * 10 + (*c - '0')) % 100;
        else at++;
    }
    return parts[0] * 10000 + parts[1] * 100 + parts[2];
}

static void tell_server(RedisModuleCtx *ctx) {
    const char *name = node.is_valkey ? "Valkey" : "Redis";
    int better = better_release();
    char here[16], least[16];
    version_text(node.version, here);
    version_text(better, least);
    if (better == 0) {
        RedisModule_Log(ctx, "notice", "certauth runs on %s %s", name, here);
        return;
    }
    RedisModule_Log(ctx, "warning",
                    "certauth runs on %s %s, of which a fault in closing TLS clients is published "
                    "(%s): unless its package has the fix, use %s",
                    name, here, node.is_valkey ? "CVE-2026-56684" : "CVE-2026-81934",
                    better > 0 ? least : "a later line (no release of this one has it)");
}

/* Who may run what is the ACL's business: LOGIN and WHOAMI are for everybody. */
static const struct {
    const char *name;
    RedisModuleCmdFunc run;
    const char *flags;
} COMMANDS[] = {
    {"certauth.whoami", whoami, "no-auth fast allow-loading allow-stale"},
    {"certauth.login", login, "no-auth fast allow-loading allow-stale"},
    {"certauth.explain", explain, "admin allow-loading allow-stale"},
    {"certauth.sessions", sessions, "admin allow-loading allow-stale"},
    {"certauth.log", show_log, "admin allow-loading allow-stale"},
    {"certauth.acl", acl_load, "admin deny-script allow-loading allow-stale"},
    {"certauth.acl_load", acl_load_unasked, "no-auth deny-script allow-loading allow-stale"},
    {"certauth.policy", NULL, "admin"},
};
static const struct {
    const char *name;
    RedisModuleCmdFunc run;
    const char *flags;
} POLICY_COMMANDS[] = {
    {"load", policy_load, "admin deny-script allow-stale"},
    {"patch", policy_patch, "admin deny-script allow-stale"},
    {"stage", policy_stage, "admin deny-script allow-stale"},
    {"commit", policy_commit_stage, "admin deny-script allow-stale"},
    {"show", policy_show, "admin allow-loading allow-stale"},
    {"status", policy_status, "admin allow-loading allow-stale"},
};

/* `@admin` and `@dangerous` are not taken from the flags of a module's command (7.2 and later). */
static void set_categories(RedisModuleCommand *command, const char *flags) {
    if (RedisModule_SetCommandACLCategories == NULL || command == NULL) return;
    bool admin = strncmp(flags, "admin", 5) == 0;
    RedisModule_SetCommandACLCategories(command, admin ? "admin dangerous" : "fast connection");
}

static bool make_commands(RedisModuleCtx *ctx) {
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        if (RedisModule_CreateCommand(ctx, COMMANDS[i].name, COMMANDS[i].run, COMMANDS[i].flags, 0,
                                      0, 0))
            return false;
        set_categories(RedisModule_GetCommand(ctx, COMMANDS[i].name), COMMANDS[i].flags);
    }
    RedisModuleCommand *parent = RedisModule_GetCommand(ctx, "certauth.policy");
    for (size_t i = 0; parent && i < sizeof POLICY_COMMANDS / sizeof *POLICY_COMMANDS; i++) {
        char name[64];
        if (RedisModule_CreateSubcommand(parent, POLICY_COMMANDS[i].name, POLICY_COMMANDS[i].run,
                                         POLICY_COMMANDS[i].flags, 0, 0, 0))
            return false;
        snprintf(name, sizeof name, "certauth.policy|%s", POLICY_COMMANDS[i].name);
        set_categories(RedisModule_GetCommand(ctx, name), POLICY_COMMANDS[i].flags);
    }
    return parent != NULL;
}

static void make_boot_id(void) {
    uint8_t random[16] = {0};
    must(RAND_bytes(random, sizeof random) == 1 ? random : NULL);
    writer w = {(uint8_t *)node.boot, 0, sizeof node.boot - 1, false};
    put_hex(&w, span_of(random, sizeof random));
}

static void log_end(const char *text) { RedisModule_Log(node.ctx, "warning", "%s", text); }

static RedisModuleDict **const DICTS[] = {&node.sessions, &node.ends,  &node.due,    &node.managed,
                                          &node.made,     &node.spent, &node.changed};

static void make_state(RedisModuleCtx *ctx) {
    must_tell = log_end;
    make_boot_id();
    node.edition = (uint64_t)now_us(); /* no other start of the server has the same */
    node.ctx = RedisModule_GetDetachedThreadSafeContext(ctx);
    node.policy = policy_new();
    node.bootstrap = policy_new();
    node.act = act;
    node.filter = muzzle;
    for (size_t i = 0; i < sizeof DICTS / sizeof *DICTS; i++)
        *DICTS[i] = RedisModule_CreateDict(NULL);
    node.next_end = INT64_MAX;
    node.settling = true; /* until put_in_force */
    /* White space keeps these names out of the server's own users (ACL LOAD looks up by name); a tab,
     * because clients split the fields of CLIENT LIST and ACL LOG at blanks. */
    node.nobody = RedisModule_CreateModuleUser("certauth\trefused");
    node.scratch = RedisModule_CreateModuleUser("certauth\tscratch");
    RedisModule_SetModuleUserACLString(NULL, node.nobody, "reset on", NULL);
}

/* Of a module that is not loaded after all. */
static void drop_state(void) {
    if (node.ctx == NULL) return;
    for (size_t i = 0; i < sizeof DICTS / sizeof *DICTS; i++) RedisModule_FreeDict(NULL, *DICTS[i]);
    RedisModule_FreeModuleUser(node.nobody);
    RedisModule_FreeModuleUser(node.scratch);
    policy_free(node.policy);
    policy_free(node.bootstrap);
    RedisModule_FreeThreadSafeContext(node.ctx);
}

/* What depends on how the server was started. */
static void learn_server(void) {
    char threads[16];
    node.io_threads =
        config_get("io-threads", threads, sizeof threads) && strcmp(threads, "1") != 0;
    node.stops_threads = closes_late() && node.io_threads; /* which cannot be changed at runtime */
    node.watches = !node.api_certificates && doors_can_guard();
    node.shares = node.watches && handshake_is_servers();
    learn_doors();
    note_files();
    learn_trust(trust_holds(node.trust, node.policy, node.bootstrap));
    commit_to_doors(NULL);
}

static bool load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, fault *why) {
    if (!check_server(why)) return false;
    make_state(ctx);
    if (!make_commands(ctx)) return fail(why, "the commands CERTAUTH.* could not be made");
    if (!read_arguments(argv, argc, why)) return false;
    if (!node.api_certificates && !tls_watch(keep_room)) node.api_certificates = true;
    if (!node.api_certificates) handshake_watch(); /* else explain says that it was not asked */
    learn_server();
    /* There is no data of ours in the keyspace, so nothing to do when it is swapped or moved. */
    int handled = REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD;
    if (node.is_valkey) handled |= VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION;
    RedisModule_SetModuleOptions(ctx, handled);
    each_client(adopt_client, NULL);
    RedisModuleEvent event = {REDISMODULE_EVENT_CLIENT_CHANGE, 1};
    RedisModule_SubscribeToServerEvent(ctx, event, on_client_change);
    event.id = REDISMODULE_EVENT_CRON_LOOP;
    RedisModule_SubscribeToServerEvent(ctx, event, on_cron);
    event.id = REDISMODULE_EVENT_LOADING_PROGRESS;
    RedisModule_SubscribeToServerEvent(ctx, event, on_loading_progress);
    event.id = REDISMODULE_EVENT_CONFIG;
    RedisModule_SubscribeToServerEvent(ctx, event, on_config_change);
    RedisModule_RegisterInfoFunc(ctx, info);
    if (RedisModule_RegisterAuthCallback) RedisModule_RegisterAuthCallback(ctx, on_auth);
    else RedisModule_RegisterCommandFilter(ctx, on_command, REDISMODULE_CMDFILTER_NOSELF);
    if (node.stops_threads)
        RedisModule_RegisterCommandFilter(ctx, on_listen, REDISMODULE_CMDFILTER_NOSELF);
    watch_acl_load(ctx);
    watch_settings();
    look_at_room();
    node.ticked = now_us();
    act_in(0);
    return true;
}

__attribute__((visibility("default"))) int RedisModule_OnLoad(RedisModuleCtx *ctx,
                                                              RedisModuleString **argv, int argc);
int RedisModule_OnLoad(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    fault why;
    redis_api_load(ctx);
    if (RedisModule_IsModuleNameBusy && RedisModule_IsModuleNameBusy("certauth")) {
        RedisModule_Log(ctx, "warning", "certauth is loaded already");
        return REDISMODULE_ERR;
    }
    RedisModule_SetModuleAttribs(ctx, "certauth", version_number(), REDISMODULE_APIVER_1);
    if (!load(ctx, argv, argc, &why)) {
        RedisModule_Log(ctx, "warning", "certauth cannot be loaded: %s", why.text);
        drop_state();
        return REDISMODULE_ERR;
    }
    tell_server(ctx);
    if (damaged())
        RedisModule_Log(ctx, "warning", "only the bootstrap file decides: %s", journal_state());
    return REDISMODULE_OK;
}
