/* The policy on disk (journal.c). Beside core.h: the module and the tests read it. */

/* The head of a record, and of the policy after it. `owner` is NUL ended text. */
typedef struct {
    uint64_t generation, epoch;
    char owner[128];
} stamp;

typedef struct journal journal;

/* Opens (creating it, mode 0600) and locks the journal in an existing directory, and replays it
 * into `into`, which is empty. NULL with `why` where that cannot be done, or another process holds
 * it. A damaged journal is opened with `into` left empty, and journal_damage says what is wrong:
 * it takes no more records. */
journal *journal_open(const char *directory, policy *into, stamp *last, fault *why);
void journal_close(journal *);
const char *journal_damage(const journal *); /* NULL: sound */
const char *journal_notice(const journal *); /* for the log, e.g. a torn tail dropped; or NULL */
bool journal_empty(const journal *);         /* no record yet: a first install */

/* Is the journal still on the disk, and could it be written to and opened again? What was lost is
 * written again from `in_force`, the policy that the journal holds, and journal_notice says so; a
 * stranger's file in its way becomes `policy.found`. False with what is wrong. Called as journal_append
 * is, of which it is a part. */
bool journal_look(journal *, const policy *in_force, fault *why);

/* Puts the change on disk and returns when it is there (fsync). One call at a time, off the main
 * thread: it reads `base`, which nobody may commit to meanwhile. Rewrites the file once that is
 * shorter. False with the system's reason in `why`; the journal then holds what it held. */
bool journal_append(journal *, const policy *base, const patch *, const stamp *, fault *why);
