/* The part of the server's module API that certauth.c calls, declared in our own words after
 * redismodule.h of Redis 7.0 to 8.6; Valkey offers the same under the same names. A function stands
 * here with the release that brought it; those that 7.0.6 does not have may be NULL. */
#ifndef CERTAUTH_REDIS_API_H
#define CERTAUTH_REDIS_API_H

#include <stdint.h>
#include <stddef.h>

typedef struct RedisModuleCtx RedisModuleCtx;
typedef struct RedisModuleString RedisModuleString;
typedef struct RedisModuleCommand RedisModuleCommand;
typedef struct RedisModuleCallReply RedisModuleCallReply;
typedef struct RedisModuleUser RedisModuleUser;
typedef struct RedisModuleDict RedisModuleDict;
typedef struct RedisModuleDictIter RedisModuleDictIter;
typedef struct RedisModuleInfoCtx RedisModuleInfoCtx;
typedef struct RedisModuleBlockedClient RedisModuleBlockedClient;
typedef struct RedisModuleCommandFilter RedisModuleCommandFilter;
typedef struct RedisModuleCommandFilterCtx RedisModuleCommandFilterCtx;
typedef uint64_t RedisModuleTimerID;

enum { REDISMODULE_OK, REDISMODULE_ERR };
enum { REDISMODULE_APIVER_1 = 1 };
enum { REDISMODULE_AUTH_HANDLED, REDISMODULE_AUTH_NOT_HANDLED };
enum { REDISMODULE_ACL_LOG_AUTH };
enum {
    REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD = 1 << 2,
    VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION = 1 << 5 /* Valkey 9.0 */
};
enum { REDISMODULE_REPLY_STRING, REDISMODULE_REPLY_ERROR, REDISMODULE_REPLY_ARRAY = 3 };
enum { REDISMODULE_POSTPONED_LEN = -1 };
enum {
    REDISMODULE_CTX_FLAGS_LUA = 1 << 0,
    REDISMODULE_CTX_FLAGS_MULTI = 1 << 1,
    REDISMODULE_CTX_FLAGS_SLAVE = 1 << 3,
    REDISMODULE_CTX_FLAGS_LOADING = 1 << 13,
    REDISMODULE_CTX_FLAGS_DENY_BLOCKING = 1 << 21,
    REDISMODULE_CTX_FLAGS_ASYNC_LOADING = 1 << 23
};
enum { REDISMODULE_CMDFILTER_NOSELF = 1 << 0 };

typedef struct {
    uint64_t id, dataver;
} RedisModuleEvent;
enum { REDISMODULE_EVENT_CLIENT_CHANGE = 4, REDISMODULE_CLIENT_CHANGE_CONNECTED = 0 };
enum {
    REDISMODULE_EVENT_CRON_LOOP = 8,
    REDISMODULE_EVENT_LOADING_PROGRESS = 10,
    REDISMODULE_EVENT_CONFIG = 16
};
enum {
    REDISMODULE_CLIENTINFO_FLAG_SSL = 1 << 0,
    REDISMODULE_CLIENTINFO_FLAG_PUBSUB = 1 << 1,
    REDISMODULE_CLIENTINFO_FLAG_BLOCKED = 1 << 2,
    REDISMODULE_CLIENTINFO_FLAG_TRACKING = 1 << 3,
    REDISMODULE_CLIENTINFO_FLAG_UNIXSOCKET = 1 << 4,
    REDISMODULE_CLIENTINFO_FLAG_MULTI = 1 << 5
};
typedef struct {
    uint64_t version, flags, id;
    char addr[46];
    uint16_t port, db;
} RedisModuleClientInfo;
typedef struct {
    uint64_t version;
    uint32_t num_changes;
    const char **config_names;
} RedisModuleConfigChange;

typedef int (*RedisModuleCmdFunc)(RedisModuleCtx *, RedisModuleString **argv, int argc);
typedef void (*RedisModuleEventCallback)(RedisModuleCtx *, RedisModuleEvent, uint64_t subevent,
                                         void *);
typedef void (*RedisModuleUserChangedFunc)(uint64_t client_id, void *);
typedef void (*RedisModuleTimerProc)(RedisModuleCtx *, void *);
typedef void (*RedisModuleInfoFunc)(RedisModuleInfoCtx *, int for_crash_report);
typedef void (*RedisModuleFreePrivData)(RedisModuleCtx *, void *);
typedef int (*RedisModuleAuthCallback)(RedisModuleCtx *, RedisModuleString *user,
                                       RedisModuleString *password, RedisModuleString **error);

