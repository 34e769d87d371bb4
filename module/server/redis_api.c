/* The functions of the server's API, as this server has them. */
#include "redis_api.h"

#define REDIS_DEFINE(since, result, name, parameters) result(*RedisModule_##name) parameters;
REDIS_API(REDIS_DEFINE)
int (*RedisModule_GetApi)(const char *name, void *function);

/* The server hands GetApi over as the first word of the context (module.c, moduleLoad). */
void redis_api_load(RedisModuleCtx *ctx) {
    RedisModule_GetApi = *(int (**)(const char *, void *))(void *)ctx;
#define REDIS_GET(since, result, name, parameters)                                                 \
    RedisModule_GetApi("RedisModule_" #name, (void *)&RedisModule_##name);
    REDIS_API(REDIS_GET)
}
