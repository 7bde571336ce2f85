"""What ``/proc`` says about a process that is to be attached to, and about who wants to. Nothing is touched.

``preflight.py`` judges them. A leader that has ended (state Z) while other threads live leaves an empty
``/proc/PID/maps`` behind, so everything that needs the mm is read from a live thread's directory.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import Final

from writewatch.kernel.ptrace.threads import Thread, read_threads
from writewatch.kernel.refusals import CAP_SYS_ADMIN, CAP_SYS_PTRACE, read_text, surroundings

_YAMA: Final = "/proc/sys/kernel/yama/ptrace_scope"
_CGROUP2: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_FREEZER: Final = "/sys/fs/cgroup/freezer"
_ELF_CLASS_AT: Final = 4
_ELFCLASS32: Final = 1
_HELPER: Final = "/kernel/ptrace/helper.py\0"

#: The name of a tracer that is a helper like ours.
OURSELVES: Final = "writewatch"


@dataclass(frozen=True, slots=True)
class Observer:
    """Who wants to attach.

    Attributes:
        pid: Own process.
        uid: Real user.
        traces_any: CAP_SYS_PTRACE is effective.
        suspends_filters: May use PTRACE_O_SUSPEND_SECCOMP: CAP_SYS_ADMIN, and no filter of its own.
        yama: ``kernel.yama.ptrace_scope``; 0 without Yama.
    """

    pid: int
    uid: int
    traces_any: bool
    suspends_filters: bool
    yama: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """One process at one moment.

    Attributes:
        pid: Its number.
        by: Who asks.
        exists: Whether ``/proc/PID`` was there; if not, nothing below is known.
        name: ``comm``.
        leader: Its process where the number is that of a thread, else the number itself.
        is_kernel_thread: It has no memory of its own.
        threads: The first ones.
        tracer: (pid, name) of who traces it, None when nobody does.
        is_32_bit: By its ELF header; False where that may not be read.
        frozen_by: Path of the cgroup that is frozen, None when it runs.
        vfork_child: A child that a thread in vfork(2) may wait for.
        uids: Real, effective and saved user.
        is_dumpable: False where ``/proc/PID/mem`` belongs to root although the process does not.
        gains_rights: Its file is set-uid, set-gid or has capabilities.
    """

    pid: int
    by: Observer
    exists: bool = True
    name: str = ""
    leader: int = 0
    is_kernel_thread: bool = False
    threads: tuple[Thread, ...] = ()
    tracer: tuple[int, str] | None = None
    is_32_bit: bool = False
    frozen_by: str | None = None
    vfork_child: int | None = None
    uids: tuple[int, int, int] = (0, 0, 0)
    is_dumpable: bool = True
    gains_rights: bool = False


def read_observer() -> Observer:
    """The calling thread."""
    here = surroundings()
    return Observer(
        pid=os.getpid(),
        uid=os.getuid(),
        traces_any=here.has(CAP_SYS_PTRACE),
        suspends_filters=here.has(CAP_SYS_ADMIN) and not here.filtered,
        yama=int(read_text(_YAMA) or 0),
    )


def read_facts(pid: int) -> Facts:
    """Everything about a process that decides whether it can be attached to; never raises for the process's sake."""
    by = read_observer()
    status = read_text(f"/proc/{pid}/status")
    if status is None:
        return Facts(pid, by, exists=False)
    lines = dict(line.split(":", 1) for line in status.split("\n") if ":" in line)
    threads = tuple(read_threads(pid))
    uids = tuple(int(word) for word in lines["Uid"].split()[:3])
    return Facts(
        pid=pid,
        by=by,
        name=lines["Name"].strip(),
        leader=int(lines["Tgid"]),
        is_kernel_thread=_is_kernel_thread(lines),
        threads=threads,
        tracer=_tracer(int(lines["TracerPid"]), threads),
        is_32_bit=_is_32_bit(pid),
        frozen_by=frozen_by(pid),
        vfork_child=_a_child(pid),
        uids=(uids[0], uids[1], uids[2]),
        is_dumpable=_is_dumpable(pid, uids[1]),
        gains_rights=_gains_rights(pid),
    )


def _is_kernel_thread(lines: dict[str, str]) -> bool:
    # Kernels without the line tell only by the missing lines about memory; a process that is ending has none either.
    if "Kthread" in lines:
        return lines["Kthread"].strip() == "1"
    return "VmSize" not in lines and lines["State"].strip()[0] not in "ZX"


def _tracer(pid: int, threads: tuple[Thread, ...]) -> tuple[int, str] | None:
    tracer = pid or next((thread.tracer for thread in threads if thread.tracer), 0)
    return (tracer, _name_of_tracer(tracer)) if tracer else None


def _name_of_tracer(pid: int) -> str:
    """Its name; ours where it is a helper, which is some Python to everybody else."""
    if _HELPER in (read_text(f"/proc/{pid}/cmdline") or ""):
        return OURSELVES
    return read_text(f"/proc/{pid}/comm") or "?"


def _is_32_bit(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            return file.read(_ELF_CLASS_AT + 1)[_ELF_CLASS_AT:] == bytes([_ELFCLASS32])
    except OSError:
        return False


def frozen_by(pid: int) -> str | None:
    """The frozen cgroup of a process: ``cgroup.events`` of version 2, ``freezer.state`` of version 1."""
    for line in (read_text(f"/proc/{pid}/cgroup") or "").split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and any(
            re.search(r"^frozen 1$", read_text(f"{mount}{path}/cgroup.events") or "", re.MULTILINE)
            for mount in _CGROUP2
        ):
            return path
        state = read_text(f"{_FREEZER}{path}/freezer.state") if "freezer" in controllers.split(",") else None
        if state in ("FROZEN", "FREEZING"):
            return path
    return None


def children_of(pid: int) -> list[int]:
    """Children of all threads of a process, as far as they can be listed."""
    try:
        tids = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    listed = (read_text(f"/proc/{pid}/task/{tid}/children") or "" for tid in tids)
    return [int(word) for line in listed for word in line.split()]


def _a_child(pid: int) -> int | None:
    return next(iter(children_of(pid)), None)


def _is_dumpable(pid: int, effective: int) -> bool:
    """``task_dump_owner()`` in fs/proc/base.c gives the files of one that is not to root."""
    try:
        return os.stat(f"/proc/{pid}/mem").st_uid == effective
    except OSError:
        return True


def _gains_rights(pid: int) -> bool:
    try:
        mode = os.stat(f"/proc/{pid}/exe").st_mode
        return bool(mode & (stat.S_ISUID | stat.S_ISGID)) or bool(
            os.getxattr(f"/proc/{pid}/exe", "security.capability")
        )
    except OSError:
        return False
