/* The directory behind tls-ca-cert-dir: the policy's CA certificates under their hash names, as
 * OpenSSL looks for them (X509_LOOKUP_hash_dir(3)). */
#define _POSIX_C_SOURCE 200809L
#include "tls.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/pem.h>

/* A file that was read or written, as it was then: to look at one takes a hundredth of what reading it does,
 * and that is done every few seconds. */
typedef struct {
    uint32_t hash, number;
    uint8_t key[KEY_BYTES];
    struct stat there;
} seen_file;
static seen_file *seen;
static size_t seen_count;

/* Names are <8 hex digits of the subject's hash>.<N>; N counts from 0 without a gap, or those behind
 * the gap are not found. */
typedef struct {
    const rule *line;
    uint32_t hash, number;
    const seen_file *seen; /* as it still is; NULL: it was not */
    bool there;            /* it is on the disk, by now */
    char name[32];
} entry;
typedef struct {
    entry *entries; /* sorted by hash and number */
    size_t count;
} listing;

static int compare_entries(const void *a, const void *b) {
    const entry *one = a, *other = b;
    if (one->hash != other->hash) return one->hash < other->hash ? -1 : 1;
    return memcmp(one->line->key, other->line->key, KEY_BYTES);
}

static void list_policy(listing *l, const policy *p) {
    span hash;
    for (size_t i = 0; p && i < policy_authorities(p); i++) {
        size_t at = 0;
        const rule *line = policy_authority_rule(p, i);
        if (!rule_field(line, FIELD_FILE, &at, &hash)) continue;
        uint32_t value = (uint32_t)get_u16(hash.ptr) << 16 | (uint32_t)get_u16(hash.ptr + 2);
        l->entries[l->count++] = (entry){.line = line, .hash = value};
    }
}

/* One certificate may stand in both policies. */
static void list_close(listing *l) {
    size_t kept = 0;
    qsort(l->entries, l->count, sizeof *l->entries, compare_entries);
    for (size_t i = 0; i < l->count; i++) {
        entry *e = &l->entries[i], *last = kept ? &l->entries[kept - 1] : NULL;
        if (last && compare_entries(last, e) == 0) continue;
        e->number = last && last->hash == e->hash ? last->number + 1 : 0;
        snprintf(e->name, sizeof e->name, "%08x.%u", (unsigned)e->hash, (unsigned)e->number);
        l->entries[kept++] = *e;
    }
    l->count = kept;
}

static size_t count_certificates(const policy *p) { return p ? policy_authorities(p) : 0; }

/* ---- What is there ---- */

static int compare_seen(const void *a, const void *b) {
    const seen_file *one = a, *other = b;
    if (one->hash != other->hash) return one->hash < other->hash ? -1 : 1;
    return (one->number > other->number) - (one->number < other->number);
}

