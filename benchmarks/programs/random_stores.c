/* Single-byte stores at random places of one mapping: what watching costs at its worst.
 *
 * usage: random_stores BYTES. Each line of standard input is a number of seconds; each is answered with the
 * number of stores that were made in that time.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    uint64_t bytes = argc > 1 ? strtoull(argv[1], NULL, 0) : 1ull << 29, state = 88172645463325252ull;
    volatile unsigned char *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    for (uint64_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    double seconds;
    printf("ready\n");
    fflush(stdout);
    while (scanf("%lf", &seconds) == 1) {
        uint64_t stores = 0;
        for (double end = now() + seconds; now() < end;)
            for (int i = 0; i < 4096; i++, stores++) {
                state ^= state << 13, state ^= state >> 7, state ^= state << 17;
                memory[state % bytes] = (unsigned char)state;
            }
        printf("%llu\n", (unsigned long long)stores);
        fflush(stdout);
    }
    return 0;
}
