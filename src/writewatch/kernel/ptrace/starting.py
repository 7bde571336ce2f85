"""Starting a program as the child of the helper: seized while it waits, then let to exec, as a shell would start it.

Its signals are as its owner had them, its standard streams are the helper's, which then leaves them: whoever reads the
program's output waits for the end of every copy.

Runs in the helper process: nothing here may import NumPy.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any, Final

from writewatch.abi.ptrace import PTRACE_SEIZE
from writewatch.kernel import libc

#: What a person types at the program, and what a supervisor sends to the whole group, is not meant for its parent.
_OF_THE_GROUP: Final = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP),
    *(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
)
#: Python ignores these; a program that it starts finds them as they are by default.
_BY_DEFAULT: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_COULD_NOT_EXEC: Final = 127

Dispositions = dict[signal.Signals, Any]


def ignore_what_the_group_is_sent() -> Dispositions:
    """From now on only the program minds it, and the end of our owner ends us; how signals were handled before."""
    found = {number: signal.getsignal(number) for number in (*_OF_THE_GROUP, signal.SIGCHLD)}
    for number in _OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    return found


def start(specification: dict[str, Any], options: int, found: Dispositions) -> tuple[int, int]:
    """Fork, seize the child while it waits, let it go.

    Returns:
        Its pid, and a descriptor from which ``errno_of_exec()`` reads.

    Raises:
        OSError: It cannot be traced; it has ended.
    """
    wait, go = os.pipe2(os.O_CLOEXEC)
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(go)
        _become(specification, wait, tell, found)
    os.close(wait)
    os.close(tell)
    try:
        libc.check(libc.ptrace(PTRACE_SEIZE, pid, 0, options), "PTRACE_SEIZE")
        os.write(go, b"g")
    finally:
        os.close(go)  # a child that was told nothing ends
    return pid, told


def _become(specification: dict[str, Any], wait: int, tell: int, found: Dispositions) -> None:
    """In the child: wait for the word, and become the program. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number, handler in found.items():
            signal.signal(number, signal.SIG_IGN if handler is signal.SIG_IGN else signal.SIG_DFL)
        for number in _BY_DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        if os.read(wait, 1):
            os.chdir(specification["cwd"] or ".")
            argv = specification["argv"]
            os.execvpe(argv[0], argv, specification["env"])  # noqa: S606 - which program is the user's word
    except OSError as error:
        os.write(tell, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(_COULD_NOT_EXEC)


def errno_of_exec(told: int) -> int:
    """Why the child could not become the program; 0 where it has, or has died before."""
    os.set_blocking(told, False)
    try:
        return int(os.read(told, 64) or b"0")
    except BlockingIOError:
        return 0


def leave_its_files(pass_fds: list[int]) -> None:
    """Give up this process's copies of what the program was given."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd, inheritable=False)
    for fd in pass_fds:
        os.close(fd)
