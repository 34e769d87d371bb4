/* CERTAUTH.POLICY LOAD, PATCH, STAGE and COMMIT. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- CERTAUTH.POLICY LOAD, PATCH, STAGE, COMMIT ---- */

/* What the server takes a few milliseconds to receive. */
enum { CALL_LINES = 10000, CALL_BYTES = 4 << 20 };

bool may_take_lines(RedisModuleString **texts, int count, fault *why) {
    bool many = count > CALL_LINES;
    size_t bytes = bytes_of(texts, count);
    if (!many && bytes <= CALL_BYTES) return true;
    return fail(why,
                "ERR at most %d %s in one call, not %zu: send them by several STAGE calls, then "
                "COMMIT",
                many ? CALL_LINES : CALL_BYTES, many ? "lines" : "bytes of lines",
                many ? (size_t)count : bytes);
}

/* From argv[at]: the generations, then the options; then LINES, or the end where they are staged. */
static bool read_options(RedisModuleString **argv, int argc, int at, bool staged, options *o,
                         fault *why) {
    if (!o->whole && (at >= argc || !read_number(argv[at++], &o->base, why))) return false;
    if (at >= argc || !read_number(argv[at++], &o->generation, why)) return false;
    for (; at < argc; at++) {
        bool value = at + 1 < argc;
        if (string_is(argv[at], "FORCE")) o->force = true;
        else if (string_is(argv[at], "OWNER") && value) o->owner = string_span(argv[++at]);
        else if (string_is(argv[at], "DIGEST") && value) {
            o->has_digest = true; /* an empty one too: a script's empty variable is not a wish */
            o->digest = string_span(argv[++at]);
        } else if (string_is(argv[at], "EPOCH") && value) {
            o->has_epoch = true;
            if (!read_number(argv[++at], &o->epoch, why)) return false;
        } else break;
    }
    if (staged ? at < argc : at >= argc || !string_is(argv[at], "LINES")) {
        return fail(why, "ERR expected %s <generation> [OWNER id] [EPOCH n] [DIGEST d] [FORCE]%s",
                    o->whole ? "LOAD" : "PATCH <base>", staged ? "" : " LINES line…");
    }
    o->lines = at + 1;
    return staged || may_take_lines(argv + o->lines, argc - o->lines, why);
}

/* Who makes a policy makes ACL users, so they must be allowed to: else `+@all -@admin` could. The
 * server knows no such thing of a module's command before 7.2 (`ACL CAT` does not list it). */
bool may_administer(RedisModuleCtx *ctx, const char *verb) {
    RedisModuleString *argv[] = {string_of(LITERAL("ACL")), string_of(span_of(verb, strlen(verb))),
                                 string_of(LITERAL("x"))};
    int argc = strcmp(verb, "SETUSER") == 0 ? 3 : 2; /* Redis 8.6 looks at the arity too */
    /* Not GetCurrentUserName, which crashes for a client without a user: another module's call. */
    RedisModuleString *name = RedisModule_GetClientUserNameById(ctx, RedisModule_GetClientId(ctx));
    RedisModuleUser *user = name ? RedisModule_GetModuleUserFromUserName(name) : NULL;
    int denied = user ? RedisModule_ACLCheckCommandPermissions(user, argv, argc) : REDISMODULE_ERR;
    if (user) RedisModule_FreeModuleUser(user);
    if (name) RedisModule_FreeString(ctx, name);
    for (size_t i = 0; i < 3; i++) RedisModule_FreeString(NULL, argv[i]);
    return denied == REDISMODULE_OK;
}

int deny(RedisModuleCtx *ctx, const char *verb) {
    char text[128];
    snprintf(text, sizeof text, "NOPERM this is for users who may run ACL %s", verb);
    return RedisModule_ReplyWithError(ctx, text);
}

