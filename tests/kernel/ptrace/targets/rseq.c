/* Two threads on one processor count in a restartable sequence with a long middle; a line asks whether none was lost. */
#include "target.h"
#include <sched.h>

#if defined(__x86_64__) && __has_include(<sys/rseq.h>)
#include <sys/rseq.h>

static long counter;
static volatile int stop;
static pthread_barrier_t barrier;

static struct rseq *mine(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

static int count_once(struct rseq *area)
{
    __asm__ goto(
        ".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n\t"
        "3: .long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"
        "leaq 3b(%%rip), %%rax\n\tmovq %%rax, 8(%[area])\n\t"
        "1: movq (%[counter]), %%rcx\n\t"
        "movl $400, %%eax\n\t"
        "5: decl %%eax\n\tjnz 5b\n\t"
        "incq %%rcx\n\tmovq %%rcx, (%[counter])\n\t"
        "2:\n\t"
        ".pushsection __rseq_failure, \"ax\"\n\t"
        ".byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n\t"
        "4: jmp %l[aborted]\n\t.popsection\n\t"
        : : [area] "r"(area), [counter] "r"(&counter)
        : "memory", "cc", "rax", "rcx" : aborted);
    return 1;
aborted:
    return 0;
}

static void *count(void *number)
{
    long done = 0;
    struct rseq *area = mine();
    if (number)
        say("%ld\n", syscall(SYS_gettid));
    pthread_barrier_wait(&barrier);
    while (!stop)
        done += count_once(area);
    return (void *)done;
}

int main(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    if (!__rseq_size) {
        say("%ld\n", 0);
        return 0;
    }
    pthread_t threads[2];
    pthread_barrier_init(&barrier, 0, 3);
    for (long n = 0; n < 2; n++)
        pthread_create(&threads[n], 0, count, (void *)(long)(n == 0));
    pthread_barrier_wait(&barrier);
    ready();
    hear();
    stop = 1;
    long total = 0;
    for (int n = 0; n < 2; n++) {
        void *done;
        pthread_join(threads[n], &done);
        total += (long)done;
    }
    say("%ld ", total);
    say("%ld\n", counter);
    return 0;
}
#else
int main(void)
{
    say("%ld\n", 0);
    return 0;
}
#endif
