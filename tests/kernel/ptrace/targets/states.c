/* Odd states to be in: code of 32 bits; a coroutine's stack; waiting for a vfork child; a leader that has ended; a thread with files of its own; a thread that runs
   exec when it hears a line; no vdso. */
#include "target.h"
#include <sched.h>
#include <sys/auxv.h>
#include <ucontext.h>

static void *sleep_in_a_thread(void *unshares)
{
    if (unshares && unshare(CLONE_FILES))
        _exit(1);
    ready();
    hear();
    say("alive %ld\n", 0);
    _exit(0);
}

static void *exec_in_a_thread(void *self)
{
    ready();
    hear();
    execl(self, self, "executed", (char *)0);
    _exit(1);
}

static void without_vdso(int spins)
{
    char line[200];
    unsigned long start, end;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", &start, &end) == 2)
            munmap((void *)start, end - start);
    fclose(maps);
    ready();
    if (spins)
        while (1)
            ;
}

#ifdef __x86_64__
static void in_32_bit_code(void)
{
    char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    code[0] = 0xeb, code[1] = 0xfe; /* jmp to itself */
    ready();
    __asm__ volatile("pushq $0x23\n\tpushq %0\n\tlretq" ::"r"((long)code));
}
#endif

static void on_a_coroutine(void)
{
    ready();
    hear();
    say("alive %ld\n", 0);
    _exit(0);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (!strcmp(argv[1], "coroutine")) {
        static char stack[1 << 16];
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = sizeof stack;
        makecontext(&context, on_a_coroutine, 0);
        setcontext(&context);
    }
#ifdef __x86_64__
    if (!strcmp(argv[1], "foreign"))
        in_32_bit_code();
#endif
    if (!strcmp(argv[1], "vfork")) {
        if (vfork() == 0) {
            ready();
            hear();
            _exit(0);
        }
        say("alive %ld\n", 0);
        return 0;
    }
    if (!strcmp(argv[1], "execs")) {
        pthread_create(&thread, 0, exec_in_a_thread, argv[0]);
        pause();
    }
    if (!strcmp(argv[1], "leaderless") || !strcmp(argv[1], "unshared")) {
        pthread_create(&thread, 0, sleep_in_a_thread, (void *)(long)!strcmp(argv[1], "unshared"));
        if (!strcmp(argv[1], "execs")) {
        pthread_create(&thread, 0, exec_in_a_thread, argv[0]);
        pause();
    }
    if (!strcmp(argv[1], "leaderless"))
            pthread_exit(0);
        pause();
    }
    if (!strncmp(argv[1], "vdsoless", 8))
        without_vdso(argc > 2);
    else
        ready();
    hear();
    say("alive %ld\n", 0);
    return 0;
}