/* X(since, result, name, parameters) */
#define REDIS_API(X)                                                                               \
    X(4.0, int, CreateCommand,                                                                     \
      (RedisModuleCtx *, const char *, RedisModuleCmdFunc, const char *flags, int first, int last, \
       int step))                                                                                  \
    X(7.0, RedisModuleCommand *, GetCommand, (RedisModuleCtx *, const char *))                     \
    X(7.0, int, CreateSubcommand,                                                                  \
      (RedisModuleCommand *, const char *, RedisModuleCmdFunc, const char *flags, int first,       \
       int last, int step))                                                                        \
    X(4.0, void, SetModuleAttribs, (RedisModuleCtx *, const char *name, int version, int api))     \
    X(6.0, void, SetModuleOptions, (RedisModuleCtx *, int))                                        \
    X(4.0, int, IsModuleNameBusy, (const char *))                                                  \
    X(4.0, unsigned long long, GetClientId, (RedisModuleCtx *))                                    \
    X(4.0, int, GetContextFlags, (RedisModuleCtx *))                                               \
    X(5.0, int, GetServerVersion, (void))                                                          \
    X(4.0, RedisModuleCallReply *, Call,                                                           \
      (RedisModuleCtx *, const char *, const char *format, ...))                                   \
    X(4.0, int, CallReplyType, (RedisModuleCallReply *))                                           \
    X(4.0, size_t, CallReplyLength, (RedisModuleCallReply *))                                      \
    X(4.0, RedisModuleCallReply *, CallReplyArrayElement, (RedisModuleCallReply *, size_t))        \
    X(4.0, const char *, CallReplyStringPtr, (RedisModuleCallReply *, size_t *))                   \
    X(4.0, void, FreeCallReply, (RedisModuleCallReply *))                                          \
    X(4.0, RedisModuleString *, CreateString, (RedisModuleCtx *, const char *, size_t))            \
    X(4.0, void, FreeString, (RedisModuleCtx *, RedisModuleString *))                              \
    X(4.0, const char *, StringPtrLen, (const RedisModuleString *, size_t *))                      \
    X(4.0, int, StringToLongLong, (const RedisModuleString *, long long *))                        \
    X(4.0, int, WrongArity, (RedisModuleCtx *))                                                    \
    X(4.0, int, ReplyWithError, (RedisModuleCtx *, const char *))                                  \
    X(4.0, int, ReplyWithSimpleString, (RedisModuleCtx *, const char *))                           \
    X(4.0, int, ReplyWithArray, (RedisModuleCtx *, long))                                          \
    X(4.0, void, ReplySetArrayLength, (RedisModuleCtx *, long))                                    \
    X(7.0, int, ReplyWithMap, (RedisModuleCtx *, long))                                            \
    X(4.0, int, ReplyWithStringBuffer, (RedisModuleCtx *, const char *, size_t))                   \
    X(4.0, int, ReplyWithLongLong, (RedisModuleCtx *, long long))                                  \
    X(4.0, int, ReplyWithNull, (RedisModuleCtx *))                                                 \
    X(4.0, void, Log, (RedisModuleCtx *, const char *level, const char *format, ...))              \
    X(6.0, int, SubscribeToServerEvent,                                                            \
      (RedisModuleCtx *, RedisModuleEvent, RedisModuleEventCallback))                              \
    X(6.0, RedisModuleCtx *, GetDetachedThreadSafeContext, (RedisModuleCtx *))                     \
    X(4.0, void, FreeThreadSafeContext, (RedisModuleCtx *))                                        \
    X(4.0, RedisModuleTimerID, CreateTimer,                                                        \
      (RedisModuleCtx *, long long ms, RedisModuleTimerProc, void *))                              \
    X(4.0, int, StopTimer, (RedisModuleCtx *, RedisModuleTimerID, void **data))                    \
    X(7.0, int, EventLoopAddOneShot, (void (*)(void *), void *))                                   \
    X(6.0, RedisModuleUser *, CreateModuleUser, (const char *))                                    \
    X(7.0, int, SetModuleUserACLString,                                                            \
      (RedisModuleCtx *, RedisModuleUser *, const char *, RedisModuleString **error))              \
    X(7.0, RedisModuleString *, GetModuleUserACLString, (RedisModuleUser *))                       \
    X(7.0, RedisModuleUser *, GetModuleUserFromUserName, (RedisModuleString *))                    \
    X(6.0, void, FreeModuleUser, (RedisModuleUser *))                                              \
    X(6.0, int, AuthenticateClientWithUser,                                                        \
      (RedisModuleCtx *, RedisModuleUser *, RedisModuleUserChangedFunc, void *, uint64_t *))       \
    X(6.0, int, AuthenticateClientWithACLUser,                                                     \
      (RedisModuleCtx *, const char *, size_t, RedisModuleUserChangedFunc, void *, uint64_t *))    \
    X(6.0, int, DeauthenticateAndCloseClient, (RedisModuleCtx *, uint64_t))                        \
    X(6.0, int, GetClientInfoById, (void *info, uint64_t id))                                      \
    X(6.0, RedisModuleString *, GetClientCertificate, (RedisModuleCtx *, uint64_t))                \
    X(7.0, int, ACLCheckCommandPermissions, (RedisModuleUser *, RedisModuleString **, int))        \
    X(7.2, int, SetCommandACLCategories, (RedisModuleCommand *, const char *))                     \
    X(6.2, RedisModuleString *, GetClientUserNameById, (RedisModuleCtx *, uint64_t))               \
    X(6.0, int, GetClientInfoById, (void *, uint64_t))                                             \
    X(6.0, int, RegisterInfoFunc, (RedisModuleCtx *, RedisModuleInfoFunc))                         \
    X(6.0, int, InfoAddSection, (RedisModuleInfoCtx *, const char *))                              \
    X(6.0, int, InfoAddFieldULongLong, (RedisModuleInfoCtx *, const char *, unsigned long long))   \
    X(6.0, int, InfoAddFieldCString, (RedisModuleInfoCtx *, const char *, const char *))           \
    X(4.0, RedisModuleBlockedClient *, BlockClient,                                                \
      (RedisModuleCtx *, RedisModuleCmdFunc reply, RedisModuleCmdFunc timeout,                     \
       RedisModuleFreePrivData, long long ms))                                                     \
    X(4.0, int, UnblockClient, (RedisModuleBlockedClient *, void *))                               \
    X(4.0, void *, GetBlockedClientPrivateData, (RedisModuleCtx *))                                \
    X(5.0, RedisModuleDict *, CreateDict, (RedisModuleCtx *))                                      \
    X(5.0, void, FreeDict, (RedisModuleCtx *, RedisModuleDict *))                                  \
    X(5.0, int, DictSetC, (RedisModuleDict *, void *, size_t, void *))                             \
    X(5.0, int, DictReplaceC, (RedisModuleDict *, void *, size_t, void *))                         \
    X(5.0, void *, DictGetC, (RedisModuleDict *, void *, size_t, int *))                           \
    X(5.0, int, DictDelC, (RedisModuleDict *, void *, size_t, void *))                             \
    X(5.0, uint64_t, DictSize, (RedisModuleDict *))                                                \
    X(5.0, RedisModuleDictIter *, DictIteratorStartC,                                              \
      (RedisModuleDict *, const char *op, void *, size_t))                                         \
    X(5.0, void *, DictNextC, (RedisModuleDictIter *, size_t *, void **))                          \
    X(5.0, void, DictIteratorStop, (RedisModuleDictIter *))                                        \
    X(7.0, int, ACLAddLogEntry, (RedisModuleCtx *, RedisModuleUser *, RedisModuleString *, int))   \
    X(7.2, int, ACLAddLogEntryByUserName,                                                          \
      (RedisModuleCtx *, RedisModuleString * user, RedisModuleString * object, int))               \
    X(5.0, RedisModuleCommandFilter *, RegisterCommandFilter,                                      \
      (RedisModuleCtx *, void (*)(RedisModuleCommandFilterCtx *), int))                            \
    X(5.0, int, UnregisterCommandFilter, (RedisModuleCtx *, RedisModuleCommandFilter *))           \
    X(5.0, int, CommandFilterArgInsert, (RedisModuleCommandFilterCtx *, int, RedisModuleString *)) \
    X(5.0, int, CommandFilterArgReplace,                                                           \
      (RedisModuleCommandFilterCtx *, int, RedisModuleString *))                                   \
    X(7.2, unsigned long long, CommandFilterGetClientId, (RedisModuleCommandFilterCtx *))          \
    X(5.0, const RedisModuleString *, CommandFilterArgGet, (RedisModuleCommandFilterCtx *, int))   \
    X(7.2, void, RegisterAuthCallback, (RedisModuleCtx *, RedisModuleAuthCallback))

#define REDIS_DECLARE(since, result, name, parameters)                                             \
    extern result(*RedisModule_##name) parameters;
REDIS_API(REDIS_DECLARE)
extern int (*RedisModule_GetApi)(const char *name, void *function);

/* What the server offers; NULL where it does not. To be called first. */
void redis_api_load(RedisModuleCtx *);

#endif
