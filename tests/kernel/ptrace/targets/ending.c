/* Threads, of which the leader ends the process, or has it run another program, after some microseconds; or another
   thread does the latter. */
#include "target.h"

static void *idle(void *how)
{
    if (how)
        pause();
    while (1)
        ;
    return 0;
}

static void *run_another(void *nothing)
{
    execl("/bin/sh", "sh", "-c", "exit 5", (char *)0);
    return 0;
}

int main(int argc, char **argv)
{
    long after_us = atol(argv[2]);
    pthread_t thread;
    if (!strcmp(argv[1], "exec-in-thread")) {
        ready();
        pthread_create(&thread, 0, run_another, 0);
        pause();
    }
    for (long n = 0; n < 3; n++)
        pthread_create(&thread, 0, idle, (void *)(long)(n > 0));
    ready();
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    do
        clock_gettime(CLOCK_MONOTONIC, &to);
    while ((to.tv_sec - from.tv_sec) * 1000000L + (to.tv_nsec - from.tv_nsec) / 1000 < after_us);
    if (!strcmp(argv[1], "exec"))
        execl("/bin/sh", "sh", "-c", "exit 5", (char *)0);
    _exit(5);
}
