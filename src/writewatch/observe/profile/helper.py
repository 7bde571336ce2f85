"""The process that watches its parent: everything that watching stores is then stored elsewhere.

The parent makes the userfaultfd itself and hands it over, so no right to trace is needed, only the right to
read ``/proc/PID/pagemap``. The protocol, on one socket: the descriptor and a pickled request come in; a
pickled answer, None or a sentence, says that watching has begun or cannot; a byte, or the end of the parent,
ends it; then the epochs go out, pickled.
"""

from __future__ import annotations

import contextlib
import pickle
import select
import signal
import socket
from dataclasses import dataclass

from writewatch.errors import TrackingLostError, WriteWatchError
from writewatch.observe.profile.kept import Kept
from writewatch.tracker.process.api import ProcessTracker, attach
from writewatch.tracker.process.uffd import AlreadyTrackedError


@dataclass(frozen=True, slots=True)
class Request:
    """What the parent asks for."""

    pid: int
    interval_s: float
    budget: float | None


@dataclass(frozen=True, slots=True)
class Handed:
    """A userfaultfd that came over a socket, as ``attach(take=)`` wants it."""

    fd: int
    notes: tuple[str, ...] = ()


def main(number: int) -> None:
    """Serve the parent at the other end of a socket, and end with it."""
    for ignored in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)  # Ctrl-C is for the parent; its end is ours
    with socket.socket(fileno=number) as connection, contextlib.suppress(BrokenPipeError, ConnectionError):
        _serve(connection)


def _serve(connection: socket.socket) -> None:
    packet, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 1)
    request: Request = pickle.loads(packet)  # noqa: S301 (of the parent, over a socket that only it holds)
    try:
        tracker = attach(request.pid, take=lambda _pid: Handed(descriptors[0]), budget=request.budget)
    except AlreadyTrackedError:
        _send(connection, "it is watched already, by another profile() or program; end that first")
        return
    except (WriteWatchError, OSError) as error:
        _send(connection, str(error))
        return
    with tracker:
        _send(connection, None)
        kept = _watch(tracker, connection, request.interval_s)
    _send(connection, kept.epochs)


def _watch(tracker: ProcessTracker, connection: socket.socket, interval_s: float) -> Kept:
    """Collect until the parent says something, or has ended; the last time then."""
    kept = Kept(interval_s)
    stopped = False
    while not stopped:
        left = tracker.budget.period_s(kept.interval_s)
        while left > 0 and not stopped:
            stopped = bool(select.select([connection], [], [], left)[0])
            left = tracker.put_off_s()
        try:
            kept.add(tracker.collect())
        except TrackingLostError:
            break
    return kept


def _send(connection: socket.socket, value: object) -> None:
    packed = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    connection.sendall(len(packed).to_bytes(8, "little") + packed)


def receive(connection: socket.socket) -> object:
    """What ``_send`` sent; EOFError when the other end is gone."""
    length = int.from_bytes(_exactly(connection, 8), "little")
    return pickle.loads(_exactly(connection, length))  # noqa: S301 (of our own helper)


def _exactly(connection: socket.socket, n_bytes: int) -> bytes:
    parts = []
    while n_bytes:
        part = connection.recv(min(n_bytes, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)
