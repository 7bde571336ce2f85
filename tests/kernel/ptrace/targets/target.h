/* What every target says: "ready" when it is where the test wants it; and how it hears: lines on its standard input. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline void say(const char *format, long value)
{
    char line[200];
    int length = snprintf(line, sizeof line, format, value);
    if (write(1, line, length) != length)
        _exit(9);
}

static inline void ready(void) { say("ready %ld\n", syscall(SYS_gettid)); }

/* Wait for a line; the end of input ends the target, so that none outlives its test. */
static inline void hear(void)
{
    char byte;
    do {
        if (read(0, &byte, 1) != 1)
            _exit(8);
    } while (byte != '\n');
}

static inline int heard(void)
{
    struct pollfd input = {0, POLLIN, 0};
    return poll(&input, 1, 0) == 1;
}
