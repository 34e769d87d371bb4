/* The directory behind tls-ca-cert-dir: the policy's CA certificates under their hash names, as
 * OpenSSL looks for them (X509_LOOKUP_hash_dir(3)). */
#define _POSIX_C_SOURCE 200809L
#include "node.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/pem.h>

/* Names are <8 hex digits of the subject's hash>.<N>; N counts from 0 without a gap, or those behind
 * the gap are not found. */
typedef struct {
    char name[32];
    X509 *certificate;
} entry;
typedef struct {
    entry *entries;
    size_t count;
} listing;

static void list_add(listing *l, X509 *certificate) {
    unsigned long hash = X509_subject_name_hash(certificate);
    unsigned next = 0;
    for (size_t i = 0; i < l->count; i++) {
        if (X509_cmp(l->entries[i].certificate, certificate) == 0) return;
        if (X509_subject_name_hash(l->entries[i].certificate) == hash) next++;
    }
    snprintf(l->entries[l->count].name, sizeof l->entries->name, "%08lx.%u", hash, next);
    l->entries[l->count++].certificate = certificate;
}

static void list_policy(listing *l, const policy *p) {
    for (size_t i = 0; p && i < policy_authorities(p); i++) {
        X509 *certificate = policy_authority(p, i);
        if (certificate) list_add(l, certificate);
    }
}

static size_t count_certificates(const policy *p) {
    size_t count = 0;
    for (size_t i = 0; p && i < policy_rules(p); i++)
        count += rule_certificate(policy_rule(p, i)) != NULL;
    return count;
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
    bool same = there && X509_cmp(there, e->certificate) == 0;
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
    bool good = PEM_write_X509(stream, e->certificate) == 1;
    good = fclose(stream) == 0 && good;
    return good && renameat(directory, "new", directory, e->name) == 0;
}

static bool is_listed(const listing *l, const char *name) {
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->entries[i].name, name) == 0) return true;
    }
    return false;
}

static bool remove_others(int directory, const listing *l, bool *changed) {
    int copy = dup(directory);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    if (dir == NULL) return false;
    bool good = true;
    rewinddir(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (!is_ours(e->d_name) || is_listed(l, e->d_name)) continue;
        good = unlinkat(directory, e->d_name, 0) == 0 && good;
        *changed = true;
    }
    closedir(dir);
    return good;
}

static bool write_all(const char *where, const listing *l, bool only, bool *changed) {
    int directory = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return false;
    bool good = true;
    for (size_t i = 0; i < l->count && good; i++) {
        if (holds(directory, &l->entries[i])) continue;
        good = write_entry(directory, &l->entries[i]);
        *changed = true;
    }
    if (only) good = good && remove_others(directory, l, changed);
    int error = errno;
    close(directory);
    errno = error;
    return good;
}

bool trust_write(const char *where, const policy *p, const policy *bootstrap, bool only,
                 bool *changed, fault *why) {
    *changed = false;
    listing l = {calloc(count_certificates(p) + count_certificates(bootstrap) + 1, sizeof(entry)),
                 0};
    if (l.entries == NULL) return fail(why, "out of memory");
    list_policy(&l, bootstrap);
    list_policy(&l, p);
    ERR_set_mark();
    bool good = write_all(where, &l, only, changed);
    ERR_pop_to_mark();
    free(l.entries);
    return good || fail(why, "cannot keep the CA certificates in %s: %s", where, strerror(errno));
}

bool trust_holds(const char *where, const policy *p, const policy *bootstrap) {
    size_t known = 0, most = policy_authorities(p) + policy_authorities(bootstrap);
    listing l = {calloc(most + 1, sizeof(entry)), 0};
    int directory = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool found = l.entries == NULL; /* who knows */
    if (l.entries) {
        list_policy(&l, bootstrap);
        known = l.count;
        list_policy(&l, p);
    }
    ERR_set_mark();
    for (size_t i = known; directory >= 0 && i < l.count && !found; i++)
        found = holds(directory, &l.entries[i]);
    ERR_pop_to_mark();
    if (directory >= 0) close(directory);
    free(l.entries);
    return found;
}
