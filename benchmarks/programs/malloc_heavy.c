/* Threads that allocate, fill and free blocks of all sizes: the heap grows, shrinks and moves all the time.
 *
 * usage: malloc_heavy THREADS. Each line of standard input is a number of seconds; each is answered with the
 * number of blocks that all threads filled in that time.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEPT = 512 };
static double until;
static atomic_ullong blocks;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void *work(void *seed) {
    static _Thread_local void *kept[KEPT];
    uint64_t state = 88172645463325252ull ^ (uintptr_t)seed * 2654435761u, mine = 0;
    while (now() < until)
        for (int i = 0; i < 16; i++, mine++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            size_t size = 64 + (state >> 20) % (state & 15 ? 8192 : 512 * 1024);
            void **slot = &kept[state % KEPT];
            free(*slot);
            if ((*slot = malloc(size))) memset(*slot, (int)mine, size);
        }
    for (int i = 0; i < KEPT; i++) free(kept[i]), kept[i] = NULL;
    atomic_fetch_add(&blocks, mine);
    return NULL;
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 4;
    pthread_t threads[64];
    double seconds;
    if (n < 1 || n > 64) return 2;
    printf("ready\n");
    fflush(stdout);
    while (scanf("%lf", &seconds) == 1) {
        until = now() + seconds;
        blocks = 0;
        for (long i = 0; i < n; i++) pthread_create(&threads[i], NULL, work, (void *)(i + 1));
        for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
        printf("%llu\n", (unsigned long long)blocks);
        fflush(stdout);
    }
    return 0;
}
