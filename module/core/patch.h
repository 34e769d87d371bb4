/* A policy, and a change of it (policy.c). A part of core.h. */

/* Order-free digest of a set of lines: how many, and the sum of their SHA-256 mod 2^256. It finds
 * drift; it is not a security boundary. */
typedef struct {
    uint64_t lines;
    uint8_t sum[HASH_BYTES];
} digest;
enum { DIGEST_TEXT = 96 };
void digest_print(const digest *, char out[DIGEST_TEXT]); /* "<lines>:<64 hex digits>" */

policy *policy_new(void);
void policy_free(policy *);
digest policy_digest(const policy *);
/* The value; of `max-lifetime` seconds, of `min-key-bits` bits, of lists of OIDs 1; 0: not set. */
int policy_setting(const policy *, setting);
size_t policy_rules(const policy *);                   /* how many, notes (`was`) included */
const rule *policy_rule(const policy *, size_t index); /* in no order that lasts over a commit */
size_t policy_authorities(const policy *);             /* how many `ca` and `anchor` lines */
X509 *policy_authority(const policy *, size_t index);
const rule *policy_user(const policy *, line_type, span name); /* `user` or `was` line, or NULL */
/* A `pattern` line that makes this user, or NULL. Where there are several, they give it the same rules. */
const rule *policy_pattern_of(const policy *, span user);
bool policy_owns_word(const policy *,
                      span user); /* does its name start with the word of a pattern? */

/* A change being made: lines are parsed as they are added, all problems are kept, nothing happens
 * to the policy before policy_commit. */
typedef struct patch patch;
typedef enum {
    FROM_WIRE,
    FROM_BOOTSTRAP,
    FROM_JOURNAL
} patch_source; /* says which types may come */
patch *patch_new(const policy *base, patch_source);
void patch_free(patch *);
void patch_expect(patch *, size_t lines); /* makes room for so many to be added, at once */
/* A line that the policy will hold, or holds now and will not. `number` is the line's, for
 * problems: from 1, 0 for a line that nobody sent but the node itself (`was`). */
void patch_add(patch *, span line, size_t number);
void patch_remove(patch *, span line, size_t number);
/* Ends the change. `whole`: the lines added are the whole policy, every other one goes (LOAD).
 * True without problems. */
bool patch_finish(patch *, bool whole);
void patch_problem(patch *, size_t number, const char *text); /* from outside: the server's ACL */
size_t patch_problems(const patch *);                         /* how many; the first 32 are kept */
const char *patch_problem_text(const patch *, size_t index, size_t *number);
size_t patch_count(const patch *, bool added);
const rule *patch_rule(const patch *, bool added, size_t index, size_t *number);
/* Also after the commit, until patch_free: */
bool patch_has(const patch *, bool added, const rule *);
const rule *patch_removed(const patch *, line_type,
                          span name);                        /* the `user` or `was` line, or NULL */
bool patch_owns_word(const patch *, span user);              /* policy_owns_word after the commit */
digest patch_digest(const patch *);                          /* of the policy after the commit */
int patch_setting(const patch *, setting);                   /* its value after the commit */
const rule *patch_user(const patch *, line_type, span name); /* policy_user after the commit */

bool patch_changes_trust(const patch *); /* does it bring or take `ca`, `anchor` or `pin` lines? */
bool patch_is_large(const patch *); /* too large to be freed by a thread that others wait for */

/* Does beforehand what would make the commit of a large change long: in any thread, after
 * patch_finish, while nobody commits to the base. May be left out. */
void patch_prepare(patch *);

/* Makes the change, in one step that cannot fail. `base` is the one of patch_new. The patch then holds
 * what the policy held before and does not any more, until patch_free. */
void policy_commit(policy *base, patch *);
