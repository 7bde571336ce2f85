"""Descriptors of a process: numbers that stand for open files, userfaultfds and pagemaps.

Descriptors are shared by fork and by SCM_RIGHTS; what is behind one ends with the last of them.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TypeAlias

from writewatch.model.files import OpenFile
from writewatch.model.mm import Mm, failure
from writewatch.model.register import release
from writewatch.model.uffd import Context


@dataclass(slots=True, eq=False)
class Pagemap:
    """An open ``/proc/PID/pagemap``: bound to the mm of the moment, and to the rights of who opened it."""

    mm: Mm
    privileged: bool


@dataclass(slots=True, eq=False)
class Status:
    """An open ``/proc/PID/status``."""

    pid: int


Opened: TypeAlias = OpenFile | Context | Pagemap | Status


@dataclass(slots=True, eq=False)
class _Shared:
    opened: Opened
    refs: int = 0
    position: int = 0


class Descriptors:
    """The descriptor table of one process."""

    def __init__(self) -> None:
        self._table: dict[int, _Shared] = {}

    def install(self, opened: Opened) -> int:
        """The lowest free number for something new."""
        return self._add(_Shared(opened))

    def _add(self, shared: _Shared) -> int:
        fd = 3
        while fd in self._table:
            fd += 1
        self._table[fd] = shared
        shared.refs += 1
        return fd

    def send(self, fd: int, other: Descriptors) -> int:
        """SCM_RIGHTS: another process's number for the same thing."""
        return other._add(self._get(fd))

    def copy(self) -> Descriptors:
        """The table of a forked child."""
        child = Descriptors()
        for fd, shared in self._table.items():
            child._table[fd] = shared
            shared.refs += 1
        return child

    def close(self, fd: int) -> None:
        """close(2)."""
        shared = self._get(fd)
        del self._table[fd]
        shared.refs -= 1
        if not shared.refs and isinstance(shared.opened, Context):
            release(shared.opened)

    def identity(self, fd: int) -> tuple[int, int]:
        """fstat(2): two numbers that no other open thing has."""
        return 0, id(self._get(fd).opened)

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        """lseek(2), SEEK_SET and SEEK_CUR, of what has a position."""
        shared = self._get(fd)
        shared.position = offset + (shared.position if whence == os.SEEK_CUR else 0)
        return shared.position

    def close_all(self) -> None:
        """What exit does."""
        for fd in list(self._table):
            self.close(fd)

    def _get(self, fd: int) -> _Shared:
        if fd not in self._table:
            raise failure(errno.EBADF, "descriptor")
        return self._table[fd]

    def context(self, fd: int) -> Context:
        """The userfaultfd behind a number."""
        opened = self._get(fd).opened
        if not isinstance(opened, Context):
            raise failure(errno.ENOTTY, "ioctl")
        return opened

    def pagemap(self, fd: int) -> Pagemap:
        """The pagemap behind a number."""
        opened = self._get(fd).opened
        if not isinstance(opened, Pagemap):
            raise failure(errno.ENOTTY, "ioctl")
        return opened

    def status(self, fd: int) -> Status:
        """The status file behind a number."""
        opened = self._get(fd).opened
        if not isinstance(opened, Status):
            raise failure(errno.EINVAL, "pread")
        return opened

    def file(self, fd: int) -> OpenFile:
        """The open file behind a number."""
        opened = self._get(fd).opened
        if not isinstance(opened, OpenFile):
            raise failure(errno.EINVAL, "descriptor")
        return opened
