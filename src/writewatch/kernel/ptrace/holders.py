"""Who holds a userfaultfd, and whether it is this one.

A VMA is registered with one context; while anybody holds a descriptor of it, others get EBUSY. A child that the target
forked between the two injected calls is such a holder, without knowing: with its copy open, closing ours would leave
the target armed. kcmp(2) tells whether two descriptors are one file; without it the inode does, as every userfaultfd
has one of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final, NamedTuple

from writewatch.abi.pidfd import KCMP_FILE, KCMP_VM
from writewatch.kernel import libc
from writewatch.kernel.ptrace.facts import children_of

_LINK: Final = "anon_inode:[userfaultfd]"


class Holder(NamedTuple):
    """One descriptor of a userfaultfd."""

    pid: int
    fd: int


def holders() -> tuple[Holder, ...]:
    """Every userfaultfd descriptor of the processes that we may look at, our own among them."""
    return tuple(holder for pid in _numbers("/proc") for holder in held_by(pid))


def held_by(pid: int) -> tuple[Holder, ...]:
    """Those of one process; none where we may not look."""
    found = []
    for fd in _numbers(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == _LINK:
                found.append(Holder(pid, fd))
    return tuple(found)


def _numbers(directory: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())
    except OSError:
        return []


def is_copy(fd: int, holder: Holder) -> bool:
    """Whether a descriptor of another process is the file of our own ``fd``; False when it is gone."""
    try:
        return libc.syscall("kcmp", os.getpid(), holder.pid, KCMP_FILE, fd, holder.fd) == 0
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            return False
    try:  # CONFIG_KCMP is not set
        theirs = os.stat(f"/proc/{holder.pid}/fd/{holder.fd}")
    except OSError:
        return False
    return os.path.samestat(os.fstat(fd), theirs)


def copies_in_children(fd: int, pid: int, number: int) -> tuple[Holder, ...]:
    """Descendants of a process that inherited a descriptor of ours under the number that it had there.

    A vfork child is left out: it is about to exec, which closes its copy.
    """
    found = []
    for child in children_of(pid):
        holder = Holder(child, number)
        if is_copy(fd, holder) and not _shares_memory(pid, child):
            found += [holder, *copies_in_children(fd, child, number)]
    return tuple(found)


def _shares_memory(pid: int, child: int) -> bool:
    try:
        return libc.syscall("kcmp", pid, child, KCMP_VM, 0, 0) == 0
    except OSError:
        return False


def already_tracked(fd: int) -> str:
    """The sentence for a process all of whose memory answers EBUSY; ``fd`` is the userfaultfd that got it."""
    others = [one for one in holders() if one != (os.getpid(), fd) and not is_copy(fd, one)]
    listed = ", ".join(f"pid {one.pid} fd {one.fd}" for one in others)
    return (
        "already tracked through another userfaultfd, end that first; Linux does not tell whose, "
        f"but these hold one: {listed or 'none that this process may see'}"
    )
