"""The report of ``writewatch simulate``: step by step for people, one object for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich.text import Text

from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import category_names
from writewatch.model.counters import Counters
from writewatch.model.machine import Settings
from writewatch.observe.simulate import words
from writewatch.observe.simulate.outcome import Outcome
from writewatch.observe.simulate.places import Places
from writewatch.observe.simulate.replay import Difference, StepReport, Tally
from writewatch.observe.simulate.tables import Change, Row

_MARKS: Final[dict[Change, str]] = {"same": " ", "new": "+", "gone": "-", "changed": "*"}
_STYLES: Final[dict[Change, str]] = {
    "same": "dim",
    "new": "green",
    "gone": "red",
    "changed": "bold yellow",
}
_MOST_ROWS: Final = 60
_FAULT_FLAGS: Final = {
    uf.UFFD_PAGEFAULT_FLAG_WRITE: "write",
    uf.UFFD_PAGEFAULT_FLAG_WP: "wp",
    uf.UFFD_PAGEFAULT_FLAG_MINOR: "minor",
}


# ---- values in words -----------------------------------------------------------------------------


def spell(outcome: Outcome, places: Places) -> str:
    """An outcome in one line."""
    if outcome.kind == "signal":
        return f"{outcome.value}: the process ends"
    if outcome.kind == "waits":
        return "waits for a userfaultfd; the script goes on"
    if outcome.kind == "never returns":
        return "never returns: the process is ended"
    if outcome.kind == "not run":
        return "not run: the process has ended"
    if outcome.kind == "errno":
        return str(outcome.value)
    return ", ".join(["ok", *_facts(outcome.value, places)])


def _facts(value: Any, places: Places) -> Iterator[str]:
    """What an operation returned."""
    for name, item in (value or {}).items():
        if name == "regions":
            regions = (f"{places.spell(start, end)} {' '.join(category_names(c))}" for start, end, c in item)
            yield "; ".join(regions) or "no region"
        elif name == "walk_end":
            yield f"walked to {places.spell(item)}"
        elif name == "messages":
            yield "; ".join(_message(one, places) for one in item)
        elif name == "ioctls":
            names = (
                one[0].removeprefix("UFFDIO_") for r, one in uf.UFFDIO_CALLS.items() if item >> (r & 63) & 1
            )
            yield f"allows {' '.join(names)}"
        elif name == "errno":
            yield from [item] if item else []
        else:
            yield f"{name} = {item!r}"


def _message(message: tuple[int, int, int, int], places: Places) -> str:
    event, first, second, third = message
    name = words.EVENTS.get(event, f"event {event:#x}")
    if event == uf.UFFD_EVENT_PAGEFAULT:
        flags = [flag_name for flag, flag_name in _FAULT_FLAGS.items() if first & flag]
        return f"{name} at {places.spell(second)}, {' '.join(flags) or 'read'}"
    if event == uf.UFFD_EVENT_REMAP:
        return f"{name} {places.spell(first, first + third)} to {places.spell(second, second + third)}"
    return name if event == uf.UFFD_EVENT_FORK else f"{name} {places.spell(first, second)}"


# ---- for people ----------------------------------------------------------------------------------


def heading(settings: Settings, compared: bool) -> Text:
    """What the script runs on."""
    sizes = f"pages of {settings.page_size >> 10} KiB, huge pages of {settings.huge_page_size >> 20} MiB"
    return Text(f"The model of Linux 6.18{' and this kernel' if compared else ''}: {sizes}.")


def step_as_text(report: StepReport, places: Places, *, compared: bool) -> Text:
    """One step: its line, what came of it, the page tables, and how the running kernel differs."""
    text = Text("\n")
    where = "" if report.step.process == "main" else f" (in {report.step.process})"
    text.append(f"line {report.step.number}: {report.step.text}{where}\n", "bold")
    faults = f", {_count(report.n_faults, 'page fault')}" if report.n_faults else ""
    text.append(f"  {spell(report.outcome, places)}{faults}\n")
    for number, outcome in report.resumed:
        text.append(f"  line {number} goes on: {spell(outcome, places)}\n")
    for name, rows in report.tables.items():
        text.append_text(_picture(name, rows, places))
    for difference in report.differences:
        text.append_text(_difference(difference, places))
    if report.n_old_differences:
        text.append("  this kernel: different as before\n", "red")
    elif compared and not report.differences:
        text.append("  this kernel: the same\n", "green")
    text.rstrip()
    return text


def _picture(process: str, rows: tuple[Row, ...], places: Places) -> Text:
    if all(row.change == "same" for row in rows):
        return Text(f"  {process}: page tables as before\n", "dim")
    text = Text(f"  {process}:\n")
    names = [places.spell(row.start, row.end) for row in rows[:_MOST_ROWS]]
    width = max(map(len, names))
    for name, row in zip(names, rows, strict=False):
        text.append(f"  {_MARKS[row.change]} {name:{width}}  {row.text}\n", _STYLES[row.change])
    if len(rows) > _MOST_ROWS:
        text.append(f"    … and {_count(len(rows) - _MOST_ROWS, 'more line')}; --json has them all\n", "dim")
    return text


def _difference(difference: Difference, places: Places) -> Text:
    text = Text(f"  DIFFERENT, {difference.what}\n", "bold red")
    text.append(f"    model: {_side(difference.model, places)}\n", "red")
    text.append(f"    linux: {_side(difference.linux, places)}\n", "red")
    return text


def _side(value: Any, places: Places) -> str:
    if isinstance(value, Outcome):
        return spell(value, places)
    parts = (_run(one, places) if isinstance(one, tuple) else str(one) for one in value)
    return "; ".join(parts) or "nothing of the kind"


def _run(one: tuple[Any, ...], places: Places) -> str:
    if isinstance(one[1], Outcome):
        return f"line {one[0]} {spell(one[1], places)}"
    start, end, what = one
    return f"{places.spell(start, end)} {what if isinstance(what, str) else f'{what:#x}'}"


def tally_as_text(tally: Tally) -> Text:
    """The end of a report: counters, estimated costs, and the verdict."""
    text = Text("\nCounters of the model\n", "bold")
    for name, value in _counted(tally.counters).items():
        text.append(f"  {name:24} {value:>8}\n", "")
    if tally.costs is not None:
        text.append("Estimated cost of tracking, from measured prices\n", "bold")
        for method, nanoseconds in tally.costs.items():
            text.append(f"  {method:24} {nanoseconds / 1000:>8.1f} µs\n", "")
    if tally.compared:
        verdict = f"{_count(tally.n_differences, 'difference')} from this kernel"
        text.append(f"{verdict}\n", "bold red" if tally.n_differences else "bold green")
    text.rstrip()
    return text


def _counted(counters: Counters) -> dict[str, int]:
    return {
        **{f"fault {kind}": n for kind, n in sorted(counters.faults.items())},
        **{name: n for name, n in sorted(counters.events.items()) if n},
        "TLB flushes": counters.flushes,
        "pages in them": counters.flushed_pages,
        **{f"{lock} {how}": n for (lock, how), n in sorted(counters.locks.items())},
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- for machines --------------------------------------------------------------------------------


def as_values(steps: list[StepReport], tally: Tally) -> dict[str, Any]:
    """A run as plain values. Keys are stable; new ones may come. Addresses are numbers, ranges half-open."""
    return {
        "steps": [_step_values(step) for step in steps],
        "counters": _counted(tally.counters),
        "cost_ns": tally.costs,
        "compared": tally.compared,
        "differences": tally.n_differences,
    }


def _step_values(report: StepReport) -> dict[str, Any]:
    return {
        "line": report.step.number,
        "text": report.step.text,
        "process": report.step.process,
        "outcome": _outcome_values(report.outcome),
        "resumed": [{"line": number, **_outcome_values(outcome)} for number, outcome in report.resumed],
        "faults": report.n_faults,
        "tables": {
            name: [
                {"change": row.change, "text": row.text, "start": row.start, "end": row.end} for row in rows
            ]
            for name, rows in report.tables.items()
        },
        "differences": [
            {"what": one.what, "model": _plain(one.model), "linux": _plain(one.linux)}
            for one in report.differences
        ],
        "old_differences": report.n_old_differences,
    }


def _outcome_values(outcome: Outcome) -> dict[str, Any]:
    return {"kind": outcome.kind, "value": outcome.value}


def _plain(value: Any) -> Any:
    if isinstance(value, Outcome):
        return _outcome_values(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
