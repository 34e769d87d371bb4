/* Two hashes: SHA-256 for what people and journals see, SipHash for what only this process looks up. */
#define _DEFAULT_SOURCE
#include "internal.h"

#include <endian.h>
#include <pthread.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

/* ---- SHA-256 ---- */

/* Fetched once: EVP_sha256() has libcrypto look the implementation up each time, which takes longer
 * than to hash a line (EVP_MD_fetch(3), "Performance"). */
static EVP_MD *fetched;
static void fetch_sha256(void) { fetched = EVP_MD_fetch(NULL, "SHA256", NULL); }

const EVP_MD *md_sha256(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch_sha256);
    return fetched ? fetched : EVP_sha256();
}

/* Each thread has a context that is ready: to make and free one takes as long as to hash a line. It
 * goes with its thread. */
static pthread_key_t contexts;
static void free_context(void *context) { EVP_MD_CTX_free(context); }
/* Without a key of our own, number 0 would be somebody else's. */
static void make_contexts(void) {
    must(pthread_key_create(&contexts, free_context) == 0 ? &contexts : NULL);
}

static EVP_MD_CTX *own_context(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_contexts);
    EVP_MD_CTX *context = pthread_getspecific(contexts);
    if (context) return context;
    context = must(EVP_MD_CTX_new());
    must(EVP_DigestInit_ex(context, md_sha256(), NULL) == 1 ? context : NULL);
    must(pthread_setspecific(contexts, context) == 0 ? context : NULL);
    return context;
}

/* A hash that could not be made would be one and the same for every certificate: the process ends. */
void sha256_of(const span *parts, size_t count, uint8_t out[HASH_BYTES]) {
    EVP_MD_CTX *context = own_context();
    bool good = EVP_DigestInit_ex(context, NULL, NULL) == 1; /* the same digest again */
    for (size_t i = 0; good && i < count; i++)
        good = EVP_DigestUpdate(context, parts[i].ptr, parts[i].len) == 1;
    must(good && EVP_DigestFinal_ex(context, out, NULL) == 1 ? context : NULL);
}

void sha256(span bytes, uint8_t out[HASH_BYTES]) { sha256_of(&bytes, 1, out); }

/* ---- SipHash ---- */

/* Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012): SipHash-2-4, with the 128 bits of
 * output that its authors added to their reference code. */
typedef struct {
    uint64_t v0, v1, v2, v3;
} sip;

static uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static void sip_rounds(sip *s, int rounds) {
    while (rounds--) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rotate(s->v1, 13) ^ s->v0;
        s->v3 = rotate(s->v3, 16) ^ s->v2;
        s->v0 = rotate(s->v0, 32);
        s->v2 += s->v1;
        s->v0 += s->v3;
        s->v1 = rotate(s->v1, 17) ^ s->v2;
        s->v3 = rotate(s->v3, 21) ^ s->v0;
        s->v2 = rotate(s->v2, 32);
    }
}

static void sip_word(sip *s, uint64_t word) {
    s->v3 ^= word;
    sip_rounds(s, 2);
    s->v0 ^= word;
}

static uint64_t get_u64(const uint8_t *p, size_t len) {
    uint64_t word = 0;
    memcpy(&word, p, len);
    return le64toh(word);
}

static void put_u64(uint8_t *p, uint64_t word) {
    word = htole64(word);
    memcpy(p, &word, sizeof word);
}

void siphash(const uint8_t key[16], span bytes, uint8_t out[16]) {
    uint64_t k0 = get_u64(key, 8), k1 = get_u64(key + 8, 8);
    sip s = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du ^ 0xee, k0 ^ 0x6c7967656e657261u,
             k1 ^ 0x7465646279746573u};
    size_t tail = bytes.len % 8, words = bytes.len - tail;
    for (size_t i = 0; i < words; i += 8) sip_word(&s, get_u64(bytes.ptr + i, 8));
    uint64_t last = tail ? get_u64(bytes.ptr + words, tail) : 0;
    sip_word(&s, last | (uint64_t)bytes.len << 56);
    s.v2 ^= 0xee;
    sip_rounds(&s, 4);
    put_u64(out, s.v0 ^ s.v1 ^ s.v2 ^ s.v3);
    s.v1 ^= 0xdd;
    sip_rounds(&s, 4);
    put_u64(out + 8, s.v0 ^ s.v1 ^ s.v2 ^ s.v3);
}

/* A stranger who does not know it cannot make two things that have one key. */
static uint8_t secret[16];
static void make_secret(void) { must(RAND_bytes(secret, sizeof secret) == 1 ? secret : NULL); }

void lookup_key(span bytes, uint8_t out[KEY_BYTES]) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_secret);
    siphash(secret, bytes, out);
}
