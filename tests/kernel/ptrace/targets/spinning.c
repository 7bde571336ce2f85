/* A thread in user mode that keeps known values in its vector registers and counts in memory; a line ends it. */
#include "target.h"

static volatile long counter;
static volatile int stop;

static void on_end(int number) { stop = 1; }

int main(int argc, char **argv)
{
    signal(SIGUSR1, on_end);
    __attribute__((aligned(64))) long before[8] = {11, 22, 33, 44, 55, 66, 77, 88}, after[8] = {0};
    ready();
#ifdef __x86_64__
    __asm__ volatile("movdqu (%0), %%xmm5; movdqu 16(%0), %%xmm9" ::"r"(before) : "xmm5", "xmm9");
    if (__builtin_cpu_supports("avx2"))
        __asm__ volatile("vmovdqu (%0), %%ymm5" ::"r"(before) : "xmm5");
    if (__builtin_cpu_supports("avx512f"))
        __asm__ volatile("vmovdqu64 (%0), %%zmm17" ::"r"(before));
    __asm__ volatile("1: incq %0; cmpl $0, %1; je 1b" : "+m"(counter) : "m"(stop) : "memory");
    __asm__ volatile("movdqu %%xmm5, (%0); movdqu %%xmm9, 16(%0)" ::"r"(after) : "memory");
    if (__builtin_cpu_supports("avx2"))
        __asm__ volatile("vmovdqu %%ymm5, (%0)" ::"r"(after) : "memory");
    if (__builtin_cpu_supports("avx512f"))
        __asm__ volatile("vmovdqu64 %%zmm17, (%0)" ::"r"(after) : "memory");
    int bytes = __builtin_cpu_supports("avx512f") ? 64 : 32;
#else
    int bytes = 0;
    while (!stop)
        counter++;
#endif
    say("%ld ", memcmp(before, after, bytes));
    say("%ld\n", counter > 0);
    return 0;
}
