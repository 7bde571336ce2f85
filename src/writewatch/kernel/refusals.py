"""Why Linux refused, and what a person can do about it.

An errno alone does not tell a system call filter from a missing feature from a missing right; what
``/proc`` says about this process does.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

#: Who stands in the way: the kernel or its configuration, a sysctl, a system call filter, the container's
#: file system, the rights of this process, a resource limit, or ``WRITEWATCH_HIDE``.
REASONS: Final = ("kernel", "sysctl", "seccomp", "container", "permission", "limit", "switch")

CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21

_SYSCTL: Final = "/proc/sys/vm/unprivileged_userfaultfd"
_DEVICE: Final = "/dev/userfaultfd"
_ABSENT: Final = (errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)
_LIMITS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class NotWorkingError(Exception):
    """A feature does not work here.

    Attributes:
        detail: What was seen.
        reason: One of ``REASONS``.
        mend: What to do, as an instruction; empty when nothing can be done.
    """

    def __init__(self, detail: str, reason: str, mend: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What decides how a refusal is to be read.

    Attributes:
        filtered: A seccomp filter is installed.
        in_container: A container's marks are there.
        effective: Capability set, one bit each.
        sysctl: ``vm.unprivileged_userfaultfd``; None when there is no such sysctl, and so no userfaultfd in
            the kernel (or no /proc/sys).
    """

    filtered: bool
    in_container: bool
    effective: int
    sysctl: int | None

    def has(self, capability: int) -> bool:
        """Whether this process has a capability."""
        return bool(self.effective >> capability & 1)


def read_text(path: str) -> str | None:
    """A small file of /proc or /sys, stripped; None when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def surroundings() -> Surroundings:
    """Those of the calling thread: seccomp filters and capabilities belong to threads."""
    status = read_text("/proc/thread-self/status") or read_text("/proc/self/status") or ""
    lines = dict(line.split(":", 1) for line in status.split("\n") if ":" in line)
    sysctl = read_text(_SYSCTL)
    marks = "container" in os.environ or any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))
    return Surroundings(
        filtered=lines.get("Seccomp", "0").strip() == "2",
        in_container=marks,
        effective=int(lines.get("CapEff", "0"), 16),
        sysctl=int(sysctl) if sysctl and sysctl.isdecimal() else None,
    )


def explain(error: OSError) -> NotWorkingError:
    """The general reading of an errno, for calls that have no better one."""
    detail = str(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}")
    if error.errno in _LIMITS:
        return NotWorkingError(detail, "limit", "raise the limit, see `ulimit -a`, or free some of it")
    if error.errno in _ABSENT:
        return NotWorkingError(detail, "kernel")
    if surroundings().filtered:
        return NotWorkingError(detail, "seccomp", "allow the call in the system call filter")
    return NotWorkingError(detail, "permission", "run with the right to do so, for example as root")


def explain_userfaultfd(error: OSError, *, user_mode_only: bool) -> NotWorkingError:
    """Who refused userfaultfd(2), which has three gates: the kernel, a sysctl, and filters before both."""
    here = surroundings()
    detail = f"the system call is refused: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EINVAL and user_mode_only:
        return NotWorkingError(detail, "kernel", "use Linux 5.11 or newer, which has UFFD_USER_MODE_ONLY")
    if error.errno == errno.ENOSYS and here.sysctl is None:
        return NotWorkingError(
            detail, "kernel", "use a kernel built with CONFIG_USERFAULTFD (gVisor and WSL1 are none)"
        )
    if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return explain(error)
    # Linux itself says EPERM only for faults from kernel mode, and never ENOSYS when the sysctl is there.
    allowed = user_mode_only or here.sysctl == 1 or here.has(CAP_SYS_PTRACE)
    if error.errno == errno.EPERM and not allowed:
        return NotWorkingError(
            "faults that system calls take need a privilege",
            "sysctl",
            "as root: sysctl vm.unprivileged_userfaultfd=1, or give the process CAP_SYS_PTRACE or "
            f"read and write access to {_DEVICE}; asynchronous tracking does without",
        )
    if here.filtered:
        return NotWorkingError(f"{detail} by a seccomp filter", "seccomp", _past_the_filter(here))
    return NotWorkingError(detail, "permission", "allow it in the policy of the security module (SELinux)")


def _past_the_filter(here: Surroundings) -> str:
    if here.in_container:
        return (
            f"start the container with --device {_DEVICE}, or with a seccomp profile that allows userfaultfd "
            "(--security-opt seccomp=FILE)"
        )
    return f"allow userfaultfd in the filter, or give the process read and write access to {_DEVICE}"


def explain_device(error: OSError) -> NotWorkingError:
    """Why there is no descriptor from ``/dev/userfaultfd``."""
    if error.filename is None:  # the device opened; its ioctl is what was refused
        return explain(error)
    here = surroundings()
    detail = f"{_DEVICE}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.ENOENT and here.in_container:
        return NotWorkingError(detail, "container", f"start the container with --device {_DEVICE}")
    if error.errno == errno.ENOENT:
        return NotWorkingError(detail, "kernel", "use Linux 6.1 or newer")
    if error.errno == errno.EACCES:
        return NotWorkingError(detail, "permission", f"as root: setfacl -m u:USER:rw {_DEVICE}")
    if error.errno == errno.EPERM and here.in_container:  # the container's list of devices
        return NotWorkingError(detail, "container", f"start the container with --device {_DEVICE}")
    return explain(error)


def explain_pagemap(error: OSError) -> NotWorkingError:
    """Why one's own ``/proc/self/pagemap`` cannot be opened."""
    detail = f"/proc/self/pagemap: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EACCES:
        mend = "after changing its user the process must exec, or call prctl(PR_SET_DUMPABLE, 1)"
        return NotWorkingError(detail, "permission", mend)
    if error.errno == errno.ENOENT:
        here = surroundings()
        reason = "container" if here.in_container else "kernel"
        return NotWorkingError(detail, reason, "mount /proc; the kernel needs CONFIG_PROC_PAGE_MONITOR")
    return explain(error)
