/* What the readers of lines share. For line.c, bind.c, demand.c, lock.c alone. */
#ifndef CERTAUTH_LINE_H
#define CERTAUTH_LINE_H

#include "internal.h"

enum { NAMED = 2 * LINE_USERS }; /* never full */

/* A line while it is being read. The buffers are as large as a line may be, so that no part of one
 * can outgrow them unseen: a full writer is a fault. */
typedef struct {
    span rest;   /* what was not read yet */
    rule head;   /* becomes the rule */
    writer text; /* canonical */
    writer key;  /* hashed at the end, see key_of */
    writer fields;
    fault *why;
    bool held;            /* see rule_parse_held */
    size_t counted;       /* its users, or ACL rules */
    bool is_named[NAMED]; /* the users of a `bind` line so far: a table of their keys */
    uint8_t named[NAMED][KEY_BYTES];
    span token; /* the last one read, in token_bytes */
    span makes; /* `pattern`: its user, in field_bytes */
    uint8_t token_bytes[LINE_BYTES];
    uint8_t text_bytes[LINE_BYTES], key_bytes[LINE_BYTES];
    uint8_t
        field_bytes[3 *
                    LINE_BYTES]; /* words of one letter take five bytes as fields, two as text */
} line;

/* The options of a `bind` line; said in one order, however they were written. */
typedef struct {
    writer ca, nets;
    uint8_t ca_bytes[HASH_BYTES], net_bytes[LINE_BYTES];
} options;

/* ---- line.c ---- */

void line_key(line *l, int kind, span a, span b);
void put_field(line *l, enum field tag, span value);
bool next(line *l);
bool need(line *l, const char *what);
int shown(span token);
bool bad_token(line *l, const char *what);
void say(line *l, span token);
int one_of(const line *l, const char *const *words, int count);

/* ---- bind.c ---- */

bool read_hash(line *l, const char *what, uint8_t out[HASH_BYTES]);
void say_hex(line *l, span bytes);
bool read_bind_value(line *l, bind_kind kind, uint8_t *out, size_t *len);
bool is_user_name(span name);
bool read_user_name(line *l);
void options_start(options *o);
bool read_bind_option(line *l, options *o);
void say_bind_options(line *l, const options *o);
bool is_option(span token);
bool is_one_more(line *l, size_t most, const char *what);
enum { NET_BYTES = 17 }; /* an address, and a byte for the prefix */
bool read_net(line *l, const char *takes, span text, uint8_t net[NET_BYTES], size_t *len);
void put_net(writer *w, span net);
bool read_bind(line *l);
extern const char *const BIND_NAMES[BIND_KINDS];

/* ---- demand.c ---- */

bool read_demand(line *l);

/* ---- lock.c ---- */

bool read_lock(line *l);

#endif
