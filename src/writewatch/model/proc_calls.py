"""What ``/proc/PID`` shows and takes: pagemap with its scan, maps, clear_refs.

What each call does is documented at ``KernelCalls``.
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import Vma as MapsLine
from writewatch.abi.pagemap import CLEAR_REFS_SOFT_DIRTY, PmScanArg
from writewatch.model import pagemap, scan, scan_state
from writewatch.model.access_calls import AccessCalls
from writewatch.model.descriptors import Pagemap, Status
from writewatch.model.maps import lines
from writewatch.model.mm import failure
from writewatch.model.process import Process
from writewatch.model.waits import Steps


class ProcCalls(AccessCalls):
    """The part of ``KernelCalls`` that looks at a process through its files."""

    def _process(self, pid: int | None) -> Process:
        if pid is None:
            return self
        process = self.machine.processes.get(pid)
        if not isinstance(process, Process):
            raise failure(errno.ENOENT, "open")
        return process

    def open_pagemap(self, pid: int | None) -> int:
        return self.descriptors.install(Pagemap(self._process(pid).mm, self.privileged))

    def read_pagemap(
        self, fd: int, first_page: int, n_pages: int, out: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        opened = self.descriptors.pagemap(fd)
        entries = pagemap.read(opened.mm, first_page, n_pages, privileged=opened.privileged)
        if out is None:
            return entries
        out[: len(entries)] = entries
        return out[: len(entries)]

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        return self._run(self._pagemap_scan_steps(fd, argument, vec))

    def _pagemap_scan_steps(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> Steps[int]:
        mm = self.descriptors.pagemap(fd).mm
        if vec is None:
            writer = scan_state.memory_writer(self._kernel_write, int(argument.vec))
        else:
            # The array lies outside simulated memory; any address that is not null stands for it.
            argument.vec, argument.vec_len = vec.ctypes.data & 0x7FFF_FFFF or 1, len(vec)
            writer = scan_state.array_writer(vec)
        return (yield from scan.pagemap_scan(mm, argument, writer))

    def clear_refs(self, pid: int | None, value: int) -> None:
        if not 1 <= value <= 5:
            raise failure(errno.EINVAL, "write")
        if value == CLEAR_REFS_SOFT_DIRTY:
            pagemap.clear_soft_dirty(self._process(pid).mm)

    def vmas(self, pid: int | None) -> tuple[MapsLine, ...]:
        return lines(self._process(pid).mm)

    def pinned_bytes(self, pid: int | None) -> int:
        # Nothing in the model pins memory.
        return 0

    def open_status(self, pid: int | None) -> int:
        return self.descriptors.install(Status(self._process(pid).pid))

    def read_pinned(self, fd: int) -> int:
        self.descriptors.status(fd)
        return 0
