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
        if self._waiting is not None:
            raise UsageError("another task waits for these messages; iterate over them in one task")
        # Imported here: it takes a tenth of what this library as a whole takes to import, for few of its users.
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting = loop, future
        loop.add_reader(fd, _finish, future)
        try:
            await future
        finally:
            self._stop(fd)

    def end(self, fd: int) -> None:
        """Let the waiting task go on; call it before the descriptor is closed and its number used again."""
        if self._waiting is not None:
            _finish(self._waiting[1])
            self._stop(fd)

    def _stop(self, fd: int) -> None:
        if self._waiting is not None:
            self._waiting[0].remove_reader(fd)
            self._waiting = None


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
