/* SIGTRAP ignored, blocked or handled, asleep or spinning: what a single step would take away. */
#include "target.h"

static void on_trap(int number) {}

int main(int argc, char **argv)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTRAP);
    if (!strcmp(argv[1], "ignored"))
        signal(SIGTRAP, SIG_IGN);
    if (!strcmp(argv[1], "blocked"))
        sigprocmask(SIG_BLOCK, &mask, 0);
    if (!strcmp(argv[1], "handled"))
        signal(SIGTRAP, on_trap);
    ready();
    if (argc > 2)
        while (1)
            ;
    hear();
    return 0;
}
