/* A filter of system calls that stands on userfaultfd and close; a line has the target make the call itself. */
#include "target.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#ifdef __x86_64__
#define NR_USERFAULTFD 323
#else
#define NR_USERFAULTFD 282
#endif

static void on_sys(int number)
{
    say("trapped %ld\n", number);
    _exit(0);
}

int main(int argc, char **argv)
{
    unsigned action = SECCOMP_RET_KILL_PROCESS;
    signal(SIGSYS, on_sys);
    if (!strcmp(argv[1], "errno"))
        action = SECCOMP_RET_ERRNO | ENOSYS;
    if (!strcmp(argv[1], "trap"))
        action = SECCOMP_RET_TRAP;
    if (!strcmp(argv[1], "trace"))
        action = SECCOMP_RET_TRACE;
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NR_USERFAULTFD, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof steps / sizeof *steps, steps};
    ready(); /* strict mode knows no gettid */
    if (!strcmp(argv[1], "strict"))
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    else if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
        return 1;
    say("filtered %ld\n", 0);
    hear();
    long got = syscall(NR_USERFAULTFD, 1);
    say("errno %ld\n", got < 0 ? errno : 0);
    return 0;
}
