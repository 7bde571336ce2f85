"""``writewatch doctor``: try everything, say what works, and for the rest why not and what to do."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Final

import click
from rich.console import Console

from writewatch.kernel.probe import capabilities
from writewatch.observe.reporters.doctor import Diagnosis, as_text, as_values
from writewatch.tracker.select import ranking

_WIDTH: Final = 60


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def doctor(as_json: bool) -> None:
    """What works here, which backend would be used, and why not a better one.

    Everything is tried, nothing is changed. WRITEWATCH_HIDE=NAME,... hides features, so that a new
    kernel looks old.
    """
    found = capabilities()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    diagnosis = Diagnosis(version("writewatch"), python, found, ranking(found))
    if as_json:
        click.echo(json.dumps(as_values(diagnosis), indent=2))
    else:
        console = Console(highlight=False)
        console.width = max(console.width, _WIDTH)  # a table that is cut says nothing
        console.print(as_text(diagnosis))
