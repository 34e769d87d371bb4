/* Clients for the benches, as fast as libssl is. Each handshake is a full one, never a resumed one.
 *
 *     driver visit PORT CA COUNT CERTIFICATES COMMAND...
 *     driver hold PORT CA COUNT CERTIFICATES COMMAND...
 *
 * `visit` connects, sends the commands one after the other, and closes, COUNT times: a line for each, the
 * nanoseconds from connect(2) to the last answer. `hold` does not close: it says "ready", and then a line
 * for each connection that the server ends, with its number and the time of CLOCK_MONOTONIC, until its
 * standard input ends.
 *
 * CA: a PEM file. CERTIFICATES: a PEM file of certificates, each followed by its key, shown in turn;
 * "-": none is shown. COMMAND: an inline command whose answer is one line. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <poll.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <openssl/pem.h>
#include <openssl/ssl.h>

typedef struct {
    X509 *certificate;
    EVP_PKEY *key;
} identity;

static void need(int good, const char *what) {
    if (good) return;
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

static size_t read_identities(const char *name, identity **out) {
    size_t count = 0;
    FILE *file = fopen(name, "r");
    need(file != NULL, "the certificates cannot be opened");
    for (X509 *one; (one = PEM_read_X509(file, NULL, NULL, NULL)) != NULL; count++) {
        *out = realloc(*out, (count + 1) * sizeof **out);
        need(*out != NULL, "no memory");
        (*out)[count] = (identity){one, PEM_read_PrivateKey(file, NULL, NULL, NULL)};
        need((*out)[count].key != NULL, "a certificate has no key behind it");
    }
    fclose(file);
    return count;
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_socket(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    need(connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "no connection");
    return fd;
}

static void command(SSL *ssl, const char *text) {
    char bytes[4096];
    int len = snprintf(bytes, sizeof bytes, "%s\r\n", text);
    need(SSL_write(ssl, bytes, len) == len, "closed before a command");
    for (len = 0; len < 2 || memcmp(bytes + len - 2, "\r\n", 2) != 0;) {
        int got = SSL_read(ssl, bytes + len, (int)sizeof bytes - 1 - len);
        need(got > 0, "closed before an answer");
        len += got;
    }
    bytes[len] = 0;
    need(bytes[0] != '-', bytes);
}

typedef struct {
    SSL_CTX *context;
    int port;
    identity *all;
    size_t identities;
    char **commands;
} plan;

/* Returns the connection's SSL object; `took`: nanoseconds until the last answer. */
static SSL *visit(const plan *p, size_t number, long long *took) {
    SSL *ssl = SSL_new(p->context);
    const identity *who = p->identities ? &p->all[number % p->identities] : NULL;
    if (who) SSL_use_certificate(ssl, who->certificate);
    if (who) SSL_use_PrivateKey(ssl, who->key);
    long long began = now();
    SSL_set_fd(ssl, open_socket(p->port));
    need(SSL_connect(ssl) == 1, "the handshake failed");
    for (char **one = p->commands; *one; one++) command(ssl, *one);
    *took = now() - began;
    need(!SSL_session_reused(ssl), "a session was resumed");
    return ssl;
}

static void visit_all(const plan *p, size_t count) {
    for (size_t i = 0; i < count; i++) {
        long long took;
        SSL *ssl = visit(p, i, &took);
        close(SSL_get_fd(ssl));
        SSL_free(ssl);
        printf("%lld\n", took);
    }
}

/* The place behind the connections is standard input's. */
static void hold_all(const plan *p, size_t count) {
    struct pollfd *all = calloc(count + 1, sizeof *all);
    need(all != NULL, "no memory");
    for (size_t i = 0; i < count; i++) {
        long long took;
        all[i] = (struct pollfd){SSL_get_fd(visit(p, i, &took)), POLLRDHUP, 0};
    }
    all[count] = (struct pollfd){STDIN_FILENO, POLLIN, 0};
    printf("ready\n");
    while (fflush(stdout) == 0 && poll(all, count + 1, -1) > 0 && all[count].revents == 0) {
        for (size_t i = 0; i < count; i++) {
            if (all[i].revents == 0) continue;
            printf("%zu %lld\n", i, now());
            close(all[i].fd);
            all[i].fd = -1;
        }
    }
    free(all);
}

int main(int argc, char **argv) {
    need(argc > 5, "visit|hold PORT CA COUNT CERTIFICATES COMMAND...");
    plan p = {SSL_CTX_new(TLS_client_method()), atoi(argv[2]), NULL, 0, argv + 6};
    need(SSL_CTX_load_verify_locations(p.context, argv[3], NULL) == 1, "no CA");
    SSL_CTX_set_verify(p.context, SSL_VERIFY_PEER, NULL);
    if (strcmp(argv[5], "-") != 0) p.identities = read_identities(argv[5], &p.all);
    (strcmp(argv[1], "hold") == 0 ? hold_all : visit_all)(&p, (size_t)atol(argv[4]));
    return 0;
}
