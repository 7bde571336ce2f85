/* Loads and stores in user mode whose signals are observations.
 *
 * SIGBUS and SIGSEGV of a guarded access jump back to it; any other one ends the process as usual. The
 * copy goes byte by byte, upwards, so that what was done before the failing page is known. Built on the
 * spot by access.py with the C compiler of the machine.
 */
#define _GNU_SOURCE 1 /* RUSAGE_THREAD */
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

struct access_outcome {
    int32_t signal; /* 0: the access was made */
    int32_t code;
    uint64_t address;
    uint64_t minor_faults;
};

static _Thread_local sigjmp_buf back;
static _Thread_local volatile sig_atomic_t guarded;
static _Thread_local struct access_outcome *outcome_of_thread;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!guarded) {
        signal(number, SIG_DFL);
        return;
    }
    outcome_of_thread->signal = number;
    outcome_of_thread->code = info->si_code;
    outcome_of_thread->address = (uint64_t)info->si_addr;
    siglongjmp(back, 1);
}

int access_install(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    return sigaction(SIGBUS, &action, NULL) | sigaction(SIGSEGV, &action, NULL);
}

static void copy_upwards(volatile char *to, const volatile char *from, size_t length)
{
    size_t at = 0;
    if (((uintptr_t)to | (uintptr_t)from) % 8 == 0)
        for (; at + 8 <= length; at += 8)
            *(volatile uint64_t *)(to + at) = *(const volatile uint64_t *)(from + at);
    for (; at < length; at++)
        to[at] = from[at];
}

static uint64_t minor_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt;
}

void access_copy(void *to, const void *from, size_t length, struct access_outcome *outcome)
{
    uint64_t before = minor_faults();
    outcome->signal = 0;
    outcome_of_thread = outcome;
    guarded = 1;
    if (!sigsetjmp(back, 1))
        copy_upwards(to, from, length);
    guarded = 0;
    outcome->minor_faults = minor_faults() - before;
}

/* One byte into each of several addresses, in order: *count is how many were stored. */
void access_scatter(const uint64_t *addresses, size_t n, char value, size_t *count,
                    struct access_outcome *outcome)
{
    outcome->signal = 0;
    outcome_of_thread = outcome;
    guarded = 1;
    if (!sigsetjmp(back, 1))
        for (*count = 0; *count < n; ++*count)
            *(volatile char *)addresses[*count] = value;
    guarded = 0;
}
