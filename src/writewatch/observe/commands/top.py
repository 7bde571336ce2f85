"""``writewatch top``: what a running process writes, live; or one epoch of it, for scripts."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from writewatch.errors import UsageError
from writewatch.observe.commands.numbers import Number
from writewatch.observe.reporters.summary import Ending, summary
from writewatch.observe.reporters.values import process_values
from writewatch.observe.watch.book import Book
from writewatch.observe.watch.finding import find_process
from writewatch.observe.watch.loop import collect_all, cost_share, period_s


@click.command()
@click.argument("process", metavar="PID|NAME")
@click.option("--interval", type=Number(0.05, 3600), default=1.0, show_default=True, metavar="S")
@click.option("--once", is_flag=True, help="Watch one interval, print what was written, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: one JSON object.")
@click.option("--follow-forks/--no-follow-forks", default=True, show_default=True, help="Watch children too.")
@click.option("--budget", type=Number(0.001, 1), default=0.05, show_default=True, metavar="SHARE")
@click.option("--ascii", "is_plain", is_flag=True, help="No other signs than ASCII.")
def top(
    process: str,
    interval: float,
    once: bool,
    as_json: bool,
    follow_forks: bool,
    budget: float,
    is_plain: bool,
) -> None:
    """Watch a process: which mappings it writes how fast, and where in them. Press ? for help.

    One of its threads is stopped for about half a millisecond; then it runs as before, and watching costs
    it at most SHARE of one core: intervals get longer where it writes much. When it ends, the last picture
    stays.
    """
    from writewatch.tracker.process.api import attach

    if as_json and not once:
        raise UsageError("a live screen is not JSON; give --once as well, or use writewatch run --json")
    if not once and not sys.stdout.isatty():
        raise UsageError(
            "a live screen needs a terminal; for scripts there is --once, with --json or without"
        )
    pid = find_process(process)
    with attach(pid, follow_forks=follow_forks, follow_exec=True, budget=budget) as tracker:
        if once:
            _once(tracker, interval, as_json)
        else:
            _live(tracker, interval, is_plain)


def _once(tracker: Any, interval: float, as_json: bool) -> None:
    ended = tracker.wait(period_s(tracker, interval))
    book = Book()
    round_ = collect_all(tracker)
    book.add(round_)
    if as_json:
        values = {
            "interval_s": interval,
            "cost_share": round(cost_share(tracker, round_), 6),
            "ended": ended,
            "processes": [process_values(one) for one in book.figures()],
        }
        click.echo(json.dumps(values, indent=2))
        return
    click.echo("\n".join(summary(book.figures(), Ending("has ended" if ended else "runs on"))).strip("\n"))


def _live(tracker: Any, interval: float, is_plain: bool) -> None:
    from writewatch.observe.reporters.screen import ASCII
    from writewatch.observe.top.app import Top, glyphs_here
    from writewatch.observe.top.feed import Feed
    from writewatch.observe.top.view import View

    view = View(tracker.pid)
    feed = Feed(tracker, interval)
    app = Top(view, feed, ASCII if is_plain else glyphs_here())
    app.run()
    if app.return_code:
        click.get_current_context().exit(app.return_code)
    if feed.error is not None:
        raise feed.error
    if view.ended:
        click.echo(view.ended)
