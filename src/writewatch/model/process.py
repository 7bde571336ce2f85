"""A process of the model: its mm, descriptors, rights and threads, apart from the calls of the protocol."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.userfaultfd import UFFDIO_REGISTER, UFFDIO_UNREGISTER
from writewatch.model import file_calls, fork
from writewatch.model.batch import store_many
from writewatch.model.descriptors import Descriptors
from writewatch.model.files import REGULAR, SECRETMEM, OpenFile
from writewatch.model.machine import Machine, Settings
from writewatch.model.maps import map_vdso, smaps_flags
from writewatch.model.migrate import finish_migration, start_migration
from writewatch.model.mm import Mm, failure
from writewatch.model.populate import mlock
from writewatch.model.signals import MustWait, WouldBlock
from writewatch.model.tasks import Task, run
from writewatch.model.uffd import INITIALIZED
from writewatch.model.waits import Steps

T = TypeVar("T")

_STEPS: Final = "_{}_steps"
_WRITERS: Final = {"mmap", "munmap", "mprotect", "mremap", "mlock", "fork"}


def _changes_vmas(method: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a call takes the mmap lock for writing."""
    return method in _WRITERS or (method == "uffdio" and arguments[1] in {UFFDIO_REGISTER, UFFDIO_UNREGISTER})


class Process:
    """One process on a machine of the model.

    Args:
        machine: Where it runs; None boots one.
        settings: Of the machine to boot.

    Attributes:
        machine: As given or booted.
        mm: Its memory; execve brings a new one.
        descriptors: Its open files.
        privileged: Whether it has CAP_SYS_PTRACE and CAP_SYS_ADMIN.
        pid: Its number, and that of its first thread.
    """

    def __init__(self, machine: Machine | None = None, *, settings: Settings | None = None) -> None:
        self.machine = machine or Machine(settings)
        self.mm = Mm(self.machine)
        self.descriptors = Descriptors()
        self.privileged = self.machine.settings.privileged
        self.pid = self.machine.new_id()
        self.machine.processes[self.pid] = self
        self._tasks: list[Task] = []
        map_vdso(self.mm)

    # ---- threads ---------------------------------------------------------------------------------

    def _run(self, steps: Steps[T]) -> T:
        """Run a call to its end in the first thread, then whatever it woke."""
        before, self.machine.thread_id = self.machine.thread_id, self.pid
        try:
            return run(steps)
        finally:
            self.machine.thread_id = before
            self.machine.run_ready()

    def steps(self, method: str, *arguments: Any) -> Steps[Any]:
        """A call, or ``fork``, in steps: for a task, or for ``explore``. Others may run before its first."""
        yield None
        if _changes_vmas(method, arguments):
            yield from self.mm.write_lock()
        steps = getattr(self, _STEPS.format(method), None)
        if steps is None:
            return getattr(self, method)(*arguments)
        return (yield from steps(*arguments))

    def spawn(self, method: str, *arguments: Any) -> Task:
        """Start a call, or ``fork``, in a thread of its own; it runs until it ends or sleeps."""
        task = Task(self.machine, self.steps(method, *arguments))
        self.machine.tasks.append(task)
        task.settle()
        self.machine.run_ready()
        return task

    # ---- processes -------------------------------------------------------------------------------

    def fork(self) -> Self:
        """fork(2); returns the child."""
        return self._run(self._fork_steps())

    def _fork_steps(self) -> Steps[Self]:
        child = type(self)(self.machine)
        fork.end(child.mm)
        child.mm = yield from fork.fork(self.mm)
        child.descriptors = self.descriptors.copy()
        child.privileged = self.privileged
        return child

    def exit(self) -> None:
        """The process ends, its descriptors and its mm with it."""
        if self.machine.processes.pop(self.pid, None) is not None:
            self.descriptors.close_all()
            fork.end(self.mm)
            self.machine.run_ready()

    def execve(self) -> None:
        """execve(2): a new, empty mm. Descriptors stay open; those of the old mm find it gone."""
        fork.end(self.mm)
        self.mm = Mm(self.machine)
        map_vdso(self.mm)

    def send_descriptor(self, fd: int, other: Process) -> int:
        """SCM_RIGHTS: the other process's number for the same thing."""
        return self.descriptors.send(fd, other.descriptors)

    def drop_privileges(self) -> None:
        """setresuid(2) to another user than root."""
        self.privileged = False

    # ---- files and memory ------------------------------------------------------------------------

    def regular_file(self, length: int, writable: bool = True) -> int:
        """Open a new regular file of that many zeros, O_RDWR or O_RDONLY."""
        file = self.machine.new_file(REGULAR, "/file (deleted)", length)
        return self.descriptors.install(OpenFile(file, writable))

    def memfd_secret(self) -> int:
        """memfd_secret(2)."""
        return self.descriptors.install(OpenFile(self.machine.new_file(SECRETMEM, "/secretmem (deleted)")))

    def seal(self, fd: int, seals: int) -> None:
        """fcntl(2) F_ADD_SEALS."""
        file_calls.seal(self.descriptors.file(fd), seals)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """pread(2)."""
        return file_calls.pread(self.machine, self.descriptors.file(fd), length, offset)

    def mlock(self, addr: int, length: int) -> None:
        """mlock(2)."""
        self._run(self._mlock_steps(addr, length))

    def _mlock_steps(self, addr: int, length: int) -> Steps[None]:
        yield from mlock(self.mm, addr, length)

    def vm_flags(self, addr: int) -> frozenset[str]:
        """``VmFlags`` of ``/proc/self/smaps`` for the VMA at an address."""
        vma = self.mm.vmas.find(addr)
        if vma is None:
            raise failure(errno.EFAULT, "smaps")
        return smaps_flags(vma)

    def uffd_features(self, fd: int) -> int:
        """Enabled features as ``/proc/self/fdinfo/FD`` shows them."""
        features = self.descriptors.context(fd).features
        return 0 if features is None else features | INITIALIZED

    def touch(self, addresses: Sequence[int] | NDArray[np.int64], value: int = 1) -> None:
        """Store one byte at each address, in user mode: the fast way to take many faults.

        Raises:
            Segfault, BusError: As a store; the addresses before it in the sequence have been stored to.
            WouldBlock: A userfaultfd has to serve one.
        """
        self.machine.thread_id = self.pid
        try:
            store_many(self.mm, np.asarray(addresses, np.int64), value)
        except MustWait as sleep:
            raise WouldBlock(sleep.wait) from None

    def compact(self) -> None:
        """Move every small page of this process to another frame, as memory compaction may."""
        for vma in self.mm.vmas:
            for addr, _ in [] if vma.is_hugetlb else self.mm.table.ptes(vma.start, vma.end):
                if start_migration(self.mm, addr):
                    finish_migration(self.mm, addr)

    def swap_to(self, n_pages: int) -> None:
        """swapon(2) and swapoff(2): from now on swap has that many pages."""
        self.machine.swap.resize(n_pages)
