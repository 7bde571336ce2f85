/* One blocking system call: its result, errno and time. Its end is a limit of time, or a child that does what it waits for. */
#include "target.h"
#include <linux/io_uring.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#define LIMIT_MS 250
static struct timespec limit = {0, LIMIT_MS * 1000000L};
static struct timeval limit_us = {0, LIMIT_MS * 1000L};
static int a_pipe[2], a_pair[2], an_eventfd, a_queue, a_file;
static char name_of_file[] = "/tmp/writewatch-lock-XXXXXX";

/* In the child, after the limit: let the parent's call end. */
static void wake(const char *name)
{
    nanosleep(&limit, 0);
    if (!strcmp(name, "read_pipe"))
        if (write(a_pipe[1], "x", 1) != 1) _exit(1);
    if (!strcmp(name, "recv") || !strcmp(name, "recvmsg"))
        if (write(a_pair[1], "x", 1) != 1) _exit(1);
    if (!strcmp(name, "read_eventfd"))
        eventfd_write(an_eventfd, 1);
    if (!strcmp(name, "msgrcv")) {
        struct { long kind; char text[1]; } message = {1, "x"};
        msgsnd(a_queue, &message, 1, 0);
    }
    _exit(3);
}

static long rt_mask_call(const char *name)
{
    sigset_t mask;
    struct epoll_event one;
    sigfillset(&mask);
    int poller = epoll_create1(0);
    if (!strcmp(name, "epoll_pwait"))
        return epoll_pwait(poller, &one, 1, LIMIT_MS, &mask);
    if (!strcmp(name, "epoll_pwait2"))
        return syscall(441, poller, &one, 1, &limit, &mask, 8);
    if (!strcmp(name, "ppoll"))
        return ppoll(0, 0, &limit, &mask);
    if (!strcmp(name, "pselect"))
        return pselect(0, 0, 0, 0, &limit, &mask);
    if (!strcmp(name, "sigtimedwait")) {
        sigemptyset(&mask);
        sigaddset(&mask, SIGUSR2);
        return sigtimedwait(&mask, 0, &limit);
    }
    return epoll_wait(poller, &one, 1, LIMIT_MS);
}

static long io_uring(void)
{
    struct io_uring_params params = {0};
    int ring = syscall(425, 4, &params);
    if (ring < 0)
        return -100;
    struct io_uring_getevents_arg argument = {.sigmask_sz = 8, .ts = (unsigned long)&limit};
    return syscall(426, ring, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof argument);
}

static long on_a_socket(const char *name)
{
    char byte;
    if (!strcmp(name, "recv"))
        return recv(a_pair[0], &byte, 1, 0);
    if (!strcmp(name, "recvmsg")) {
        struct iovec vector = {&byte, 1};
        struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
        return recvmsg(a_pair[0], &message, 0);
    }
    setsockopt(a_pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit_us, sizeof limit_us);
    if (!strcmp(name, "recv_timeout"))
        return recv(a_pair[0], &byte, 1, 0);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in any = {AF_INET};
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&any, sizeof any) || listen(listener, 1))
        return -100;
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit_us, sizeof limit_us);
    return accept(listener, 0, 0);
}

static long on_ipc(const char *name)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += limit.tv_nsec;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    if (!strcmp(name, "msgrcv")) {
        struct { long kind; char text[1]; } message;
        long got = msgrcv(a_queue, &message, 1, 0, 0);
        msgctl(a_queue, IPC_RMID, 0);
        return got;
    }
    if (!strcmp(name, "semtimedop")) {
        int semaphore = semget(IPC_PRIVATE, 1, 0600);
        struct sembuf take = {0, -1, 0};
        long got = semtimedop(semaphore, &take, 1, &limit);
        int number = errno;
        semctl(semaphore, 0, IPC_RMID);
        errno = number;
        return got;
    }
    char path[40], text[16];
    snprintf(path, sizeof path, "/writewatch-%d", getpid());
    struct mq_attr attributes = {0, 1, 16, 0, {0}};
    mqd_t queue = mq_open(path, O_RDWR | O_CREAT, 0600, &attributes);
    if (queue < 0)
        return -100;
    mq_unlink(path);
    return mq_timedreceive(queue, text, 16, 0, &until);
}

static long block(const char *name)
{
    char bytes[8];
    static int word;
    if (!strcmp(name, "futex"))
        return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &limit, 0, 0);
    if (!strcmp(name, "poll"))
        return poll(0, 0, LIMIT_MS);
    if (!strcmp(name, "select")) {
        struct timeval left = limit_us;
        return select(0, 0, 0, 0, &left);
    }
    if (!strcmp(name, "nanosleep"))
        return nanosleep(&limit, 0);
    if (!strcmp(name, "clock_nanosleep")) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += limit.tv_nsec;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0);
    }
    if (!strcmp(name, "read_pipe"))
        return read(a_pipe[0], bytes, 1);
    if (!strcmp(name, "read_eventfd"))
        return read(an_eventfd, bytes, 8);
    if (!strcmp(name, "read_timerfd")) {
        int timer = timerfd_create(CLOCK_MONOTONIC, 0);
        struct itimerspec once = {{0, 0}, limit};
        timerfd_settime(timer, 0, &once, 0);
        return read(timer, bytes, 8);
    }
    if (!strncmp(name, "recv", 4) || !strcmp(name, "accept_timeout"))
        return on_a_socket(name);
    if (!strcmp(name, "wait4")) {
        int status;
        return wait4(-1, &status, 0, 0) > 0 ? WEXITSTATUS(status) : -1;
    }
    if (!strcmp(name, "lock"))
        return lockf(a_file, F_LOCK, 0);
    if (!strcmp(name, "msgrcv") || !strcmp(name, "semtimedop") || !strcmp(name, "mq_timedreceive"))
        return on_ipc(name);
    if (!strcmp(name, "io_uring_enter"))
        return io_uring();
    return rt_mask_call(name);
}

int main(int argc, char **argv)
{
    struct timespec from, to;
    if (argc != 2 || pipe(a_pipe) || socketpair(AF_UNIX, SOCK_STREAM, 0, a_pair))
        return 1;
    an_eventfd = eventfd(0, 0);
    a_queue = msgget(IPC_PRIVATE, 0600);
    a_file = mkstemp(name_of_file);
    unlink(name_of_file);
    int go[2];
    if (pipe(go))
        return 1;
    if (fork() == 0) {
        char byte;
        if (!strcmp(argv[1], "lock") && lockf(a_file, F_LOCK, 0))
            _exit(1);
        if (write(go[1], "x", 1) != 1 || read(a_pipe[0], &byte, 0))
            _exit(1);
        wake(argv[1]);
    }
    char byte;
    if (read(go[0], &byte, 1) != 1)
        return 1;
    ready();
    errno = 0;
    clock_gettime(CLOCK_MONOTONIC, &from);
    long result = block(argv[1]);
    int number = errno;
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (strcmp(argv[1], "msgrcv"))
        msgctl(a_queue, IPC_RMID, 0);
    say("%ld ", result);
    say("%ld ", result < 0 ? number : 0);
    say("%ld\n", (to.tv_sec - from.tv_sec) * 1000000L + (to.tv_nsec - from.tv_nsec) / 1000);
    return 0;
}
