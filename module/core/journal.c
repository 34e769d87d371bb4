/* The policy on disk: a text file of records, each a change and the hash that chains it to the one
 * before. Nothing here knows Redis, and nothing runs while a client is decided.
 *
 *     certauth-journal 1
 *     record 1 generation 7 epoch 2 owner prod/3 lines 2 digest 2:5b0c…
 *     +bind subject CN=alice,O=acme alice
 *     +user alice on ~orders:* +@read
 *     end <SHA-256 over the hash of the record before (zeros before the first) and all bytes from
 *          `record` up to `end`>
 *
 * A server that dies while it writes leaves a record without its `end` line: that one was never
 * acknowledged and is dropped. Whatever else is wrong (a byte changed, a record missing, moved or
 * repeated) is damage, which no guess repairs: the wrong guess would bring back a revoked identity. */
#define _XOPEN_SOURCE 700

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <openssl/evp.h>

#define HEADER "certauth-journal 1\n"
#define SEAL "end "

enum {
    HEAD_BYTES = 1024, /* the `record` line: all numbers, and an owner that is all quoted */
    SEAL_DIGITS = 2 * HASH_BYTES, /* after `end ` */
    PIECE_BYTES = 65536, /* written at a time, so that a record needs no memory of its size */
    REPORT_BYTES = PATH_MAX + 512,
    SLACK_LINES = 1000 /* in the file over twice the policy before a rewrite is worth it */
};

/* Where the next record goes, and what it is chained to. */
typedef struct {
    int file;
    uint64_t length, records,
        lines;                /* bytes; all lines of records, their first and last included */
    uint8_t hash[HASH_BYTES]; /* of the last record */
} tail;

struct journal {
    int directory, lock;
    tail tail;
    stamp last;
    uint64_t rewrite_at; /* lines in the file, after a rewrite that failed */
    bool replayed;       /* the policy that was on the disk is the one in memory */
    char path[PATH_MAX]; /* of the file, absolute: CONFIG SET dir moves the server */
    char damage[REPORT_BYTES], notice[REPORT_BYTES]; /* empty: none */
    uint8_t piece[PIECE_BYTES];
};

/* A process holds one journal: a second descriptor of the lock file, closed, would release the
 * lock of the first (fcntl(2), "Record locks"). */
static bool held;