static bool may_write(RedisModuleCtx *ctx, fault *why) {
    int flags = RedisModule_GetContextFlags(ctx);
    if (flags & (REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LUA |
                 REDISMODULE_CTX_FLAGS_DENY_BLOCKING)) {
        return fail(why, "ERR a policy is not written within MULTI or a script: the reply waits "
                         "for the disk");
    }
    if (!has_journal(why)) return false;
    if (node.order) return fail(why, "BUSY another policy change is in progress: try again");
    if (node.settling)
        return fail(why, "BUSY the users of the policy are still being made: try again");
    return true;
}

static int write_policy(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, bool whole) {
    fault why;
    options o = {.whole = whole};
    if (argc < 4) return RedisModule_WrongArity(ctx);
    if (!may_administer(ctx, "SETUSER")) return deny(ctx, "SETUSER");
    if (!may_write(ctx, &why) || !read_options(argv, argc, 2, false, &o, &why) ||
        !check_stamp(&o, &why)) {
        return RedisModule_ReplyWithError(ctx, why.text);
    }
    return start_order(ctx, patch_new(node.policy, FROM_WIRE),
                       keep_lines(argv + o.lines, argc - o.lines), &o);
}

int policy_load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return write_policy(ctx, argv, argc, true);
}

int policy_patch(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return write_policy(ctx, argv, argc, false);
}

static bool is_staged(span id) {
    return node.stage.change && span_equal(id, text_span(node.stage.id));
}

/* One stage at a time, or senders that died would fill the memory: a new id drops what another left. */
static void begin_stage(span id, span first, size_t expected) {
    static uint64_t serial;
    drop_stage();
    node.stage = (stage){.change = patch_new(node.policy, FROM_WIRE), .serial = ++serial};
    patch_expect(node.stage.change, expected);
    memcpy(node.stage.id, id.ptr, id.len);
    node.stage.whole = first.len == 0 || (first.ptr[0] != '+' && first.ptr[0] != '-');
}

/* STAGE id [OF n] LINES …: where the lines begin, and how many there will be in all; 0 where it is not
 * so. */
static int read_stage(RedisModuleString **argv, int argc, long long *expected, fault *why) {
    enum { MOST_EXPECTED = 1 << 21 };
    span id = string_span(argv[2]);
    int at = string_is(argv[3], "OF") ? 5 : 3;
    *expected = 0;
    if (id.len == 0 || id.len >= sizeof node.stage.id || !text_clean(id) || at + 1 >= argc ||
        !string_is(argv[at], "LINES"))
        return fail(why,
                    "ERR expected STAGE <id> [OF n] LINES line…, the id being clean text of up "
                    "to 63 bytes");
    if (at == 5 && !read_number(argv[4], expected, why)) return 0;
    if (*expected > MOST_EXPECTED) *expected = MOST_EXPECTED; /* more makes room as it comes */
    return may_take_lines(argv + at + 1, argc - at - 1, why) ? at + 1 : 0;
}

/* A call of STAGE whose lines take longer than a slice. */
typedef struct {
    RedisModuleBlockedClient *client;
    given_lines given;
    uint64_t serial; /* of its stage */
    size_t first;    /* number of its first line */
} staging;

static bool is_over(const staging *s) {
    return node.stage.change == NULL || node.stage.serial != s->serial;
}

/* True where there are more lines to read. */
static bool stage_some(staging *s, const slice *now) {
    node.stage.touched = now_seconds();
    if (read_lines(node.stage.change, node.stage.whole, &s->given, s->first, now)) return true;
    node.stage.reading--;
    return false;
}

/* The answer is how many lines the stage holds now. Bad ones drop it. */
static int answer_stage(RedisModuleCtx *ctx, const staging *s) {
    if (is_over(s))
        return RedisModule_ReplyWithError(ctx, "STAGE the stage was dropped in the meantime, by "
                                               "another id, a bad line or a policy change");
    if (patch_problems(node.stage.change)) {
        reply_problems(ctx, node.stage.change);
        drop_stage();
        return REDISMODULE_OK;
    }
    return RedisModule_ReplyWithLongLong(ctx, (long long)(s->first + s->given.count - 1));
}

static int reply_stage(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv, (void)argc;
    return answer_stage(ctx, RedisModule_GetBlockedClientPrivateData(ctx));
}

