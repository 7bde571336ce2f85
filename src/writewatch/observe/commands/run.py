"""``writewatch run``: a program as it would run anyway, and what it writes, on standard error."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import click

from writewatch.errors import WriteWatchError
from writewatch.observe.commands.numbers import Number
from writewatch.observe.watch.book import Book
from writewatch.observe.watch.loop import watch
from writewatch.observe.watch.opening import Started, launch_program, wait_for_exit
from writewatch.observe.watch.recording import Recorder, UntilItFails, recording
from writewatch.observe.watch.signals import Recipient, passing_signals_on
from writewatch.observe.watch.telling import Teller, teller
from writewatch.tracker.process.printing import printable


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--interval", type=Number(0.01, 3600), default=1.0, show_default=True, metavar="S")
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of text: start, epochs, summary.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="Tell it there, not on stderr.")
@click.option("--quiet", is_flag=True, help="Only the summary.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="TRACE", help="Record a trace as well."
)
@click.option("--follow-forks/--no-follow-forks", default=True, show_default=True, help="Watch children too.")
@click.option("--budget", type=Number(0.001, 1), default=0.05, show_default=True, metavar="SHARE")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] CMD …")
@click.pass_context
def run(
    context: click.Context,
    interval: float,
    as_json: bool,
    log: Path | None,
    quiet: bool,
    output: Path | None,
    follow_forks: bool,
    budget: float,
    command: tuple[str, ...],
) -> None:
    """Run CMD and show what it writes, by mapping: a line every S seconds, and a summary at the end.

    The program's input and output are its own; the lines go to standard error, where they begin with
    "ww". Signals behave as if the shell had started the program, and its exit status is kept: 128 and the
    number of the signal when one ended it, 127 when there is no such program, 126 when it cannot be run.

    Watching costs the program at most SHARE of one core: intervals get longer where it writes much. While
    children are followed, a debugger cannot attach to the program.
    """
    with ExitStack() as stack:
        told = stack.enter_context(_opened(log))
        tell = teller(told, as_json=as_json, quiet=quiet)
        recorder = stack.enter_context(recording(output, printable(shlex.join(command)), interval))
        signals = stack.enter_context(passing_signals_on())
        tracker = launch_program(command, follow_forks=follow_forks, budget=budget)
        stack.callback(tracker.close)
        status = _watched(tracker, interval, signals, tell, UntilItFails(recorder, tell.problem))
    context.exit(128 - status if status < 0 else status)


def _watched(tracker: Started, interval: float, signals: Recipient, tell: Teller, recorder: Recorder) -> int:
    """Watch a program to its end; its status, as ``subprocess`` has it."""
    signals.is_process(tracker.pid)
    book = Book()
    tell.start(tracker)
    try:
        for round_ in watch(tracker, interval):
            book.add(round_)
            recorder.add(round_)
            tell.epoch(round_, tracker)
        recorder.add(())  # they have ended, or are not watched any more
    except (WriteWatchError, OSError) as error:
        # Whatever happens to the watching, the program runs on and its status is what counts.
        tell.problem(f"watching ended: {error}; the program runs on")
    status = wait_for_exit(tracker)
    unseen_ns = book.unseen_since_ns(tracker.pid)
    tell.summary(book, status, (time.monotonic_ns() - unseen_ns) / 1e9 if unseen_ns else 0.0)
    return status


@contextmanager
def _opened(log: Path | None) -> Iterator[TextIO]:
    if log is None:
        yield sys.stderr
        return
    file = log.open("w", encoding="utf-8")
    try:
        yield file
    finally:
        try:
            file.close()
        except OSError as error:
            # What the program ended with counts all the same.
            click.echo(f"writewatch: the log {log} is not complete: {error.strerror}", err=True)
