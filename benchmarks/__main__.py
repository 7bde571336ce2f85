"""``python -m benchmarks``: measure, print the tables, write JSON, and say which budgets hold.

The exit status is 0 whatever the figures are: a busy machine is not an error. It is 1 when a measurement
failed, which includes a report that does not hold the pages that were written.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.plan import FULL, QUICK, TINY, Plan
from benchmarks.report import as_tables, as_values
from benchmarks.run import Results, Run

_WIDTH: Final = 150


def main(arguments: list[str] | None = None) -> int:
    """Run the plan that the command line names."""
    options = _options(arguments)
    results = _execute(options.plan)
    path = _write(results, options.output)
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)  # a table that is cut says nothing
    for part in as_tables(results):
        console.print(part)
    print(f"\n{path}")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    plans = parser.add_mutually_exclusive_group()
    plans.add_argument(
        "--full",
        dest="plan",
        action="store_const",
        const=FULL,
        help="up to 4 GiB, more runs: several minutes",
    )
    plans.add_argument(
        "--tiny",
        dest="plan",
        action="store_const",
        const=TINY,
        help="show that it runs; the figures mean nothing",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name("results"), help="directory for the JSON file"
    )
    parser.set_defaults(plan=QUICK)
    return parser.parse_args(arguments)


def _execute(plan: Plan) -> Results:
    run = Run(plan)
    steps = list(run.steps())
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(steps))
        for name, step in steps:
            bar.update(task, description=name)
            step()
            bar.advance(task)
    return run.results


def _write(results: Results, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(as_values(results), indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
