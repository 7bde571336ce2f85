"""``python -m benchmarks.attach``: how long attaching holds a thread of redis, Node.js and a JVM that are busy.

Beside each attach, on the thread that it would choose, two bare stops: seize, interrupt, detach. One as any tracer
makes it; the other by the process that attaches, which waits for no processor while it holds a thread where it has the
right to that, and is therefore the harder measure. Times are microseconds from the request to stop until the thread
runs again; of the attach also the part in which it was held. What is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from writewatch.errors import AttachError
from writewatch.kernel.ptrace.asking import ask
from writewatch.kernel.ptrace.attaching import take_userfaultfd
from writewatch.kernel.ptrace.facts import read_facts
from writewatch.kernel.ptrace.preflight import judge
from writewatch.kernel.ptrace.taking import first_stop
from writewatch.kernel.ptrace.tracing import Patience, ThreadEndedError, Tracee

_NODE: Final = """
let kept = [];
function churn() {
  for (let n = 0; n < 2000; n++) kept[n] = {n, text: 'x'.repeat(n % 100), list: new Array(20).fill(n)};
  setImmediate(churn);
}
churn();
"""
_JAVA: Final = """
public class Churn {
  public static void main(String[] words) throws Exception {
    for (int n = 0; n < 2; n++) new Thread(() -> {
      byte[][] kept = new byte[1000][];
      for (int i = 0; ; i++) kept[i % 1000] = new byte[1 + i % 5000];
    }).start();
  }
}
"""
_STARTED_S: Final = 60.0


@dataclass(slots=True)
class Times:
    """Microseconds of many stops."""

    reach: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    def add(self, reach_ns: int, held_ns: int) -> None:
        """One stop."""
        self.reach.append(reach_ns / 1000)
        self.held.append(held_ns / 1000)

    @property
    def whole(self) -> list[float]:
        """From the request to stop until the thread ran again."""
        return [reach + held for reach, held in zip(self.reach, self.held, strict=True)]


def p50(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


@contextlib.contextmanager
def running(*argv: str, cwd: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program without output, killed at the end; that it lives until then is asserted."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd=cwd)
    try:
        yield process
        assert process.poll() is None, f"{argv[0]} has died"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def redis(*options: str, threads: int = 1) -> Iterator[int]:
    """A server that is asked to store by fifty clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with (
        tempfile.TemporaryDirectory() as directory,
        running("redis-server", "--port", port, "--save", "", *options, cwd=directory) as server,
    ):
        ping = ["redis-cli", "-p", port, "ping"]
        await_that(lambda: not subprocess.run(ping, check=False, capture_output=True).returncode)
        load = [
            "redis-benchmark",
            "-p",
            port,
            "-c",
            "50",
            "-n",
            "1000000000",
            "-r",
            "100000",
            "-t",
            "set",
            "-q",
        ]
        with running(*load, "--threads", str(threads)):
            await_that(lambda: busy(server.pid))
            yield server.pid


def redis_with_threads() -> contextlib.AbstractContextManager[int]:
    """The same with threads that read and write its sockets, and more clients than processors."""
    return redis("--io-threads", "3", "--io-threads-do-reads", "yes", threads=2)


@contextlib.contextmanager
def node() -> Iterator[int]:
    """A script that allocates all the time."""
    with running("node", "-e", _NODE) as process:
        await_that(lambda: busy(process.pid))
        yield process.pid


@contextlib.contextmanager
def jvm() -> Iterator[int]:
    """Two threads that allocate all the time."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "Churn.java").write_text(_JAVA)
        subprocess.run(["javac", "Churn.java"], cwd=directory, check=True)
        with running("java", "-Xmx256m", "-cp", directory, "Churn") as process:
            await_that(lambda: busy(process.pid))
            yield process.pid


def await_that(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + _STARTED_S
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError("a program did not start")
        time.sleep(0.05)


def busy(pid: int) -> bool:
    """Whether a process has used the processor for half a second."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(words[11]) + int(words[12]) > os.sysconf("SC_CLK_TCK") / 2