static bool is_same_file(const struct stat *a, const struct stat *b) {
    return a->st_ino == b->st_ino && a->st_size == b->st_size && S_ISREG(a->st_mode) &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void find_seen(int directory, entry *e) {
    seen_file wanted = {.hash = e->hash, .number = e->number};
    struct stat now;
    const seen_file *found =
        seen_count ? bsearch(&wanted, seen, seen_count, sizeof *seen, compare_seen) : NULL;
    if (found == NULL || memcmp(found->key, e->line->key, KEY_BYTES) != 0) return;
    e->there = fstatat(directory, e->name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
               is_same_file(&now, &found->there);
    e->seen = e->there ? found : NULL;
}

static bool see(int directory, const entry *e, seen_file *out) {
    if (e->seen) {
        *out = *e->seen;
        return true;
    }
    *out = (seen_file){.hash = e->hash, .number = e->number};
    memcpy(out->key, e->line->key, KEY_BYTES);
    return e->there && fstatat(directory, e->name, &out->there, AT_SYMLINK_NOFOLLOW) == 0;
}

static void remember(int directory, const listing *l) {
    seen_file *now = malloc((l->count + 1) * sizeof *now);
    size_t count = 0;
    for (size_t i = 0; now && i < l->count; i++)
        count += see(directory, &l->entries[i], &now[count]);
    free(seen);
    seen = now;
    seen_count = count;
}

static bool is_ours(const char *name) {
    size_t digits = strspn(name, "0123456789abcdef");
    return digits == 8 && name[8] == '.' && name[9] &&
           strspn(name + 9, "0123456789") == strlen(name + 9);
}

static bool holds(int directory, const entry *e) {
    int file = openat(directory, e->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    FILE *stream = file < 0 ? NULL : fdopen(file, "r");
    if (stream == NULL) {
        if (file >= 0) close(file);
        return false;
    }
    X509 *there = PEM_read_X509(stream, NULL, NULL, NULL);
    bool same = there && X509_cmp(there, rule_certificate(e->line)) == 0;
    X509_free(there);
    fclose(stream);
    return same;
}

/* In place of an old one at once: a handshake may look at any moment. */
static bool write_entry(int directory, const entry *e) {
    int file =
        openat(directory, "new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    FILE *stream = file < 0 ? NULL : fdopen(file, "w");
    if (stream == NULL) {
        if (file >= 0) close(file);
        return false;
    }
    bool good = PEM_write_X509(stream, rule_certificate(e->line)) == 1;
    good = fclose(stream) == 0 && good;
    return good && renameat(directory, "new", directory, e->name) == 0;
}

/* By the hash: the first entry that has it, and from there the number. */
static bool is_listed(const listing *l, const char *name) {
    unsigned long hash = strtoul(name, NULL, 16), number = strtoul(name + 9, NULL, 10);
    size_t low = 0, high = l->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (l->entries[middle].hash < hash) low = middle + 1;
        else high = middle;
    }
    return number < l->count - low && strcmp(l->entries[low + number].name, name) == 0;
}

static bool remove_others(int directory, const listing *l, trust_work *w) {
    int copy = dup(directory);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    if (dir == NULL) return false;
    bool good = true;
    rewinddir(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (!is_ours(e->d_name) || is_listed(l, e->d_name)) continue;
        good = unlinkat(directory, e->d_name, 0) == 0 && good;
        w->changed = w->stale = true;
    }
    closedir(dir);
    return good;
}

/* libcrypto looks into the directory for each name of a CA that it holds no certificate of
 * (X509_STORE_CTX_get_by_subject, crypto/x509/x509_lu.c, OpenSSL 3.0): the first of a name it finds by
 * itself. */
static bool put_entry(int directory, entry *e, trust_work *w) {
    find_seen(directory, e);
    e->there = e->there || holds(directory, e);
    if (e->there) return true;
    w->changed = true;
    w->stale = w->stale || e->number > 0 || faccessat(directory, e->name, F_OK, 0) == 0;
    return e->there = write_entry(directory, e);
}

/* What cannot be written keeps nothing from being removed. The reason is that of the first one. */
static bool write_all(const char *where, listing *l, trust_work *w) {
    int directory = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
    if (directory < 0) return false;
    for (size_t i = 0; i < l->count; i++) {
        if (!put_entry(directory, &l->entries[i], w) && error == 0) error = errno;
    }
    if (w->only && !remove_others(directory, l, w) && error == 0) error = errno;
    remember(directory, l);
    close(directory);
    errno = error;
    return error == 0;
}

bool trust_write(const char *where, const policy *p, const policy *bootstrap, trust_work *w,
                 fault *why) {
    listing l = {calloc(count_certificates(p) + count_certificates(bootstrap) + 1, sizeof(entry)),
                 0};
    if (l.entries == NULL) return fail(why, "out of memory");
    list_policy(&l, bootstrap);
    list_policy(&l, p);
    list_close(&l);
    ERR_set_mark();
    bool good = write_all(where, &l, w);
    ERR_pop_to_mark();
    free(l.entries);
    return good || fail(why, "cannot keep the CA certificates in %s: %s", where, strerror(errno));
}

bool trust_holds(const char *where, const policy *p, const policy *bootstrap) {
    const view own = {bootstrap, NULL};
    listing l = {calloc(policy_authorities(p) + policy_authorities(bootstrap) + 1, sizeof(entry)),
                 0};
    int directory = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool found = l.entries == NULL; /* who knows */
    if (l.entries) {
        list_policy(&l, bootstrap);
        list_policy(&l, p);
        list_close(&l);
    }
    ERR_set_mark();
    for (size_t i = 0; directory >= 0 && i < l.count && !found; i++)
        found = !view_find(&own, l.entries[i].line->key) && holds(directory, &l.entries[i]);
    ERR_pop_to_mark();
    if (directory >= 0) close(directory);
    free(l.entries);
    return found;
}
