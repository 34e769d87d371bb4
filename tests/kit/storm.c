/* Clients in great numbers: `storm PORT PAIRS COUNT PER_SECOND THREADS`. Each shakes hands on TLS 1.3
 * with the next certificate and key of the PEM file PAIRS, never resumed, says ACL WHOAMI, hears what
 * it gets, and leaves. PER_SECOND 0: as fast as it goes. Prints how many were the user that their CN
 * names, another one ("others"), closed without it ("refused"), or came to no handshake ("failed"). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    X509 *cert;
    EVP_PKEY *key;
    char name[64];
} pair;
enum { MOST = 1 << 16 };
static pair pairs[MOST];
static long count, per_second, known;
static uint16_t port;
static double begun;
static atomic_long next_one, named, others, refused, failed, longest_us;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void read_pairs(const char *path) {
    BIO *in = BIO_new_file(path, "r");
    if (in == NULL) exit(2);
    for (pair *p = pairs; known < MOST; p++, known++) {
        p->cert = PEM_read_bio_X509(in, NULL, NULL, NULL);
        if (p->cert == NULL) break;
        p->key = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL);
        if (p->key == NULL) exit(2);
        X509_NAME_get_text_by_NID(X509_get_subject_name(p->cert), NID_commonName, p->name,
                                  sizeof p->name);
    }
    BIO_free(in);
}

/* From many addresses, for one has too few ports. */
static int dial(long number) {
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    struct linger reset = {1, 0};
    struct timeval patience = {20, 0};
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number % 50));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (bind(s, (struct sockaddr *)&from, sizeof from) == 0 &&
        connect(s, (struct sockaddr *)&to, sizeof to) == 0)
        return s;
    close(s);
    return -1;
}

/* The user, out of "$5\r\nalice\r\n"; false where there is none. */
static bool whoami(SSL *tls, char user[64]) {
    char text[512] = {0}, *line = NULL;
    int len = 0, got = SSL_write(tls, "ACL WHOAMI\r\n", 12);
    while (got > 0 && text[0] != '-' && !(line && strchr(line + 1, '\n'))) {
        got = SSL_read(tls, text + len, (int)sizeof text - 1 - len);
        len += got > 0 ? got : 0;
        line = strchr(text, '\n');
    }
    return got > 0 && sscanf(text, "$%*d %63[^\r]", user) == 1;
}

static atomic_long *visit(SSL_CTX *context, long number) {
    const pair *p = &pairs[number % known];
    char user[64] = {0};
    int s = dial(number);
    if (s < 0) return &failed;
    SSL *tls = SSL_new(context);
    SSL_use_certificate(tls, p->cert);
    SSL_use_PrivateKey(tls, p->key);
    SSL_set_fd(tls, s);
    atomic_long *what = &failed;
    if (SSL_connect(tls) == 1)
        what = !whoami(tls, user) ? &refused : strcmp(user, p->name) == 0 ? &named : &others;
    SSL_free(tls);
    close(s);
    return what;
}

static void *work(void *none) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set1_groups_list(context, "X25519");
    SSL_CTX_set_quiet_shutdown(context, 1);
    for (long number; (number = next_one++) < count;) {
        double due = per_second ? begun + (double)number / (double)per_second : 0;
        for (double left; (left = due - now()) > 0;) usleep((useconds_t)(left * 1e6) + 1);
        double start = now();
        ++*visit(context, number);
        long took = (long)((now() - start) * 1e6), seen = longest_us;
        while (took > seen && !atomic_compare_exchange_weak(&longest_us, &seen, took)) {}
    }
    SSL_CTX_free(context);
    return none;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    signal(SIGPIPE, SIG_IGN);
    port = (uint16_t)atoi(argv[1]);
    read_pairs(argv[2]);
    count = atol(argv[3]);
    per_second = atol(argv[4]);
    long threads = atol(argv[5]);
    pthread_t made[64];
    begun = now();
    for (long i = 0; i < threads && i < 64; i++) pthread_create(&made[i], NULL, work, NULL);
    for (long i = 0; i < threads && i < 64; i++) pthread_join(made[i], NULL);
    printf("{\"named\": %ld, \"others\": %ld, \"refused\": %ld, \"failed\": %ld, \"seconds\": "
           "%.2f, "
           "\"longest\": %.4f}\n",
           named, others, refused, failed, now() - begun, (double)longest_us / 1e6);
    return 0;
}