static void free_staging(RedisModuleCtx *ctx, void *data) {
    staging *s = data;
    (void)ctx;
    free(s->given.lines);
    free(s);
}

static bool stage_more(void *data, const slice *now) {
    staging *s = data;
    if (!is_over(s) && stage_some(s, now)) return true;
    RedisModule_UnblockClient(s->client, s);
    return false;
}

/* Most calls end with their first slice. */
static int stage_lines(RedisModuleCtx *ctx, RedisModuleString **texts, int count) {
    staging *s = must(calloc(1, sizeof *s));
    const slice now = slice_start();
    *s = (staging){NULL, keep_lines(texts, count), node.stage.serial, node.stage.lines + 1};
    node.stage.lines += (size_t)count;
    node.stage.reading++;
    if (stage_some(s, &now)) {
        s->client = RedisModule_BlockClient(ctx, reply_stage, NULL, free_staging, 0);
        add_chore(stage_more, s);
        return REDISMODULE_OK;
    }
    answer_stage(ctx, s);
    free_staging(ctx, s);
    return REDISMODULE_OK;
}

/* `OF n` makes room for all of them at once, which would hold a later call. */
int policy_stage(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    fault why;
    long long expected;
    if (argc < 5) return RedisModule_WrongArity(ctx);
    if (!may_administer(ctx, "SETUSER")) return deny(ctx, "SETUSER");
    if (!has_journal(&why)) return RedisModule_ReplyWithError(ctx, why.text);
    int from = read_stage(argv, argc, &expected, &why);
    if (from && !may_wait(ctx)) {
        fail(&why, "ERR lines are not staged within MULTI: the reply waits for them to be read");
        from = 0;
    }
    if (from == 0) return RedisModule_ReplyWithError(ctx, why.text);
    span id = string_span(argv[2]);
    if (!is_staged(id)) begin_stage(id, string_span(argv[from]), (size_t)expected);
    return stage_lines(ctx, argv + from, argc - from);
}

/* How many lines there must be is said, for a stage may have been dropped and begun again unnoticed. */
static bool check_stage(span id, long long count, bool whole, fault *why) {
    if (!is_staged(id))
        return fail(why, "STAGE no lines are staged under this id: a policy change, another id, a "
                         "bad line or a minute without a call drops a stage");
    if (node.stage.reading)
        return fail(why, "STAGE the server is still reading staged lines: wait for the replies to "
                         "STAGE");
    if ((size_t)count != node.stage.lines)
        return fail(why, "STAGE %zu lines are staged, not %lld: stage them again, under another id",
                    node.stage.lines, count);
    return whole == node.stage.whole ||
           fail(why,
                "STAGE LOAD takes lines, PATCH takes + and - lines: the stage holds the others");
}

/* COMMIT id lines LOAD|PATCH …: as those, of the lines that are staged. */
int policy_commit_stage(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    fault why;
    long long count;
    if (argc < 6) return RedisModule_WrongArity(ctx);
    if (!may_administer(ctx, "SETUSER")) return deny(ctx, "SETUSER");
    options o = {.whole = string_is(argv[4], "LOAD")};
    if (!o.whole && !string_is(argv[4], "PATCH"))
        return RedisModule_ReplyWithError(ctx, "ERR expected COMMIT <id> <lines> LOAD|PATCH …");
    if (!may_write(ctx, &why) || !read_number(argv[3], &count, &why) ||
        !read_options(argv, argc, 5, true, &o, &why) || !check_stamp(&o, &why) ||
        !check_stage(string_span(argv[2]), count, o.whole, &why)) {
        return RedisModule_ReplyWithError(ctx, why.text);
    }
    patch *change = node.stage.change;
    node.stage.change = NULL;
    return start_order(ctx, change, (given_lines){NULL, 0, 0}, &o);
}

void drop_old_stage(void) {
    enum { SECONDS = 60 };
    int64_t age = node.stage.change ? now_seconds() - node.stage.touched : 0;
    if (age < 0 || age > SECONDS) drop_stage(); /* below: the clock was set back */
}
