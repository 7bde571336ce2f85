"""Which backend watches another process, in order of preference, and why.

A userfaultfd of the target is exact and costs what changes; but the target has to make it, and may not be able to.
Soft-dirty bits need only ``/proc``, and are the whole process's. Hashes of the content need only to read it, all of
it every time. Every one is refused for a process that is stopped in its tracks at this moment (traced, frozen):
that passes, so the user is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from writewatch.abi.calls import KernelCalls
from writewatch.errors import AttachError, KernelUnsupportedError, UsageError
from writewatch.tracker.process.backend import ProcessBackend
from writewatch.tracker.process.content_hash import HashProcess
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles
from writewatch.tracker.process.soft_dirty import NOTE, SoftDirtyProcess
from writewatch.tracker.process.uffd import AlreadyTrackedError, UffdProcess
from writewatch.tracker.select import known


class Taken(Protocol):
    """A userfaultfd of the target: ``writewatch.kernel.ptrace.attaching.Taken``, or one that came by another way."""

    @property
    def fd(self) -> int:
        """Owned by who receives it; no handshake done."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was given up, in sentences."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend that watches, why it is this one, and what is to be said of it in every report."""

    backend: ProcessBackend
    reason: str
    notes: tuple[str, ...] = ()


class NoUserfaultfdError(AttachError):
    """The target can have no userfaultfd, now and later; it may be watched otherwise."""


class MovedOnError(AttachError):
    """The mm ended while it was attached to. The process ends too, or has another one, which may be tried."""


Take: TypeAlias = Callable[[int], Taken]


def take_by_ptrace(pid: int) -> Taken:
    """Have the target make a userfaultfd; see ``writewatch.kernel.ptrace.attaching``."""
    # On use: it brings sockets and processes, and most programs never need it.
    from writewatch.kernel.ptrace.attaching import take_userfaultfd

    return take_userfaultfd(pid)


def _uffd_wp(pid: int, files: ProcFiles, calls: KernelCalls, take: Take, report: bool) -> Chosen:
    capability = known(calls)["uffd_wp_async"]
    if not capability.works:
        raise KernelUnsupportedError(_why_not(capability.detail, capability.mend), ("uffd_wp_async",))
    taken = take(pid)
    backend = UffdProcess(taken.fd, files, calls)
    try:
        backend.start(report=report)
    except BaseException:
        backend.close()
        raise
    return Chosen(backend, "uffd-wp: the process has made a userfaultfd for it", tuple(taken.notes))


def _soft_dirty(pid: int, files: ProcFiles, calls: KernelCalls, take: Take, report: bool) -> Chosen:
    capability = known(calls)["soft_dirty"]
    if not capability.works:
        raise KernelUnsupportedError(_why_not(capability.detail, capability.mend), ("soft_dirty",))
    backend = SoftDirtyProcess(files, calls)
    backend.start(report=report)
    return Chosen(backend, "soft-dirty: bits of the page tables, read and cleared in /proc", (NOTE,))


def _content_hash(pid: int, files: ProcFiles, calls: KernelCalls, take: Take, report: bool) -> Chosen:
    backend = HashProcess(files, calls)
    try:
        backend.start(report=report)
    except BaseException:
        backend.close()
        raise
    cost = f"reads and hashes ({backend.digest_name}) all {backend.n_bytes >> 20} MiB of its memory each time"
    return Chosen(backend, f"content-hash: {cost}")


def _why_not(detail: str, mend: str) -> str:
    return f"{detail}; {mend}" if mend else detail


@contextlib.contextmanager
def translated(pid: int) -> Iterator[None]:
    """What the kernel refuses, as an ``AttachError``."""
    try:
        yield
    except (MmGoneError, ProcessLookupError) as error:
        why = f"{pid} ended, or ran another program, while it was attached to"
        raise MovedOnError(why, pid) from error
    except PermissionError as error:
        why = f"{pid} may not be read ({error.strerror}); run as root or with CAP_SYS_PTRACE"
        raise AttachError(why, pid) from error
    except OSError as error:
        raise AttachError(f"{pid} cannot be watched: {error}", pid) from error


_Opener: TypeAlias = Callable[[int, ProcFiles, KernelCalls, Take, bool], Chosen]

#: Name -> how to start watching with it. Best first.
BACKENDS: Final[dict[str, _Opener]] = {
    "uffd-wp": _uffd_wp,
    "soft-dirty": _soft_dirty,
    "content-hash": _content_hash,
}


def choose(name: str, files: ProcFiles, calls: KernelCalls, take: Take, *, report: bool) -> Chosen:
    """Start watching with the named backend, or with the best that works.

    Args:
        name: A backend, or ``auto``.
        files: Of the target.
        calls: What to ask.
        take: How to get a userfaultfd of the target.
        report: Whether what is there already belongs to the first report, as assumed.

    Raises:
        UsageError: No backend has this name.
        AttachError: The process cannot be watched, and why.
        KernelUnsupportedError: The named backend does not work on this kernel.
    """
    if name != "auto" and name not in BACKENDS:
        raise UsageError(f"no backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    passed_over: list[str] = []
    first: Exception | None = None
    for one in BACKENDS if name == "auto" else (name,):
        try:
            with translated(files.pid):
                chosen = BACKENDS[one](files.pid, files, calls, take, report)
        except (AttachError, KernelUnsupportedError) as error:
            if name != "auto" or not _may_be_done_otherwise(error, files.pid):
                raise
            first = first or error
            passed_over.append(f"{one}: {error}")
            continue
        return Chosen(chosen.backend, "; ".join([*passed_over, chosen.reason]), chosen.notes)
    assert first is not None
    raise first


def _may_be_done_otherwise(error: Exception, pid: int) -> bool:
    """Whether another backend is to be tried: not where the reason will pass, or the user is better told."""
    if isinstance(error, NoUserfaultfdError | KernelUnsupportedError):
        return True
    return not isinstance(error, AlreadyTrackedError | MovedOnError) and not is_momentary(pid)


def is_momentary(pid: int) -> bool:
    """Whether what keeps us from attaching will pass: the process is traced, frozen, ending, or in no state to stop."""
    from writewatch.kernel.ptrace.facts import read_facts
    from writewatch.kernel.ptrace.threads import best_first

    facts = read_facts(pid)
    is_held = facts.tracer is not None or facts.frozen_by is not None
    return not facts.exists or is_held or not best_first(facts.threads)
