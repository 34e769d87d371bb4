/* What clients are, as the server tells it. */
#define _POSIX_C_SOURCE 200809L
#include "server.h"

/* ---- What clients are, as the server tells it ---- */

/* Calls `take` for each line of CLIENT LIST, of all clients or of those with these ids. Names that
 * clients give themselves hold no blank and no newline (networking.c, clientSetNameOrReply), so a field
 * is what stands between blanks. */
void each_client_of(RedisModuleString **ids, size_t count, void (*take)(span line, void *data),
                    void *data) {
    RedisModuleCallReply *reply =
        ids ? RedisModule_Call(node.ctx, "CLIENT", "ccv", "LIST", "ID", ids, count)
            : RedisModule_Call(node.ctx, "CLIENT", "c", "LIST");
    size_t len = 0;
    const char *text = reply ? RedisModule_CallReplyStringPtr(reply, &len) : NULL;
    span rest = span_of(text, text ? len : 0);
    while (rest.len) {
        const uint8_t *newline = memchr(rest.ptr, '\n', rest.len);
        size_t line = newline ? (size_t)(newline - rest.ptr) : rest.len;
        take(span_of(rest.ptr, line), data);
        rest = span_skip(rest, line + (newline != NULL));
    }
    if (reply) RedisModule_FreeCallReply(reply);
}

void each_client(void (*take)(span line, void *data), void *data) {
    each_client_of(NULL, 0, take, data);
}

/* The value of a field, empty where there is none; `name` with its "=". */
span client_field(span line, const char *name) {
    while (line.len) {
        const uint8_t *blank = memchr(line.ptr, ' ', line.len);
        span field = span_of(line.ptr, blank ? (size_t)(blank - line.ptr) : line.len);
        if (span_starts(field, text_span(name))) return span_skip(field, strlen(name));
        line = span_skip(line, field.len + (blank != NULL));
    }
    return line;
}

uint64_t client_id(span line) {
    span digits = client_field(line, "id=");
    uint64_t id = 0;
    for (size_t i = 0; i < digits.len && digits.ptr[i] >= '0' && digits.ptr[i] <= '9'; i++) {
        id = id * 10 + (uint64_t)(digits.ptr[i] - '0');
    }
    return id;
}

bool has_flag(span line, char flag) {
    span flags = client_field(line, "flags=");
    return flags.len && memchr(flags.ptr, flag, flags.len) != NULL;
}
