"""Waiting in asyncio until a descriptor can be read, so that cancelling and closing leave nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from writewatch.errors import UsageError

if TYPE_CHECKING:
    import asyncio


class Readiness:
    """At most one task that waits for one descriptor. To be used from the loop's thread."""

    def __init__(self) -> None:
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    async def wait(self, fd: int) -> None:
        """Return when the descriptor is readable, or when ``end()`` is called.

        Raises:
            UsageError: Another task waits already: a loop keeps one callback a descriptor, so the first
                task would never be woken.
        """
        if self._waiting is not None and not self._waiting[0].is_closed():
            raise UsageError("another task waits for these messages; iterate over them in one task")
        # Imported here: it takes a tenth of what this library as a whole takes to import, for few of its users.
        import asyncio

        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop, loop.create_future()
        try:
            loop.add_reader(fd, _finish, waiting[1])
            await waiting[1]
        finally:
            # Not where end() was here first, nor where this loop was closed and a task of another waits now.
            if self._waiting is waiting:
                self._stop(fd)

    def end(self, fd: int) -> None:
        """Let the waiting task go on; call it before the descriptor is closed and its number used again."""
        if self._waiting is not None:
            if not self._waiting[0].is_closed():
                _finish(self._waiting[1])
            self._stop(fd)

    def _stop(self, fd: int) -> None:
        if self._waiting is not None:
            loop, self._waiting = self._waiting[0], None
            # A closed loop has closed its selector, and refuses to be asked.
            if not loop.is_closed():
                loop.remove_reader(fd)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
