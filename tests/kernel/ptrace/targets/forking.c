/* One thread forks as fast as it can, children that live for a while; the leader sleeps. A line ends it. */
#include "target.h"

static void *forever(void *nothing)
{
    while (1) {
        if (fork() == 0) {
            usleep(30000);
            _exit(0);
        }
        while (waitpid(-1, 0, WNOHANG) > 0)
            ;
        usleep(100);
    }
    return 0;
}

int main(void)
{
    pthread_t thread;
    pthread_create(&thread, 0, forever, 0);
    ready();
    hear();
    return 0;
}
