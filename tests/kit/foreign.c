/* SSL objects that another module makes, in a thread of its own: 100 at a time, always new ones. */
#include <pthread.h>
#include <unistd.h>

#include <openssl/ssl.h>

static void *make(void *none) {
    static SSL *held[100];
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    for (size_t i = 0; context; i = (i + 1) % 100) {
        SSL_free(held[i]);
        held[i] = SSL_new(context);
        usleep(300);
    }
    return none;
}

__attribute__((constructor)) static void begin(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, make, NULL);
}
