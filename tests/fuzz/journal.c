/* Journals: as anybody may have left the file, and as we wrote it before a byte was lost or changed.
 * The first byte says which. What is opened without damage is a policy that was once in force. */
#define _XOPEN_SOURCE 700
#include "fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_RECORDS = 32 };

/* In memory, where $TMPDIR is; nobody else uses it. */
static const char *directory(void) {
    static char path[256];
    const char *in = getenv("TMPDIR");
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s/journal-XXXXXX", in ? in : "/dev/shm");
    LAW(mkdtemp(path));
    return path;
}

static const char *file(void) {
    static char path[300];
    snprintf(path, sizeof path, "%s/policy", directory());
    return path;
}

static void leave(span bytes) {
    int out = open(file(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    LAW(out >= 0 && write(out, bytes.ptr, bytes.len) == (ssize_t)bytes.len && close(out) == 0);
}

/* ---- Opening ---- */

typedef struct {
    journal *j;
    policy *p;
    stamp last;
} opened;

static bool open_it(opened *o) {
    fault why;
    o->p = policy_new();
    o->j = journal_open(directory(), o->p, &o->last, &why);
    if (o->j == NULL) LAW(why.text[0]);
    else if (journal_damage(o->j)) LAW(policy_rules(o->p) == 0);
    return o->j && !journal_damage(o->j);
}

static void close_it(opened *o) {
    if (o->j) journal_close(o->j);
    policy_free(o->p);
}

/* Puts a change in the journal and in force. False where the lines are not a change, or it is full. */
static bool append(opened *o, span lines, uint64_t generation) {
    stamp now = {generation, 1, "fuzz"};
    fault why;
    span line;
    patch *change = patch_new(o->p, FROM_JOURNAL);
    for (size_t number = 1; next_line(&lines, &line); number++) {
        if (line.len == 0) continue;
        (line.ptr[0] == '-' ? patch_remove : patch_add)(change, span_skip(line, 1), number);
    }
    bool good = patch_finish(change, false);
    if (good) {
        LAW(journal_append(o->j, o->p, change, &now, &why));
        policy_commit(o->p, change);
    }
    patch_free(change);
    return good;
}

/* ---- Laws ---- */

/* A sound journal takes one more change, which is there when it is opened again. */
static void check_goes_on(void) {
    static const char LINE[] = "+bind cn fuzz-more fuzz-more";
    opened first, again;
    bool good = open_it(&first);
    digest held = policy_digest(first.p);
    if (good && append(&first, span_of(LINE, sizeof LINE - 1), 7)) held = policy_digest(first.p);
    close_it(&first);
    if (!good) return;
    LAW(open_it(&again) && journal_notice(again.j) == NULL);
    LAW(digest_equal(held, policy_digest(again.p)));
    close_it(&again);
}

/* False where there is nothing to spoil. */
static bool spoil(uint32_t at, uint8_t how) {
    struct stat now;
    LAW(stat(file(), &now) == 0);
    if (now.st_size == 0) return false;
    off_t place = (off_t)at % now.st_size;
    if (how == 0) {
        LAW(truncate(file(), place) == 0);
        return true;
    }
    uint8_t byte;
    int both = open(file(), O_RDWR);
    LAW(both >= 0 && pread(both, &byte, 1, place) == 1);
    byte ^= how;
    LAW(pwrite(both, &byte, 1, place) == 1 && close(both) == 0);
    return true;
}

/* Records of the input's changes, NUL between them; then a byte of the file is changed, or its end
 * goes. A policy that is read was in force after one of the changes. */
static void check_records(span input, uint32_t at, uint8_t how) {
    digest was[MOST_RECORDS + 1];
    size_t count = 0;
    opened o;
    LAW(open_it(&o));
    was[count++] = policy_digest(o.p);
    while (input.len && count <= MOST_RECORDS) {
        const uint8_t *end = memchr(input.ptr, 0, input.len);
        size_t len = end ? (size_t)(end - input.ptr) : input.len;
        if (append(&o, span_of(input.ptr, len), count)) was[count++] = policy_digest(o.p);
        input = span_skip(input, end ? len + 1 : len);
    }
    close_it(&o);
    bool spoiled = spoil(at, how);
    bool good = open_it(&o), known = false;
    for (size_t i = 0; i < count; i++) known = known || digest_equal(was[i], policy_digest(o.p));
    LAW(!good || known);
    if (good && spoiled && how) LAW(journal_notice(o.j)); /* a changed byte does not go unseen */
    close_it(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 6) return -1;
    span rest = span_of(data + 6, size - 6);
    unlink(file());
    if (data[0] % 2) {
        check_records(rest, (uint32_t)(data[1] << 16 | data[2] << 8 | data[3]), data[4]);
    } else {
        leave(rest);
        check_goes_on();
    }
    unlink(file());
    return 0;
}
