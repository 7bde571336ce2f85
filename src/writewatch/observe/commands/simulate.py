"""``writewatch simulate``: a script of operations on the model, step by step, and beside it on this kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from writewatch.errors import UsageError
from writewatch.observe.reporters.simulate import as_values, heading, step_as_text, tally_as_text
from writewatch.observe.simulate import language
from writewatch.observe.simulate.replay import Replay

_DIFFERENT: Final = 1


class _WithGrammar(click.Command):
    """A command whose help ends with the language of scripts, as it is."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The grammar is the docstring of ``language.py``."""
        formatter.write("\n" + (language.__doc__ or "").replace("``", "").replace("::\n\n", ""))


@click.command(cls=_WithGrammar)
@click.argument("script", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@click.option("--against-kernel", is_flag=True, help="Run it on this kernel too, and compare step by step.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_context
def simulate(context: click.Context, script: Path, against_kernel: bool, as_json: bool) -> None:
    """Replay a SCRIPT of operations on the model of Linux; "-" reads it from stdin.

    Shows what came of each line and what it did to the page tables, and at the end counters and what
    tracking would have cost. Nothing but the model is needed, unless --against-kernel runs the
    same in child processes of this kernel and compares results, messages, mappings, pagemap, scans and content.

    Exit code 0: it ran, and this kernel did the same. 1: it differs. 2: the script cannot be understood.
    """
    replay = Replay(_text(script), against_kernel=against_kernel)
    if as_json:
        steps = list(replay.run())
        click.echo(json.dumps(as_values(steps, replay.tally()), indent=2))
    else:
        _tell(replay, against_kernel)
    if replay.tally().n_differences:
        context.exit(_DIFFERENT)


def _tell(replay: Replay, compared: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(heading(replay.settings, compared))
    for report in replay.run():
        console.print(step_as_text(report, replay.places, compared=compared))
    console.print(tally_as_text(replay.tally()))


def _text(script: Path) -> str:
    try:
        with click.open_file(str(script), encoding="utf-8") as file:
            text: str = file.read()
            return text
    except OSError as failure:
        raise UsageError(f"{script} cannot be read: {failure.strerror}; name a script") from failure
    except UnicodeDecodeError as failure:
        raise UsageError(f"{script} is no text in UTF-8; name a script") from failure
