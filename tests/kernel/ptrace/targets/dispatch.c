/* System calls dispatched to a handler of SIGSYS, as emulators do; the selector blocks while it spins. A line on its
   input cannot be heard then, so a signal ends it. */
#include "target.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
static volatile char selector;
static volatile int stop, dispatched;

static void on_dispatch(int number)
{
    selector = 0;
    dispatched++;
}
static void on_end(int number)
{
    selector = 0;
    stop = 1;
}

int main(int argc, char **argv)
{
    signal(SIGSYS, on_dispatch);
    signal(SIGUSR1, on_end);
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector)) {
        say("unknown %ld\n", errno);
        return 0;
    }
    ready();
    selector = argc > 1;
    while (!stop)
        ;
    selector = 1;
    syscall(SYS_getppid);
    selector = 0;
    say("%ld\n", dispatched);
    return 0;
}
