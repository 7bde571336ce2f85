"""``writewatch report``: a trace as one page, a picture, or figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from writewatch.errors import TraceError, UsageError
from writewatch.observe.report.findings import Findings, as_values
from writewatch.observe.report.survey import survey
from writewatch.observe.trace.finishing import finish_trace
from writewatch.observe.trace.reader import Trace, open_trace

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=_FILE, metavar="HTML", help="One self-contained page.")
@click.option("--png", type=_FILE, metavar="FILE", help="The heatmap as PNG (needs matplotlib).")
@click.option("--svg", type=_FILE, metavar="FILE", help="The heatmap as SVG (needs matplotlib).")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.option("--finish", is_flag=True, help="First finish a recording that was cut off: Parquet alone.")
def report(
    trace: Path, output: Path | None, png: Path | None, svg: Path | None, as_json: bool, finish: bool
) -> None:
    """Show what a TRACE holds: where and when was written, how fast, how much again and again.

    The page needs no network and no program but a browser. What of a trace cannot be read is said, and the rest
    is shown.
    """
    shows = bool(output or png or svg or as_json)
    if not (shows or finish):
        raise UsageError("say what to make: -o report.html, --png, --svg, --json or --finish")
    if finish:
        click.echo(f"writewatch: {_finished(finish_trace(trace))}", err=True)
    if shows:
        _show(trace, output, png, svg, as_json)


def _finished(n_epochs: int) -> str:
    if not n_epochs:
        return "every epoch of the trace was in Parquet already"
    last = "last epoch is" if n_epochs == 1 else f"last {n_epochs:,} epochs are"
    return f"the recording was cut off; its {last} in Parquet now"


def _show(trace: Path, output: Path | None, png: Path | None, svg: Path | None, as_json: bool) -> None:
    opened = open_trace(trace)
    with _progress(opened) as step:
        findings = survey(opened, step)
    for sentence in findings.damage:
        click.echo(f"writewatch: {sentence}", err=True)
    if as_json:  # first: a trace without writes has figures, but no picture
        click.echo(json.dumps(as_values(findings), indent=2))
    _write(findings, output, png, svg)


def _write(findings: Findings, output: Path | None, png: Path | None, svg: Path | None) -> None:
    if output:
        from writewatch.observe.report.page import page

        with _writing(output) as path:
            path.write_text(page(findings), encoding="utf-8")
    for picture, kind in ((png, "png"), (svg, "svg")):
        if picture:
            from writewatch.observe.report.picture import draw

            with _writing(picture) as path:
                draw(findings, path, kind)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Gives the file to write; what was there before stays until all of it is written. A device is written itself."""
    is_special = path.exists() and not path.is_file()
    unfinished = path if is_special else path.with_name(f"{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise TraceError(f"the report cannot be written: {path}: {error.strerror or error}") from error
    finally:
        if not is_special:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _progress(trace: Trace) -> Iterator[Callable[[], None]]:
    """A bar on stderr while it runs, where somebody can see it; gives the function that advances it."""
    console = Console(stderr=True)
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the trace", total=2 * trace.n_segments)
        yield lambda: bar.advance(task)
