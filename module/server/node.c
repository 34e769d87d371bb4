/* The state that the files of this folder share, and the clock. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

#include <time.h>

/* ---- State ---- */

struct node node;

bool damaged(void) { return node.damage.text[0] != 0; }
/* Redis 8 cannot close a client in its own connect event, see close_at_connect. */
bool closes_late(void) { return !node.is_valkey && node.version >= 0x080000; }
/* Not by time(3), whose clock is that of the last tick: on an idle virtual machine it was seen to be
 * 45 ms late, and an expired certificate was let in for so long. */
int64_t now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec;
}
int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

slice slice_start(void) { return (slice){now_us() + 2000, 0}; }
bool slice_goes_on(const slice *now) { return now->closings < 32 && now_us() < now->stop; }

/* Does a script or a function run? The server answers others meanwhile, once it has run for long, and so
 * we hear of clients that connect and of AUTH (networking.c, processEventsWhileBlocked). */
bool script_runs(void) { return RedisModule_GetContextFlags(node.ctx) & REDISMODULE_CTX_FLAGS_LUA; }

_Static_assert(sizeof(void *) >= sizeof(uint64_t), "client ids travel as pointers");
void *as_data(uint64_t id) { return (void *)(uintptr_t)id; }