TARGETS: Final = {
    "redis": (redis, ("redis-server", "redis-benchmark", "redis-cli")),
    "redis-io": (redis_with_threads, ("redis-server", "redis-benchmark", "redis-cli")),
    "node": (node, ("node",)),
    "JVM": (jvm, ("java", "javac")),
}


@dataclass(slots=True)
class Measured:
    """Attaches and bare stops of one program, made in turn.

    Attributes:
        taken: Attaches.
        plain: Bare stops as any tracer makes them.
        prepared: Bare stops by the process that attaches.
        restoring: How many attaches had a way back of their own.
    """

    taken: Times = field(default_factory=Times)
    plain: Times = field(default_factory=Times)
    prepared: Times = field(default_factory=Times)
    restoring: int = 0

    def attach(self, pid: int) -> None:
        """Take a userfaultfd, and close it."""
        attach = take_userfaultfd(pid)
        os.close(attach.fd)
        self.taken.add(attach.reach_ns, attach.held_ns)
        self.restoring += attach.restores_itself

    def stop_prepared(self, pid: int) -> None:
        """Have the process that attaches stop a thread, and nothing more."""
        stop = ask({"do": "touch", "pid": pid, "tid": chosen(pid)}, 1.0)[0]
        if "failed" not in stop:  # else it has ended, or did something else meanwhile
            self.prepared.add(stop["reach_ns"], stop["held_ns"])

    def stop_plainly(self, pid: int) -> None:
        """Stop a thread as any tracer does."""
        with contextlib.suppress(ThreadEndedError):
            self.plain.add(*plain_stop(chosen(pid)))


HEADINGS: Final = ("target", "bare", "prepared", "attach", "held", "p99 to bare", "to prepared", "way back")


def measure(pid: int, times: int) -> Measured:
    """Attaches and bare stops in turn, each as often first as last: a thread that has just run is stopped sooner."""
    measured = Measured()
    steps = [measured.attach, measured.stop_prepared, measured.stop_plainly]
    for n in range(times):
        for step in range(len(steps)):
            steps[(n + step) % len(steps)](pid)
    return measured


def chosen(pid: int) -> int:
    """The thread that an attach would choose now."""
    return judge(read_facts(pid))[0].tid


def plain_stop(tid: int) -> tuple[int, int]:
    """Stop a thread and let it go; nanoseconds until it stopped, and for which it was held."""
    tracee = Tracee(tid, Patience())
    tracee.seize(0)
    began = time.monotonic_ns()
    tracee.interrupt()
    first_stop(tracee)
    stopped = time.monotonic_ns()
    tracee.detach()
    return stopped - began, time.monotonic_ns() - stopped


def main(arguments: list[str] | None = None) -> int:
    """Measure and print a table; 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attach", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--times", type=int, default=1000, help="attaches of each program")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}; by default all"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    table = Table(title=f"µs, p50 / p99 of {options.times} attaches; bare stops in turn with them")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for name in options.targets or TARGETS:
        start, programs = TARGETS[name]
        missing = [one for one in programs if shutil.which(one) is None]
        if missing:
            print(f"{name}: {', '.join(missing)} is not installed", file=sys.stderr)
            continue
        try:
            with start() as pid:
                add_row(table, name, measure(pid, options.times))
        except AttachError as error:
            print(f"{name}: {error}", file=sys.stderr)
    Console(highlight=False, width=120).print(table)
    return 0 if table.row_count else 1


def add_row(table: Table, name: str, measured: Measured) -> None:
    """One program."""
    taken, bare = measured.taken, (measured.plain.whole, measured.prepared.whole)
    cells = [f"{p50(of):.0f} / {p99(of):.0f}" for of in (*bare, taken.whole, taken.held)]
    ratios = [f"{p99(taken.whole) / p99(of):.2f}" for of in bare]
    table.add_row(name, *cells, *ratios, f"{measured.restoring} of {len(taken.held)}")


if __name__ == "__main__":
    sys.exit(main())
