"""``writewatch bench``: this machine's figures, beside C and beside other ways to find changed memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from writewatch.observe.benchmark.run import N_STEPS, fitting_bytes, measure
from writewatch.observe.reporters.bench import as_tables, as_values, size

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE: Final = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_WIDTH: Final = 80
_LEAST_BYTES: Final = 1 << 20


def _bytes(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size; write it like 256MiB or 1GiB.")
    n_bytes = int(found[1]) * _UNITS[found[2].lower()]
    if n_bytes < _LEAST_BYTES:
        raise click.BadParameter(f"{value} is too little to measure on; ask for 1MiB or more.")
    return n_bytes


@click.command()
@click.option("--size", "wanted", callback=_bytes, default="1GiB", show_default=True, help="Memory to track.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def bench(wanted: int, as_json: bool) -> None:
    """Measure this machine: collect and is_clean beside C, and what other ways cost.

    Takes about ten seconds. Without a C compiler, or where the kernel lacks asynchronous
    write-protection, it says so and shows what remains.
    """
    n_bytes = fitting_bytes(wanted)
    with _progress() as step:
        report = measure(n_bytes, step)
    if as_json:
        click.echo(json.dumps(as_values(report), indent=2))
        return
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)  # a table that is cut says nothing
    for part in as_tables(report):
        console.print(part)
    if n_bytes < wanted:
        console.print(
            f"Measured {size(n_bytes)}: {size(wanted)} and a copy do not fit into this machine's free memory."
        )


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A bar on stderr while it runs, where somebody can see it; gives the function that advances it."""
    console = Console(stderr=True)
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=N_STEPS)
        started = iter(range(N_STEPS))

        def step(what: str) -> None:
            bar.update(task, completed=next(started), description=what)

        yield step
