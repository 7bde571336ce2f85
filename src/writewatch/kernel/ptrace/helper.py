"""The process that traces. Run by path, with an interpreter that ignores the environment; never imported.

ptrace(2) belongs to one thread, and its waits block. So it is done by a process with one thread and one purpose, which
can die at any time without harm: Linux detaches what it traced. It ends when its owner's end of the socket is closed,
by dying if need be, or when nothing was asked of it for a while.

Arguments: descriptor of a socket to the owner. The first packet is ours, and has our pid. A request is one packet of
JSON (see ``visiting.py``), with a descriptor beside it or not; the answer is another. With a second argument,
descriptor of a file that describes a program, it is that program's parent instead (see ``following.py``).

The process that is started forks and ends, so that the one that stays is no child of its owner, who may wait for all
of its own.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import types
from pathlib import Path

_IDLE_S = 10.0
#: What a person types, or a supervisor sends, reaches the whole process group.
_OF_THE_GROUP = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP),
    *(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
)


def import_without_numpy() -> None:
    """Make the modules beside this one importable without running ``writewatch/__init__.py``, which imports NumPy."""
    root = Path(__file__).resolve().parents[2]
    for name in ("writewatch", "writewatch.abi", "writewatch.kernel", "writewatch.kernel.ptrace"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package


def serve(owner: socket.socket) -> None:
    """Answer requests until there are no more."""
    from writewatch.kernel.ptrace import packets
    from writewatch.kernel.ptrace.registers import machine_of
    from writewatch.kernel.ptrace.visiting import visit

    machine = machine_of()
    assert machine is not None  # the owner has looked
    for number in _OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)  # meant for the owner, whose end we notice
    owner.settimeout(_IDLE_S)
    packets.send(owner, {"pid": os.getpid()})
    gc.freeze()
    gc.disable()  # a collection would be time that a thread is held
    while True:
        try:
            request, beside = packets.receive(owner)
        except OSError:  # nothing was asked for a while, or the owner died with an answer unread
            return
        if not request:
            return
        request["mine"] = beside
        kill_at = request.get("kill_at")

        def reached(point: str, kill_at: str | None = kill_at) -> None:
            """Die here if a test wants to know what happens then."""
            if point == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        answer, fd = visit(request, machine, reached)
        try:
            packets.send(owner, answer, fd)
        except OSError:  # the owner waits no more, or died
            return
        for one in (fd, beside):
            if one >= 0:
                os.close(one)


def run_a_program(owner: socket.socket, specification: int) -> None:
    """Be the parent of a program until it ends."""
    from writewatch.kernel.ptrace.following import serve_program
    from writewatch.kernel.ptrace.registers import machine_of

    machine = machine_of()
    assert machine is not None
    for fd in (owner.fileno(), specification):
        os.set_inheritable(fd, False)
    serve_program(owner, specification, machine)


def main() -> None:
    """Become nobody's child, and serve."""
    if os.fork():
        os._exit(0)
    import_without_numpy()
    owner = socket.socket(fileno=int(sys.argv[1]))
    if len(sys.argv) == 2:
        with contextlib.suppress(ConnectionError):  # the owner ended before it heard of us
            serve(owner)
    else:
        run_a_program(owner, int(sys.argv[2]))


if __name__ == "__main__":
    main()
