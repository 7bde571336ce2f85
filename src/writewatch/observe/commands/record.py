"""``writewatch record``: what a process writes, into a trace."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

import click

from writewatch.errors import UsageError, WriteWatchError
from writewatch.observe.commands.numbers import Number
from writewatch.observe.reporters.record import progress_line, sentence, values
from writewatch.observe.trace.schema import described
from writewatch.observe.trace.tally import Tally
from writewatch.observe.trace.writer import DEFAULT_BYTES, TraceWriter
from writewatch.observe.watch.face import Watched
from writewatch.observe.watch.finding import find_process
from writewatch.observe.watch.loop import collect_all, watch
from writewatch.observe.watch.opening import launch_program, wait_for_exit
from writewatch.observe.watch.recording import beside_a_program
from writewatch.observe.watch.signals import passing_signals_on
from writewatch.tracker.process.printing import printable
from writewatch.tracker.process.writes import ProcessWrites

_UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE: Final = re.compile(r"(\d+)\s*([kmg])(?:i?b)?", re.IGNORECASE)


def _bytes(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size; write it like 64MiB or 1GiB.")
    return int(found[1]) * _UNITS[found[2].lower()]


class _WithProgram(click.Command):
    """A command whose words after ``--`` are a program to run, and no words of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the program off before click sees the words."""
        program: list[str] = []
        if "--" in args:
            at = args.index("--")
            args, program = args[:at], args[at + 1 :]
            if not program:
                raise UsageError("there is no program after --; name one, as in: -- python job.py")
        ctx.obj = tuple(program)
        return super().parse_args(ctx, args)


@click.command(cls=_WithProgram, options_metavar="-o TRACE [OPTIONS]")
@click.argument("process", metavar="PID|NAME|-- CMD …", required=False)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="TRACE")
@click.option("--interval", type=Number(0.01, 3600), default=1.0, show_default=True, metavar="S")
@click.option("--duration", type=Number(min=0.01), metavar="S", help="Stop recording after so long.")
@click.option(
    "--max-size", callback=_bytes, default=f"{DEFAULT_BYTES >> 20}MiB", show_default=True, metavar="SIZE",
    help="Bound on the trace: what is older gets coarser.",
)  # fmt: skip
@click.option(
    "--follow-forks/--no-follow-forks", default=True, show_default=True, help="Record children too."
)
@click.option("--budget", type=Number(0.001, 1), default=0.05, show_default=True, metavar="SHARE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.pass_context
def record(
    context: click.Context,
    process: str | None,
    output: Path,
    interval: float,
    duration: float | None,
    max_size: int,
    follow_forks: bool,
    budget: float,
    as_json: bool,
) -> None:
    """Record what a process writes into TRACE, a directory of Parquet files.

    A running process is recorded until it ends or Ctrl-C; it runs on as before. A CMD is run, with its input and
    output untouched, and recorded until it ends; its exit status is kept, and what is said at the end goes to
    standard error. Killed at the worst moment, the trace keeps every finished epoch.

    Watching costs the process at most SHARE of one core: intervals get longer where it writes much.
    """
    program: tuple[str, ...] = context.obj
    if bool(process) == bool(program):
        raise UsageError("name one process, or a program after --; see writewatch record --help")
    wish = _Wish(output, interval, duration, max_size, follow_forks, budget, as_json)
    if program:
        context.exit(_of_program(program, wish))
    _of_process(find_process(str(process)), wish)


@dataclass(frozen=True, slots=True)
class _Wish:
    """The options."""

    output: Path
    interval_s: float
    duration_s: float | None
    max_bytes: int
    follow_forks: bool
    budget: float
    as_json: bool

    def writer(self, target: str) -> TraceWriter:
        return TraceWriter(self.output, described(target, self.interval_s, self.max_bytes))


def _of_process(pid: int, wish: _Wish) -> None:
    """Record a running process until it ends, or a signal or the clock says stop."""
    from writewatch.tracker.process.api import attach
    from writewatch.tracker.process.procfiles import command_of

    target = f"{command_of(pid) or 'process'} ({pid})"
    tally = Tally()
    with ExitStack() as stack:
        stopped = stack.enter_context(_stopping(wish.duration_s))
        writer = stack.enter_context(wish.writer(target))
        tracker = attach(pid, follow_forks=wish.follow_forks, follow_exec=True, budget=wish.budget)
        stack.enter_context(tracker)
        _recorded(tracker, writer, tally, wish, stopped, _progress(target, tally, writer))
    _tell(target, tally, wish, sys.stdout if wish.as_json else sys.stderr)


def _of_program(program: tuple[str, ...], wish: _Wish) -> int:
    """Run and record a program; its exit status, as a shell would have it."""
    target = printable(shlex.join(program))
    tally = Tally()
    with ExitStack() as stack:
        writer = stack.enter_context(beside_a_program(wish.writer(target)))
        signals = stack.enter_context(passing_signals_on())
        tracker = launch_program(program, follow_forks=wish.follow_forks, budget=wish.budget)
        stack.callback(tracker.close)
        signals.is_process(tracker.pid)
        try:
            _recorded(tracker, writer, tally, wish, _deadline(wish.duration_s), lambda: None)
            writer.close()
        except (WriteWatchError, OSError) as error:
            # Whatever happens to the recording, the program runs on and its status is what counts.
            click.echo(f"writewatch: recording ended: {error}; the program runs on", err=True)
        # Nothing is collected any more, so no page costs the program more than one fault from here.
        status = wait_for_exit(tracker)
    _tell(target, tally, wish, sys.stderr)
    return 128 - status if status < 0 else status


def _recorded(
    tracker: Watched,
    writer: TraceWriter,
    tally: Tally,
    wish: _Wish,
    stopped: Callable[[], bool],
    progress: Callable[[], None],
) -> None:
    """Round after round into the trace; when it is stopped, what was written since the last one too."""

    def add(round_: tuple[ProcessWrites, ...]) -> None:
        writer.add(round_)
        tally.add(round_)
        progress()

    for round_ in watch(tracker, wish.interval_s, stopped=stopped):
        add(round_)
    if tracker.state == "running":
        add(collect_all(tracker))
    else:
        writer.add(())  # it has ended


def _deadline(duration_s: float | None) -> Callable[[], bool]:
    end = math.inf if duration_s is None else time.monotonic() + duration_s
    return lambda: time.monotonic() >= end


@contextmanager
def _stopping(duration_s: float | None) -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM only make the function that is given answer True, and so does the clock."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    is_over = _deadline(duration_s)
    try:
        yield lambda: bool(asked) or is_over()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(target: str, tally: Tally, writer: TraceWriter) -> Callable[[], None]:
    """Writes one line over and over, where somebody can see it."""
    if not sys.stderr.isatty():
        return lambda: None

    def progress() -> None:
        line = progress_line(target, tally, writer.size)
        sys.stderr.write(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()

    return progress


def _tell(target: str, tally: Tally, wish: _Wish, stream: TextIO) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K")
    n_bytes = sum(path.stat().st_size for path in wish.output.glob("*"))
    if wish.as_json:
        click.echo(json.dumps(values(target, wish.output, tally, n_bytes)), file=stream)
    else:
        click.echo(sentence(target, wish.output, tally, n_bytes), file=stream)
