/* Counts queued signals while it spins, or sleeps in ppoll; a line asks for the count. */
#include "target.h"

static volatile sig_atomic_t count;

static void on_signal(int number, siginfo_t *info, void *context) { count++; }

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_RESTART};
    action.sa_sigaction = on_signal;
    sigaction(SIGRTMIN, &action, 0);
    ready();
    if (argc > 1)
        while (!heard())
            ;
    hear();
    say("%ld\n", count);
    return 0;
}
