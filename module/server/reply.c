/* Strings of the server, and replies. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

/* ---- Replies ---- */

void reply_text(RedisModuleCtx *ctx, const char *text) {
    RedisModule_ReplyWithStringBuffer(ctx, text, strlen(text));
}
static void reply_pair(RedisModuleCtx *ctx, const char *name, span value) {
    reply_text(ctx, name);
    RedisModule_ReplyWithStringBuffer(ctx, value.len ? (const char *)value.ptr : "", value.len);
}
void reply_named(RedisModuleCtx *ctx, const char *name, const char *value) {
    reply_pair(ctx, name, span_of(value, strlen(value)));
}
void reply_number(RedisModuleCtx *ctx, const char *name, uint64_t value) {
    reply_text(ctx, name);
    RedisModule_ReplyWithLongLong(ctx, (long long)value);
}

span string_span(const RedisModuleString *s) {
    size_t len;
    const char *text = RedisModule_StringPtrLen(s, &len);
    return span_of(text, len);
}

span text_span(const char *text) { return span_of(text, strlen(text)); }

bool string_is(const RedisModuleString *s, const char *word) {
    return span_equal_nocase(string_span(s), text_span(word));
}

RedisModuleString *string_of(span s) {
    return RedisModule_CreateString(NULL, (const char *)s.ptr, s.len);
}

/* What stands before the next blank, and takes it from `text`. */
span take_word(span *text) {
    const uint8_t *blank = memchr(text->ptr, ' ', text->len);
    size_t len = blank ? (size_t)(blank - text->ptr) : text->len;
    span word = span_of(text->ptr, len);
    *text = span_skip(*text, len + (blank != NULL));
    return word;
}

bool has_word(span text, span word) {
    while (text.len) {
        if (span_equal(take_word(&text), word)) return true;
    }
    return false;
}

bool read_number(RedisModuleString *text, long long *out, fault *why) {
    if (RedisModule_StringToLongLong(text, out) == REDISMODULE_OK && *out >= 0) return true;
    return fail(why, "ERR '%.40s' is not a number from 0 to 2^63-1",
                (const char *)string_span(text).ptr);
}

void reply_optional(RedisModuleCtx *ctx, const char *name, span value) {
    if (value.len) {
        reply_pair(ctx, name, value);
        return;
    }
    reply_text(ctx, name);
    RedisModule_ReplyWithNull(ctx);
}

/* Up to 32 bytes; null for none. */
void reply_hex(RedisModuleCtx *ctx, const char *name, span bytes) {
    uint8_t text[2 * HASH_BYTES];
    writer hex = {text, 0, sizeof text, false};
    put_hex(&hex, bytes);
    reply_optional(ctx, name, span_of(text, hex.len));
}

void reply_name(RedisModuleCtx *ctx, const char *label, span name) {
    char text[2 * NAME_BYTES];
    reply_optional(ctx, label, span_of(text, name_print(name, text, sizeof text)));
}

/* The hashes that name a certificate, its key and its issuer's; null where there is none. */
void reply_hash(RedisModuleCtx *ctx, const char *name, bool there, const uint8_t *hash) {
    reply_hex(ctx, name, span_of(hash, there ? HASH_BYTES : 0));
}