static void tell(char out[REPORT_BYTES], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void tell(char out[REPORT_BYTES], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(out, REPORT_BYTES, format, args);
    va_end(args);
}

/* "cannot <what> <name>: <the system's reason>". */
static bool fail_system(fault *why, const char *what, const char *name) {
    int error = errno;
    return fail(why, "cannot %s %s: %s", what, name, strerror(error));
}

static bool synced(int file) {
    int result;
    do result = fsync(file);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

static bool cut_to(int file, uint64_t length) {
    int result;
    do result = ftruncate(file, (off_t)length);
    while (result != 0 && errno == EINTR);
    return result == 0 && synced(file);
}

const char *journal_damage(const journal *j) { return j->damage[0] ? j->damage : NULL; }
const char *journal_notice(const journal *j) { return j->notice[0] ? j->notice : NULL; }
bool journal_empty(const journal *j) { return !j->damage[0] && j->tail.records == 0; }

/* ---- Writing a record ---- */

/* A record on its way to a file. The first error stays, and nothing is written after it. */
typedef struct {
    int file, error;
    EVP_MD_CTX *hash;
    uint64_t at; /* in the file */
    writer piece;
} output;

static void output_flush(output *out) {
    for (size_t done = 0; done < out->piece.len && !out->error;) {
        ssize_t n = pwrite(out->file, out->piece.ptr + done, out->piece.len - done, (off_t)out->at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            out->error = n < 0 ? errno : EIO;
            break;
        }
        done += (size_t)n;
        out->at += (uint64_t)n;
    }
    out->piece.len = 0;
}

static void output_put(output *out, span bytes) {
    while (bytes.len) {
        size_t room = out->piece.room - out->piece.len, n = bytes.len < room ? bytes.len : room;
        put(&out->piece, bytes.ptr, n);
        bytes = span_skip(bytes, n);
        if (out->piece.len == out->piece.room) output_flush(out);
    }
}

/* Bytes of the record, which its hash covers. */
static void output_hashed(output *out, span bytes) {
    if (EVP_DigestUpdate(out->hash, bytes.ptr, bytes.len) != 1 && !out->error) out->error = ENOMEM;
    output_put(out, bytes);
}

static void output_line(output *out, char sign, const rule *line) {
    output_hashed(out, span_of(&sign, 1));
    output_hashed(out, rule_text(line));
    output_hashed(out, LITERAL("\n"));
}

/* What a record holds: a change, or a whole policy where `change` is NULL. */
typedef struct {
    const policy *whole;
    const patch *change;
} content;

static uint64_t content_lines(content of) {
    return of.change ? patch_count(of.change, false) + patch_count(of.change, true)
                     : policy_rules(of.whole);
}

static void output_lines(output *out, content of) {
    if (of.change == NULL) {
        for (size_t i = 0; i < policy_rules(of.whole); i++)
            output_line(out, '+', policy_rule(of.whole, i));
        return;
    }
    for (size_t i = 0; i < patch_count(of.change, false); i++) {
        output_line(out, '-', patch_rule(of.change, false, i, NULL));
    }
    for (size_t i = 0; i < patch_count(of.change, true); i++) {
        output_line(out, '+', patch_rule(of.change, true, i, NULL));
    }
}

static void output_head(output *out, uint64_t number, content of, const stamp *s) {
    uint8_t bytes[HEAD_BYTES];
    char text[HEAD_BYTES / 4], after[DIGEST_TEXT];
    digest sum = of.change ? patch_digest(of.change) : policy_digest(of.whole);
    digest_print(&sum, after);
    writer head = {bytes, 0, sizeof bytes, false};
    put(&head, text,
        (size_t)snprintf(text, sizeof text,
                         "record %" PRIu64 " generation %" PRIu64 " epoch %" PRIu64 " owner ",
                         number, s->generation, s->epoch));
    put_token(&head, span_of(s->owner, strnlen(s->owner, sizeof s->owner)));
    put(&head, text,
        (size_t)snprintf(text, sizeof text, " lines %" PRIu64 " digest %s\n", content_lines(of),
                         after));
    output_hashed(out, span_of(head.ptr, head.len));
}

static void output_seal(output *out, uint8_t hash[HASH_BYTES]) {
    uint8_t digits[SEAL_DIGITS];
    writer hex = {digits, 0, sizeof digits, false};
    if (EVP_DigestFinal_ex(out->hash, hash, NULL) != 1 && !out->error) out->error = ENOMEM;
    put_hex(&hex, span_of(hash, HASH_BYTES));
    output_put(out, LITERAL(SEAL));
    output_put(out, span_of(digits, sizeof digits));
    output_put(out, LITERAL("\n"));
}

/* A SHA-256 that has taken in the hash of the record before; NULL without memory. */
static EVP_MD_CTX *chain_start(const uint8_t before[HASH_BYTES]) {
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    if (hash && EVP_DigestInit_ex(hash, md_sha256(), NULL) == 1 &&
        EVP_DigestUpdate(hash, before, HASH_BYTES) == 1)
        return hash;
    EVP_MD_CTX_free(hash);
    return NULL;
}

/* Writes one record after the tail and brings it to the disk. On false, errno says why, the tail is
 * what it was, and the file may hold a part of the record. */
static bool record_write(tail *t, uint8_t piece[PIECE_BYTES], content of, const stamp *s) {
    tail next = *t;
    output out = {t->file, 0, chain_start(t->hash), t->length, {piece, 0, PIECE_BYTES, false}};
    if (out.hash == NULL) {
        errno = ENOMEM;
        return false;
    }
    if (t->length == 0) output_put(&out, LITERAL(HEADER));
    output_head(&out, t->records + 1, of, s);
    output_lines(&out, of);
    output_seal(&out, next.hash);
    output_flush(&out);
    EVP_MD_CTX_free(out.hash);
    if (!out.error && !synced(t->file)) out.error = errno;
    errno = out.error;
    if (out.error) return false;
    next.length = out.at;
    next.records++;
    next.lines += content_lines(of) + 2;
    *t = next;
    return true;
}

/* ---- Appending ---- */

/* What is written to a file that has no name any more, or another one, is gone at the next start. */
static bool still_there(const journal *j, fault *why) {
    struct stat named, open;
    if (lstat(j->path, &named) != 0) return fail_system(why, "find", j->path);
    if (fstat(j->tail.file, &open) != 0) return fail_system(why, "read", j->path);
    if (named.st_dev != open.st_dev || named.st_ino != open.st_ino) {
        return fail(why, "%s is another file than the one this server opened", j->path);
    }
    if ((uint64_t)open.st_size == j->tail.length) return true;
    return fail(why,
                "%s has %" PRIu64 " bytes, not the %" PRIu64
                " that this server left there: something else wrote to it",
                j->path, (uint64_t)open.st_size, j->tail.length);
}

static bool rewrite_due(const journal *j, const policy *base) {
    return j->tail.lines > 2 * (uint64_t)policy_rules(base) + SLACK_LINES &&
           j->tail.lines >= j->rewrite_at;
}

/* Keeps what stands under the journal's name and is not ours. */
static bool set_aside(const journal *j) {
    return renameat(j->directory, "policy", j->directory, "policy.found") == 0 || errno == ENOENT;
}

/* Writes the policy as one record, or nothing where there is none, to a file of its own and gives that
 * the journal's name. NULL, or what could not be done, with the reason in errno. */
static const char *rewrite_try(journal *j, const policy *base, bool stranger, tail *fresh) {
    unlinkat(j->directory, "policy.new", 0);
    const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    fresh->file = openat(j->directory, "policy.new", flags, 0600);
    if (fresh->file < 0) return "create a new copy of";
    if (j->tail.records && !record_write(fresh, j->piece, (content){base, NULL}, &j->last))
        return "write a new copy of";
    if (stranger && !set_aside(j)) return "set aside";
    if (renameat(j->directory, "policy.new", j->directory, "policy") != 0) return "replace";
    return NULL;
}

static void rewrite_give_up(journal *j, int file, const char *what) {
    fault why;
    fail_system(&why, what, j->path);
    tell(j->notice, "the journal stays as long as it is: %s", why.text);
    if (file >= 0) close(file);
    unlinkat(j->directory, "policy.new", 0);
    j->rewrite_at = j->tail.lines + SLACK_LINES; /* or each patch would fill a full disk again */
}

static void rewrite_take(journal *j, tail fresh) {
    close(j->tail.file);
    j->tail = fresh;
    j->rewrite_at = 0;
    j->damage[0] = 0;
    if (synced(j->directory)) return;
    /* The name may still mean the old file after a power cut: what is appended would be lost. */
    tell(j->damage, "cannot bring the directory of %s to the disk: %s", j->path, strerror(errno));
}

/* Both files hold the same policy, so that neither a crash nor a failure loses anything: the change
 * being made is appended afterwards to whichever is in force. */
static void rewrite(journal *j, const policy *base) {
    tail fresh = {.file = -1};
    const char *what = rewrite_try(j, base, false, &fresh);
    if (what) rewrite_give_up(j, fresh.file, what);
    else rewrite_take(j, fresh);
}

/* Takes back what a failed write left after the tail. */
static void take_back(journal *j) {
    if (cut_to(j->tail.file, j->tail.length)) return;
    tell(j->damage, "cannot take back a part of a record at byte %" PRIu64 " of %s: %s",
         j->tail.length, j->path, strerror(errno));
}

/* ---- Looking again ---- */

/* A record lock of fcntl, which belongs to this process alone. flock's and F_OFD_SETLK's belong to
 * the open file, which the children inherit that save the data set: a server killed while one still
 * writes could not start again before that one ends. The child never touches the journal. -1 where it
 * is not had. */
static int lock_take(const journal *j, int directory, fault *why) {
    int lock = openat(directory, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (lock < 0) return fail_system(why, "open the lock beside", j->path), -1;
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(lock, F_SETLK, &whole) == 0) return lock;
    if (errno != EACCES && errno != EAGAIN) {
        fail_system(why, "lock the directory of", j->path);
    } else {
        if (fcntl(lock, F_GETLK, &whole) != 0 || whole.l_type == F_UNLCK) whole.l_pid = 0;
        fail(why,
             "another server (process %ld) holds %s: stop it, or give each server a journal "
             "directory of its own",
             (long)whole.l_pid, j->path);
    }
    close(lock);
    return -1;
}

/* Is the file that we hold the lock of still the file that another server would look at? */
static bool locked(const journal *j, int directory) {
    struct stat named, held_one;
    return fstatat(directory, "lock", &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstat(j->lock, &held_one) == 0 && named.st_dev == held_one.st_dev &&
           named.st_ino == held_one.st_ino;
}

/* A second descriptor of the file that is locked must not be opened: see `held`. */
static bool lock_again(journal *j, int directory, fault *why) {
    if (locked(j, directory)) return true;
    int lock = lock_take(j, directory, why);
    if (lock < 0) return false;
    close(j->lock);
    j->lock = lock;
    return true;
}

/* The directory that has the path now; a new one where none has. */
static bool directory_again(journal *j, fault *why) {
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%.*s", (int)(strrchr(j->path, '/') - j->path), j->path);
    bool made = mkdir(name, 0700) == 0;
    if (!made && errno != EEXIST) return fail_system(why, "make the directory", name);
    int directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return fail_system(why, "open the directory", name);
    int above = made ? openat(directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (above >= 0) synced(above);
    if (above >= 0) close(above);
    if (!lock_again(j, directory, why)) {
        close(directory);
        return false;
    }
    close(j->directory);
    j->directory = directory;
    return true;
}

/* The journal as it should be, with the policy in force. What stands there instead is kept as
 * policy.found: it may be somebody's back-up, and is never taken for the policy while the server runs,
 * for it may hold a revoked identity. Where there was no policy, it may be one for the next start. */
static bool file_again(journal *j, const policy *in_force, fault *why) {
    tail fresh = {.file = -1};
    struct stat there;
    bool stranger = fstatat(j->directory, "policy", &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                    !(S_ISREG(there.st_mode) && there.st_size == 0);
    if (stranger && j->tail.records == 0)
        return fail(why, "it came after the server had started: restart that to have it read");
    const char *what = rewrite_try(j, in_force, stranger, &fresh);
    if (what) {
        fail_system(why, what, j->path);
        if (fresh.file >= 0) close(fresh.file);
        unlinkat(j->directory, "policy.new", 0);
        return false;
    }
    rewrite_take(j, fresh);
    return !j->damage[0] || fail(why, "%s", j->damage);
}

/* What was lost is written again from memory: what is appended to a file that has no name, or to bytes
 * that are not ours, would be gone at the next start. */
static bool restore(journal *j, const policy *in_force, fault *why) {
    fault lost = {""}, hurdle;
    if (!j->replayed) return fail(why, "the journal takes no change: %s", j->damage);
    if (j->damage[0]) fail(&lost, "%s", j->damage);
    if (!lost.text[0] && still_there(j, &lost) && locked(j, j->directory)) return true;
    if (!lost.text[0]) fail(&lost, "the lock beside %s is gone", j->path);
    if (!directory_again(j, &hurdle) || !file_again(j, in_force, &hurdle))
        return fail(why, "%.170s; and %.120s", lost.text, hurdle.text);
    tell(j->notice, "%s: the policy in force has been written there again", lost.text);
    return true;
}

/* Could a change be appended, and the file be opened at the next start? */
static bool may_grow(const journal *j, fault *why) {
    struct statvfs disk;
    if (faccessat(j->directory, ".", W_OK | X_OK, 0) != 0)
        return fail_system(why, "write to the directory of", j->path);
    if (faccessat(j->directory, "policy", R_OK | W_OK, 0) != 0)
        return fail_system(why, "open", j->path);
    if (fstatvfs(j->directory, &disk) != 0 || disk.f_blocks == 0 || disk.f_bavail > 0) return true;
    return (geteuid() == 0 && disk.f_bfree > 0) ||
           fail(why, "cannot write to %s: its disk is full", j->path);
}

bool journal_look(journal *j, const policy *in_force, fault *why) {
    j->notice[0] = '\0';
    return restore(j, in_force, why) && may_grow(j, why);
}

/* ---- Appending a change ---- */

bool journal_append(journal *j, const policy *base, const patch *change, const stamp *s,
                    fault *why) {
    j->notice[0] = '\0';
    if (!restore(j, base, why)) return false;
    if (rewrite_due(j, base)) rewrite(j, base);
    if (j->damage[0]) return fail(why, "the journal takes no change: %s", j->damage);
    if (!record_write(&j->tail, j->piece, (content){base, change}, s)) {
        fail_system(why, "write the change to", j->path);
        take_back(j);
        return false;
    }
    j->last = *s;
    return true;
}

/* ---- Reading records ---- */

typedef struct {
    uint64_t number, lines;
    stamp stamp;
    bool stamped; /* the head was read this far */
    span digest, body, hashed, seal;
    uint8_t head[HEAD_BYTES]; /* what `digest` points into */
} record;

/* FAILED: for want of memory; the file may be sound. */
typedef enum { PART_READ, PART_CUT, PART_BAD, PART_FAILED } part;

static part bad(fault *why, const char *what) {
    fail(why, "%s", what);
    return PART_BAD;
}

/* The next line, without its newline. CUT: the file ends in it. */
static part line_next(span *rest, size_t room, span *line, fault *why) {
    const uint8_t *end = rest->len ? memchr(rest->ptr, '\n', rest->len) : NULL;
    *line = span_of(rest->ptr, end ? (size_t)(end - rest->ptr) : rest->len);
    if (line->len > room) {
        fail(why, "a line is longer than %zu bytes", room);
        return PART_BAD;
    }
    if (end == NULL) return PART_CUT;
    *rest = span_skip(*rest, line->len + 1);
    return PART_READ;
}

static bool number_read(span digits, uint64_t *out) {
    *out = 0;
    for (size_t i = 0; i < digits.len; i++) {
        uint8_t digit = (uint8_t)(digits.ptr[i] - '0');
        if (digit > 9 || *out > (UINT64_MAX - digit) / 10) return false;
        *out = *out * 10 + digit;
    }
    return digits.len > 0;
}

/* The next two tokens: `name`, and its value, which goes to `out`. */
static bool field_read(span *line, span name, uint8_t *out, span *value) {
    size_t len;
    if (token_read(line, out, &len) != TOKEN_READ || !span_equal(span_of(out, len), name))
        return false;
    if (token_read(line, out, &len) != TOKEN_READ) return false;
    *value = span_of(out, len);
    return true;
}

static bool number_field(span *line, span name, uint64_t *out) {
    uint8_t bytes[HEAD_BYTES];
    span digits;
    return field_read(line, name, bytes, &digits) && number_read(digits, out);
}

static bool owner_field(span *line, stamp *out) {
    uint8_t bytes[HEAD_BYTES];
    span owner;
    if (!field_read(line, LITERAL("owner"), bytes, &owner)) return false;
    if (owner.len >= sizeof out->owner || memchr(owner.ptr, 0, owner.len)) return false;
    memcpy(out->owner, owner.ptr, owner.len);
    return true;
}

static bool head_read(span line, record *r) {
    r->stamped = number_field(&line, LITERAL("record"), &r->number) &&
                 number_field(&line, LITERAL("generation"), &r->stamp.generation);
    return r->stamped && number_field(&line, LITERAL("epoch"), &r->stamp.epoch) &&
           owner_field(&line, &r->stamp) && number_field(&line, LITERAL("lines"), &r->lines) &&
           field_read(&line, LITERAL("digest"), r->head, &r->digest) && line.len == 0;
}

static part body_read(span *rest, record *r, fault *why) {
    r->body = *rest;
    for (uint64_t i = 0; i < r->lines; i++) {
        span line;
        part got = line_next(rest, LINE_BYTES + 1, &line, why);
        if (got != PART_READ) return got;
        if (line.len && (line.ptr[0] == '+' || line.ptr[0] == '-')) continue;
        fail(why, "line %" PRIu64 " of its %" PRIu64 " does not start with + or -", i + 1,
             r->lines);
        return PART_BAD;
    }
    r->body.len -= rest->len;
    return PART_READ;
}

/* One record, by its outer form alone. */
static part record_read(span *rest, record *r, fault *why) {
    span start = *rest, line;
    part got = line_next(rest, HEAD_BYTES, &line, why);
    if (got != PART_READ) return got;
    if (!head_read(line, r)) return bad(why, "its first line cannot be read");
    got = body_read(rest, r, why);
    if (got != PART_READ) return got;
    r->hashed = span_of(start.ptr, start.len - rest->len);
    got = line_next(rest, sizeof SEAL - 1 + SEAL_DIGITS, &line, why);
    if (got != PART_READ) return got;
    if (!span_starts(line, LITERAL(SEAL))) return bad(why, "its `end` line is missing");
    r->seal = span_skip(line, sizeof SEAL - 1);
    return PART_READ;
}

/* Compares the text of the hash, so that not even the case of a digit may differ. */
static part record_sealed(const record *r, uint8_t hash[HASH_BYTES], fault *why) {
    uint8_t digits[SEAL_DIGITS];
    writer hex = {digits, 0, sizeof digits, false};
    EVP_MD_CTX *chain = chain_start(hash);
    bool done = chain && EVP_DigestUpdate(chain, r->hashed.ptr, r->hashed.len) == 1 &&
                EVP_DigestFinal_ex(chain, hash, NULL) == 1;
    EVP_MD_CTX_free(chain);
    if (!done) {
        fail(why, "no memory to check the journal");
        return PART_FAILED;
    }
    put_hex(&hex, span_of(hash, HASH_BYTES));
    if (span_equal(r->seal, span_of(digits, sizeof digits))) return PART_READ;
    return bad(why, "its checksum is wrong: bytes were changed, or a record before it removed");
}

static void patch_fill(patch *change, const record *r) {
    span rest = r->body, line;
    for (size_t number = 1; number <= r->lines; number++) {
        fault none;
        line_next(&rest, LINE_BYTES + 1, &line, &none);
        if (line.ptr[0] == '+') patch_add(change, span_skip(line, 1), number);
        else patch_remove(change, span_skip(line, 1), number);
    }
}

static bool patch_sound(patch *change, const record *r, fault *why) {
    if (!patch_finish(change, false)) {
        size_t number = 0;
        const char *text = patch_problem_text(change, 0, &number);
        return fail(why, "line %zu: %.140s. If a newer module wrote it, put that module back",
                    number, text);
    }
    char after[DIGEST_TEXT];
    digest sum = patch_digest(change);
    digest_print(&sum, after);
    return span_equal(r->digest, span_of(after, strlen(after))) ||
           fail(why, "its lines give the digest %s, not the one it names", after);
}

static part record_replay(journal *j, policy *into, const record *r, fault *why) {
    if (r->number != j->tail.records + 1) {
        fail(why, "it calls itself record %" PRIu64 ": a record was removed, moved or repeated",
             r->number);
        return PART_BAD;
    }
    part sealed = record_sealed(r, j->tail.hash, why);
    if (sealed != PART_READ) return sealed;
    patch *change = patch_new(into, FROM_JOURNAL);
    patch_fill(change, r);
    if (!patch_sound(change, r, why)) {
        patch_free(change);
        return PART_BAD;
    }
    policy_commit(into, change);
    patch_free(change);
    j->last = r->stamp;
    j->tail.records++;
    j->tail.lines += r->lines + 2;
    return PART_READ;
}

/* ---- Replaying the file ---- */

static void damaged(journal *j, const record *r, const char *what) {
    tell(j->damage,
         "record %" PRIu64 " (%s %" PRIu64 ") at byte %" PRIu64 " of %s is damaged: %s. Restore "
         "the file from a backup and restart; or move it away, and the marker beside the directory "
         "(.enrolled) too, restart, and load the policy again",
         j->tail.records + 1, r->stamped ? "generation" : "after generation",
         r->stamped ? r->stamp.generation : j->last.generation, j->tail.length, j->path, what);
}

/* Takes the header off. A file that is cut inside it has no record. */
static part header_read(journal *j, span *rest) {
    span header = LITERAL(HEADER);
    if (rest->len < header.len && span_starts(header, *rest)) return PART_CUT;
    if (span_starts(*rest, header)) {
        *rest = span_skip(*rest, header.len);
        j->tail.length = header.len;
        return PART_READ;
    }
    tell(j->damage,
         "the first line of %s is not \"%.*s\": it is not a journal, or one of a newer certauth; "
         "move it away, or upgrade",
         j->path, (int)header.len - 1, HEADER);
    return PART_BAD;
}

/* Commits all records of `text` to `into`, up to a torn one. On damage, and on false (no memory),
 * `into` holds what came before. */
static bool replay(journal *j, span text, policy *into, fault *why) {
    span rest = text;
    if (header_read(j, &rest) != PART_READ) return true;
    while (rest.len) {
        record r = {0};
        part got = record_read(&rest, &r, why);
        if (got == PART_READ) got = record_replay(j, into, &r, why);
        if (got == PART_BAD) damaged(j, &r, why->text);
        if (got != PART_READ) return got != PART_FAILED;
        j->tail.length = text.len - rest.len;
    }
    return true;
}

/* The file in one piece of malloc: a mapping would end the server with SIGBUS where somebody cuts
 * the file meanwhile. */
static uint8_t *file_read(journal *j, size_t *size, fault *why) {
    struct stat file;
    if (fstat(j->tail.file, &file) != 0) return fail_system(why, "read", j->path), NULL;
    if (!S_ISREG(file.st_mode)) return fail(why, "%s is not a regular file", j->path), NULL;
    *size = (size_t)file.st_size;
    uint8_t *bytes = malloc(*size + 1);
    if (bytes == NULL) return fail(why, "no memory for the %zu bytes of %s", *size, j->path), NULL;
    for (size_t done = 0; done < *size;) {
        ssize_t n = pread(j->tail.file, bytes + done, *size - done, (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n > 0) {
            done += (size_t)n;
            continue;
        }
        if (n == 0) errno = EIO; /* it became shorter */
        free(bytes);
        return fail_system(why, "read", j->path), NULL;
    }
    return bytes;
}

/* Cuts off what stands after the last whole record. */
static bool drop_torn(journal *j, size_t size, fault *why) {
    if (j->damage[0] || j->tail.length == size) return true;
    if (!cut_to(j->tail.file, j->tail.length))
        return fail_system(why, "cut the torn end of", j->path);
    tell(j->notice,
         "dropped %" PRIu64 " bytes at byte %" PRIu64 " of %s: record %" PRIu64 " was being "
         "written when the server stopped, and was never acknowledged",
         size - j->tail.length, j->tail.length, j->path, j->tail.records + 1);
    return true;
}

/* A file system may have made the file longer before its bytes came: NULs at its end were never
 * written (no line holds one, tokens quote it). */
static bool load(journal *j, policy *into, fault *why) {
    size_t size;
    uint8_t *bytes = file_read(j, &size, why);
    if (bytes == NULL) return false;
    span text = span_of(bytes, size);
    while (text.len && text.ptr[text.len - 1] == 0) text.len--;
    policy *scratch = policy_new();
    bool done = replay(j, text, scratch, why);
    if (j->damage[0]) j->last = (stamp){0};
    else if (done) policy_swap(into, scratch);
    policy_free(scratch);
    free(bytes);
    return done && drop_torn(j, size, why);
}

/* ---- Opening ---- */

static bool directory_open(journal *j, const char *directory, fault *why) {
    if (realpath(directory, j->path) == NULL)
        return fail_system(why, "find the directory", directory);
    j->directory = open(j->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->directory < 0) return fail_system(why, "open the directory", j->path);
    size_t len = strlen(j->path);
    static const char name[] = "/policy";
    if (len + sizeof name > sizeof j->path) return fail(why, "%s is too long a path", directory);
    memcpy(j->path + len, name, sizeof name);
    return true;
}

/* What is read here is taken for acknowledged. It may come from a server killed before its fsync,
 * so it is brought to the disk first; and so is the name, of a new file or of a rewritten one. */
static bool file_open(journal *j, fault *why) {
    j->tail.file = openat(j->directory, "policy", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (j->tail.file < 0) return fail_system(why, "open", j->path);
    unlinkat(j->directory, "policy.new", 0);
    return (synced(j->tail.file) && synced(j->directory)) ||
           fail_system(why, "bring to the disk", j->path);
}

journal *journal_open(const char *directory, policy *into, stamp *last, fault *why) {
    *last = (stamp){0};
    if (held) return fail(why, "this process has a journal open, and may have one at a time"), NULL;
    journal *j = calloc(1, sizeof *j);
    if (j == NULL) return fail(why, "no memory for the journal"), NULL;
    held = true;
    j->directory = j->lock = j->tail.file = -1;
    if (!directory_open(j, directory, why) || (j->lock = lock_take(j, j->directory, why)) < 0 ||
        !file_open(j, why) || !load(j, into, why)) {
        journal_close(j);
        return NULL;
    }
    j->replayed = !j->damage[0];
    *last = j->last;
    return j;
}

/* Closing the lock file releases the lock. */
void journal_close(journal *j) {
    if (j->tail.file >= 0) close(j->tail.file);
    if (j->lock >= 0) close(j->lock);
    if (j->directory >= 0) close(j->directory);
    free(j);
    held = false;
}
