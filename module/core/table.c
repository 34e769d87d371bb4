/* Policies' tables of rules, and the digest that a table has. */
#include "policy.h"

/* ---- Tables ---- */

static uint32_t hash_of(const uint8_t *key) {
    uint32_t hash;
    memcpy(&hash, key, sizeof hash);
    return hash;
}
static size_t home(const table *t, uint32_t hash) { return hash & (t->room * 2 - 1); }
static size_t after(const table *t, size_t at) { return (at + 1) & (t->room * 2 - 1); }

static void put_slot(table *t, slot s) {
    size_t at = home(t, s.hash);
    while (t->slots[at].at) at = after(t, at);
    t->slots[at] = s;
}

void table_reserve(table *t, size_t count) {
    if (count <= t->room) return;
    slot *old = t->slots;
    size_t slots = t->room * 2, room = t->room ? t->room : 8;
    while (room < count) room *= 2;
    t->rules = must(realloc(t->rules, room * sizeof *t->rules));
    t->slots = must(calloc(room * 2, sizeof *t->slots));
    t->room = room;
    for (size_t i = 0; i < slots; i++) {
        if (old[i].at) put_slot(t, old[i]);
    }
    free(old);
}

void table_add(table *t, rule *r) {
    table_reserve(t, t->count + 1);
    t->rules[t->count++] = r;
    put_slot(t, (slot){hash_of(r->key), (uint32_t)t->count});
}

/* The slot of the rule with that key, or -1. */
static long find_slot(const table *t, const uint8_t *key) {
    uint32_t hash = hash_of(key);
    if (t->count == 0) return -1;
    for (size_t at = home(t, hash); t->slots[at].at; at = after(t, at)) {
        if (t->slots[at].hash != hash) continue;
        if (memcmp(t->rules[t->slots[at].at - 1]->key, key, KEY_BYTES) == 0) return (long)at;
    }
    return -1;
}

rule *table_find(const table *t, const uint8_t *key) {
    long at = find_slot(t, key);
    return at < 0 ? NULL : t->rules[t->slots[at].at - 1];
}

/* Frees a slot and moves up those that had been pushed past it (Knuth 6.4, algorithm R). */
static void free_slot(table *t, size_t hole) {
    size_t mask = t->room * 2 - 1;
    for (size_t at = after(t, hole); t->slots[at].at; at = after(t, at)) {
        size_t start = home(t, t->slots[at].hash);
        if (((at - start) & mask) < ((at - hole) & mask)) continue;
        t->slots[hole] = t->slots[at];
        hole = at;
    }
    t->slots[hole] = (slot){0};
}

/* Takes `r` out; the last rule of the array takes its place. */
void table_remove(table *t, const rule *r) {
    long at = find_slot(t, r->key);
    if (at < 0) return;
    size_t index = t->slots[at].at - 1, last = t->count - 1;
    long moved = find_slot(t, t->rules[last]->key);
    t->rules[index] = t->rules[last];
    t->slots[moved].at = (uint32_t)index + 1;
    t->count = last;
    free_slot(t, (size_t)at);
}

void table_free(table *t, bool rules) {
    for (size_t i = 0; rules && i < t->count; i++) rule_free(t->rules[i]);
    free(t->rules);
    free(t->slots);
}

/* A table of how many rules have an alias: each entry is not a line, but a key and a count (`number`). */
static void tally(table *t, const uint8_t *alias, int change) {
    rule *entry = table_find(t, alias);
    if (entry == NULL) {
        entry = must(calloc(1, sizeof *entry));
        memcpy(entry->key, alias, KEY_BYTES);
        table_add(t, entry);
    }
    entry->number += (uint32_t)change;
    if (entry->number) return;
    table_remove(t, entry);
    rule_free(entry);
}

void tally_rule(table *t, const rule *r, int change) {
    span alias;
    for (size_t at = 0; rule_field(r, FIELD_ALIAS, &at, &alias);) tally(t, alias.ptr, change);
}

uint32_t tallied(const table *t, const uint8_t *alias) {
    const rule *entry = table_find(t, alias);
    return entry ? entry->number : 0;
}

/* ---- Digest ---- */

static uint64_t counted(const rule *r) { return r->type != LINE_WAS; }

void digest_change(digest *d, const rule *r, bool add) {
    uint8_t hash[HASH_BYTES];
    if (!counted(r)) return;
    sha256(rule_text(r), hash);
    d->lines += add ? 1 : UINT64_MAX;
    int carry = add ? 0 : 1; /* subtraction adds the complement */
    for (size_t i = HASH_BYTES; i-- > 0;) {
        carry += d->sum[i] + (add ? hash[i] : 0xff - hash[i]);
        d->sum[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

void digest_print(const digest *d, char out[DIGEST_TEXT]) {
    int len = snprintf(out, DIGEST_TEXT, "%llu:", (unsigned long long)d->lines);
    writer w = {(uint8_t *)out + len, 0, (size_t)(DIGEST_TEXT - len - 1), false};
    put_hex(&w, span_of(d->sum, HASH_BYTES));
    out[(size_t)len + w.len] = 0;
}
