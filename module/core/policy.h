/* What the files of a policy share: its tables, and how it is laid out. For policy.c, table.c,
 * attributes.c, peer.c, lock.c and decide.c alone. */
#ifndef CERTAUTH_POLICY_H
#define CERTAUTH_POLICY_H

#include "internal.h"

#include <openssl/x509.h>

/* Rules in a dense array, found by their keys through `slots`, which are probed linearly and kept at
 * most half full. No two rules of a table have one key. The first bytes of a key serve as the hash; a
 * slot has it too, so that neither a miss nor growing touches a rule. */
typedef struct {
    uint32_t hash, at;
} slot; /* at: index + 1; 0: free */

typedef struct {
    rule **rules;
    slot *slots;
    size_t count, room;
} table;

struct policy {
    table lines;       /* every rule, owned */
    table authorities; /* those of them with a certificate */
    table pins;        /* `pin` lines */
    table aliases;     /* how many lines have a FIELD_ALIAS */
    patterns patterns;
    shapes shapes;
    near_lines near;
    digest sum;
    int settings[SETTINGS];
    size_t binds[BIND_KINDS], scoped[BIND_KINDS], revokes[REVOKE_KINDS], limits,
        locks; /* how many lines */
    X509_STORE *store;
};

enum { PROBLEMS = 32 };

struct patch {
    const policy *base;
    patch_source source;
    table added;       /* owned until the commit */
    table removed;     /* rules of `base`; owned after the commit */
    table aliases;     /* by how much their counts change, modulo 2^32 */
    patterns patterns; /* of those added */
    shapes shapes;     /* of those added, which no line of `base` has */
    digest sum;
    policy *next; /* what `base` will be, see patch_prepare; after the commit, what it was */
    bool authorities, pins, locks, committed;
    size_t problems;
    struct {
        size_t number;
        fault why;
    } problem[PROBLEMS];
};

/* ---- policy.c ---- */

bool view_binds_scoped(const view *v, bind_kind kind);
bool view_pins(const view *v);
bool view_revokes(const view *v, revoke_kind kind);
bool view_locks(const view *v);

/* ---- decide.c ---- */

bool is_revoked(const view *revocations, revocable c);

/* ---- lock.c ---- */

/* The `lock` line that holds a client with this certificate out, or one at this address, or any who could be
 * this user; or NULL. */
const rule *view_lock(const view *v, const request *r);
const rule *view_lock_network(const view *v, span address);
const rule *view_lock_user(const view *v, span user);

/* ---- attributes.c ---- */

void patch_check_shapes(patch *p);

/* ---- table.c ---- */

void table_reserve(table *t, size_t count);
void table_add(table *t, rule *r);
rule *table_find(const table *t, const uint8_t *key);
void table_remove(table *t, const rule *r);
void table_free(table *t, bool rules);
void tally_rule(table *t, const rule *r, int change);
uint32_t tallied(const table *t, const uint8_t *alias);
void digest_change(digest *d, const rule *r, bool add);

#endif
