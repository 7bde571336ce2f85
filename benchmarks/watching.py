"""``python -m benchmarks.watching``: what a program loses by being watched, as a ratio to itself unwatched.

Slices of a load take turns: unwatched, watched with the default budget, watched at a fixed 1 Hz and at 10 Hz. A
ratio is the median over rounds of a watched slice by the unwatched one of the same round. Loads: redis under
redis-benchmark with several numbers of keys, threads that allocate and free, and single-byte stores at random
places, which is the worst case.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from writewatch.observe.benchmark.timing import Spread, paired_ratio
from writewatch.tracker.process.api import attach

PROGRAMS: Final = Path(__file__).with_name("programs")
#: How a slice is watched -> (seconds between two collects that are wanted, budget as a share of one core).
WAYS: Final[dict[str, tuple[float, float | None]]] = {
    "default budget": (1.0, 0.05),
    "1 Hz": (1.0, None),
    "10 Hz": (0.1, None),
}


@dataclass(frozen=True)
class Load:
    """A program under load.

    Attributes:
        name: What it does.
        budget: The least ratio with the default budget that is good enough.
        pid: Whom to watch.
        run: Runs the load for some seconds; returns how much was done in a second.
        latency: Of the latest slice, in ms: p50 and p99; None when the load has none.
    """

    name: str
    budget: float
    pid: int
    run: Callable[[float], float]
    latency: Callable[[], tuple[float, float] | None] = lambda: None


@dataclass(frozen=True)
class Watched:
    """What one way of watching cost.

    Attributes:
        load, way: Which.
        ratio: Watched by unwatched throughput.
        epochs: Collects a slice, on average.
        pages: Pages an epoch, on average.
        latency_ms: (p50, p99) unwatched and watched, means over the slices; empty when there is none.
    """

    load: str
    way: str
    ratio: Spread
    budget: float | None
    epochs: float
    pages: float
    latency_ms: tuple[tuple[float, float], ...]


# ---- loads -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def program(name: str, label: str, budget: float, argument: str) -> Iterator[Load]:
    """One of our C programs, compiled on the spot."""
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / name
        subprocess.run(
            ["gcc", "-O2", "-pthread", "-o", binary, PROGRAMS / f"{name}.c"],
            check=True,
        )
        with subprocess.Popen(
            [binary, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            ask, answers = child.stdin, child.stdout
            assert answers.readline() == "ready\n"

            def run(seconds: float) -> float:
                began = time.monotonic()
                print(seconds, file=ask, flush=True)
                return int(answers.readline()) / (time.monotonic() - began)

            yield Load(label, budget, child.pid, run)
            ask.close()


@contextlib.contextmanager
def redis(test: str, n_keys: int) -> Iterator[Load]:
    """A redis-server of our own, filled, under redis-benchmark with 20 clients."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = ["redis-server", "--port", port, "--save", "", "--appendonly", "no"]
    last: list[tuple[float, float]] = []

    def benchmark(what: str, requests: int) -> dict[str, str]:
        words = f"redis-benchmark -p {port} -c 20 -d 100 -r {n_keys} -n {requests} -t {what} --csv".split()
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        header, row = (line.strip('"').split('","') for line in done.stdout.splitlines()[-2:])
        return dict(zip(header, row, strict=True))

    def run(seconds: float) -> float:
        row = benchmark(test, round(seconds * rate))
        last[:] = [(float(row["p50_latency_ms"]), float(row["p99_latency_ms"]))]
        return float(row["rps"])

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _until_listening(port)
            benchmark("set", 2 * n_keys)
            rate = float(benchmark(test, 50_000)["rps"])
            yield Load(f"redis {test.upper()}, {n_keys:,} keys", 0.95, server.pid, run, lambda: last[0])
        finally:
            server.terminate()


def _until_listening(port: str) -> None:
    ends = time.monotonic() + 10
    while True:
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", int(port))):
            return
        if time.monotonic() > ends:
            raise TimeoutError("redis-server does not listen; see its output")
        time.sleep(0.01)


