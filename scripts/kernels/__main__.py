"""``python -m scripts.kernels``: boot, test, write ``docs/support-matrix.md``. See the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from scripts.kernels import debian, machine, matrix

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "kernels"
GUEST_SHARE = "/run/share"
NO_VERDICT = 125
# Options of pytest for a processor that is 20 to 30 times slower: fewer examples, more patience with one test.
EMULATED = ("-p", "scripts.kernels.emulated", "-o", "faulthandler_timeout=1200")


def main() -> int:
    """Run the suites on each kernel that was named; 0 if all passed, 125 if a kernel gave no verdict."""
    options = parse_options()
    try:
        kernels = prepare(options.kernel)
    except debian.MissingError as error:
        print(f"kernels: {error}.", file=sys.stderr)
        return NO_VERDICT
    runs: list[Callable[[], int]] = [
        partial(
            run_in_guest,
            kernel,
            machine.Size(options.cpus, options.memory, options.limit, options.append),
            options,
        )
        for kernel in kernels
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        try:
            statuses = [future.result() for future in [pool.submit(run) for run in runs]]
        except BaseException:
            machine.stopping.set()
            raise
    if options.host:
        statuses.append(run_on_host(options))
    return max(statuses, default=0)


def prepare(series: list[str]) -> list[debian.Kernel]:
    """Have QEMU and every kernel at hand."""
    if series:
        debian.need_tools()
    return [debian.fetch(name, CACHE) for name in series]


def run_in_guest(kernel: debian.Kernel, size: machine.Size, options: argparse.Namespace) -> int:
    """Run the suites, or the command that was given, on one kernel."""
    with tempfile.TemporaryDirectory(prefix="kernels-") as name:
        share = Path(name)
        follow = follower(kernel.series)
        try:
            what = command(options, GUEST_SHARE, *EMULATED)
            status = machine.run(kernel, what, ROOT, share, size, follow)
        except machine.BootError as error:
            follow(f"{error}\n")
            return NO_VERDICT
        record(share, options)
        return status


def run_on_host(options: argparse.Namespace) -> int:
    """Run the same on the kernel that runs here."""
    with tempfile.TemporaryDirectory(prefix="kernels-") as name:
        status = subprocess.run(command(options, name), cwd=ROOT, check=False).returncode
        record(Path(name), options)
        return status


def command(options: argparse.Namespace, *arguments: str) -> list[str]:
    """What is run: the suites, with these arguments, unless something else was asked for."""
    if options.command:
        return [sys.executable if word == "python" else word for word in options.command]
    return [sys.executable, "-m", "scripts.kernels.suites", *arguments]


def record(directory: Path, options: argparse.Namespace) -> None:
    """Put what one kernel showed into the documents; another command than the suites shows nothing."""
    if not options.command:
        matrix.record(json.loads((directory / "results.json").read_text()), ROOT / "docs")


def follower(label: str) -> Callable[[str], None]:
    """Print output line by line, with the kernel in front."""
    rest = ""

    def follow(text: str) -> None:
        nonlocal rest
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            print(f"{label:>5} | {line}", flush=True)

    return follow


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.kernels",
        description="Run the conformance and tracker tests on other Linux kernels, and write the support matrix.",
    )
    parser.add_argument(
        "--kernel", action="append", default=[], metavar="SERIES", help="such as 6.1; repeatable"
    )
    parser.add_argument("--host", action="store_true", help="the kernel that runs here, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="guests at a time (%(default)s)")
    parser.add_argument("--cpus", type=int, default=1, help="of a guest (%(default)s)")
    parser.add_argument("--memory", type=int, default=3072, help="of a guest, MiB (%(default)s)")
    parser.add_argument("--limit", type=int, default=3600, help="for boot and command, seconds (%(default)s)")
    parser.add_argument("--append", default="", help="more kernel command line, transparent_hugepage=madvise")
    parser.add_argument("command", nargs="*", help="run this instead; `python` is the one running this")
    options = parser.parse_args()
    if not options.kernel and not options.host:
        parser.error("name a kernel (--kernel 6.12) or --host")
    return options


if __name__ == "__main__":
    sys.exit(main())
