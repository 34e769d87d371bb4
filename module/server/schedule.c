/* When we are called: the timer, one-shots, threads, chores, and the filter of commands. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <pthread.h>
#include <stdlib.h>

void add_chore(bool (*go_on)(void *data, const slice *), void *data) {
    chore *c = must(malloc(sizeof *c));
    *c = (chore){node.chores, go_on, data};
    node.chores = c;
    act_in(0);
}

bool in_thread(void *(*work)(void *), void *data) {
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 4 << 20); /* a line is read on the stack: see line.c */
    bool good = pthread_create(&thread, &detached, work, data) == 0;
    pthread_attr_destroy(&detached);
    return good;
}

static void *free_patch_in_thread(void *change) {
    patch_free(change);
    return NULL;
}

void drop_patch(patch *change) {
    if (change && patch_is_large(change) && in_thread(free_patch_in_thread, change)) return;
    patch_free(change);
}

static void act_by_timer(RedisModuleCtx *ctx, void *none) {
    (void)ctx, (void)none;
    node.timer = 0;
    node.act();
}

bool loads_aside(void) {
    return RedisModule_GetContextFlags(node.ctx) & REDISMODULE_CTX_FLAGS_ASYNC_LOADING;
}

/* The timer would come when all is loaded. */
static void act_aside(void *none) {
    (void)none;
    node.aside = false;
    if (!loads_aside() || script_runs()) return;
    if (node.timer) RedisModule_StopTimer(node.ctx, node.timer, NULL);
    node.timer = 0;
    node.act();
}

/* While a replica loads beside its old data set (repl-diskless-load swapdb), clients run commands and no
 * timer does. */
void act_while_loading(void) {
    if (node.aside || !loads_aside()) return;
    node.aside = true;
    RedisModule_EventLoopAddOneShot(act_aside, NULL);
}

/* Has us act in so many ms; 0: at the end of this turn of the event loop. */
void act_in(int64_t ms) {
    int64_t at = now_us() + ms * 1000;
    if (ms == 0) act_while_loading();
    if (node.acting || (node.timer && node.act_at <= at)) return;
    if (node.timer) RedisModule_StopTimer(node.ctx, node.timer, NULL);
    node.act_at = at;
    node.timer = RedisModule_CreateTimer(node.ctx, ms, act_by_timer, NULL);
}

/* The filter costs every command a little, so it is there only while it may be needed. */
void watch_commands(void) {
    if (node.muzzle || RedisModule_CommandFilterGetClientId == NULL) return;
    node.muzzle = RedisModule_RegisterCommandFilter(node.ctx, node.filter, 0);
}

void leave_commands(void) {
    if (node.muzzle) RedisModule_UnregisterCommandFilter(node.ctx, node.muzzle);
    node.muzzle = NULL;
}