# ---- watching ----------------------------------------------------------------------------------------


class Watcher:
    """Collects of one process in a thread, until it is told to stop; counts them and their pages."""

    def __init__(self, pid: int, wanted_s: float, budget: float | None) -> None:
        self.epochs = self.pages = 0
        self._stop = threading.Event()
        self._tracker = attach(pid, budget=budget)
        self._wanted_s = wanted_s
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._waited():
            self.pages += self._tracker.collect().n_pages
            self.epochs += 1

    def _waited(self) -> bool:
        """Until the next collect is due; True when the slice is over."""
        left = self._tracker.budget.period_s(self._wanted_s)
        while left > 0:
            if self._stop.wait(left):
                return True
            left = self._tracker.put_off_s()
        return False

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tracker.close()


def measure(load: Load, rounds: int, seconds: float) -> list[Watched]:
    """All ways of watching one load, in turns."""
    off: list[float] = []
    quiet: list[tuple[float, float]] = []
    done: dict[str, list[float]] = {way: [] for way in WAYS}
    seen: dict[str, list[tuple[int, int]]] = {way: [] for way in WAYS}
    slow: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    load.run(seconds / 2)
    for _ in range(rounds):
        off.append(load.run(seconds))
        quiet += filter(None, [load.latency()])
        for way, (wanted_s, budget) in WAYS.items():
            with Watcher(load.pid, wanted_s, budget) as watcher:
                done[way].append(load.run(seconds))
            slow[way] += filter(None, [load.latency()])
            seen[way].append((watcher.epochs, watcher.pages))
    return [
        Watched(
            load=load.name,
            way=way,
            ratio=paired_ratio(done[way], off),
            budget=load.budget if budget is not None else None,
            epochs=sum(epochs for epochs, _ in seen[way]) / rounds,
            pages=sum(pages for _, pages in seen[way]) / max(1, sum(epochs for epochs, _ in seen[way])),
            latency_ms=(_mean(quiet), _mean(slow[way])) if quiet else (),
        )
        for way, (_, budget) in WAYS.items()
    ]


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(p50 for p50, _ in pairs) / len(pairs), sum(p99 for _, p99 in pairs) / len(pairs)


# ---- report ------------------------------------------------------------------------------------------


def table(rows: list[Watched]) -> Table:
    """What a person reads."""
    out = Table(
        "load",
        "watched",
        "ratio",
        "quartiles",
        "good is",
        "epochs a slice",
        "pages an epoch",
        "p50 ms",
        "p99 ms",
    )
    for row in rows:
        latency = (
            [f"{a:.2f} → {b:.2f}" for a, b in zip(*row.latency_ms, strict=True)]
            if row.latency_ms
            else ["", ""]
        )
        out.add_row(
            row.load,
            row.way,
            f"{row.ratio.median:.3f}",
            f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
            f"≥ {row.budget}" if row.budget else "",
            f"{row.epochs:.1f}",
            f"{row.pages:,.0f}",
            *latency,
        )
    return out


def loads() -> Iterator[contextlib.AbstractContextManager[Load]]:
    """All that this machine can run."""
    if shutil.which("redis-server") and shutil.which("redis-benchmark"):
        yield redis("set", 500_000)
        yield redis("set", 20_000)
        yield redis("get", 500_000)
    else:
        print("without redis: install redis-server, which brings redis-benchmark")
    yield program("malloc_heavy", "malloc and free, 4 threads", 0.93, "4")
    yield program("random_stores", "random stores, 512 MiB", 0.90, str(512 << 20))


def main() -> None:
    """Run all loads and print the table, and JSON when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a slice")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    rows: list[Watched] = []
    for opening in loads():
        with opening as load:
            rows += measure(load, options.rounds, options.seconds)
    console = Console(highlight=False)
    console.width = max(console.width, 150)
    console.print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
