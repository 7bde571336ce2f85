"""``python -m benchmarks.attach``: how long attaching holds a thread of redis, Node.js and a JVM that are busy.

Beside each attach, on the thread that it would choose, a bare stop: seize, interrupt, detach. Both are given as the
time until the thread stopped and the time it was held, in microseconds. What is not installed is left out and named.
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
def redis() -> Iterator[int]:
    """A server that is asked to store by twenty clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with (
        tempfile.TemporaryDirectory() as directory,
        running("redis-server", "--port", port, "--save", "", cwd=directory) as server,
    ):
        ping = ["redis-cli", "-p", port, "ping"]
        await_that(lambda: not subprocess.run(ping, check=False, capture_output=True).returncode)
        load = (
            "redis-benchmark",
            "-p",
            port,
            "-c",
            "20",
            "-n",
            "1000000000",
            "-r",
            "100000",
            "-t",
            "set",
            "-q",
        )
        with running(*load):
            await_that(lambda: busy(server.pid))
            yield server.pid


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
    "node": (node, ("node",)),
    "JVM": (jvm, ("java", "javac")),
}


def measure(pid: int, times: int) -> tuple[Times, Times, int]:
    """Attaches and bare stops in turn; how many attaches had a way back of their own."""
    taken, bare, restoring = Times(), Times(), 0
    for _ in range(times):
        attach = take_userfaultfd(pid)
        os.close(attach.fd)
        taken.add(attach.reach_ns, attach.held_ns)
        restoring += attach.restores_itself
        with contextlib.suppress(KeyError):  # the thread has ended, or did something else meanwhile
            stop = ask({"do": "touch", "pid": pid, "tid": judge(read_facts(pid))[0].tid}, 1.0)[0]
            bare.add(stop["reach_ns"], stop["held_ns"])
    return taken, bare, restoring


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
    for heading in (
        "target",
        "bare: reach",
        "bare: held",
        "attach: reach",
        "attach: held",
        "p99 to bare",
        "way back",
    ):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for name in options.targets or TARGETS:
        start, programs = TARGETS[name]
        missing = [one for one in programs if shutil.which(one) is None]
        if missing:
            print(f"{name}: {', '.join(missing)} is not installed", file=sys.stderr)
            continue
        try:
            with start() as pid:
                add_row(table, name, *measure(pid, options.times))
        except AttachError as error:
            print(f"{name}: {error}", file=sys.stderr)
    Console(highlight=False, width=120).print(table)
    return 0 if table.row_count else 1


def add_row(table: Table, name: str, taken: Times, bare: Times, restoring: int) -> None:
    """One program."""
    cells = [f"{p50(of):.0f} / {p99(of):.0f}" for of in (bare.reach, bare.held, taken.reach, taken.held)]
    ratio = p99(taken.whole) / p99(bare.whole)
    table.add_row(name, *cells, f"{ratio:.2f}", f"{restoring} of {len(taken.held)}")


if __name__ == "__main__":
    sys.exit(main())
