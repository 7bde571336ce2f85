"""``writewatch record``: how it begins, how it ends, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.observe.trace.made_up import heap_page, writes
from tests.observe.watch.made_up import MadeUpTracker
from tests.tracker.process.targets import PAGE, Target
from writewatch.errors import AttachError, TraceError
from writewatch.observe import cli
from writewatch.observe.commands import record as record_module
from writewatch.observe.trace import files
from writewatch.observe.trace.blocks import Block, joined
from writewatch.observe.trace.reader import open_trace
from writewatch.observe.trace.writer import TraceWriter
from writewatch.observe.watch import loop
from writewatch.tracker.process import api, launching
from writewatch.tracker.process.writes import ProcessWrites

LONG = ("--interval", "3600")  # nothing waits: the made-up tracker's clock is its own


class Tracker(MadeUpTracker):
    """Made up, and told to do something at one of its waits."""

    def __init__(
        self, epochs: Iterable[ProcessWrites], at_wait: dict[int, Any] | None = None, **more: Any
    ) -> None:
        super().__init__(epochs, **more)
        self._at_wait = at_wait or {}

    def wait(self, timeout_s: float) -> bool:
        act = self._at_wait.get(len(self.waits))
        if act:
            act()
        # watch() waits in small parts as long as it can be stopped; the made-up clock needs no more than one.
        return super().wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "x.trace"


def attached(monkeypatch: pytest.MonkeyPatch, tracker: Tracker) -> Tracker:
    monkeypatch.setattr(api, "attach", lambda *_, **__: tracker)
    return tracker


def launched(monkeypatch: pytest.MonkeyPatch, tracker: Tracker) -> Tracker:
    monkeypatch.setattr(launching, "launch", lambda *_, **__: tracker)
    return tracker


def content(trace: Path) -> Block:
    return joined(list(open_trace(trace).blocks()))


def epochs(n: int) -> list[ProcessWrites]:
    return [writes(e, [heap_page(e)]) for e in range(n)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds follow each other at once: how long to wait is tested where the loop is."""
    real = loop.watch

    def watch(tracker: Any, interval_s: float, **more: Any) -> Any:
        clock = tracker.clock if isinstance(tracker, Tracker) else more.pop("clock", None)
        return real(tracker, interval_s, **(more | ({"clock": clock} if clock else {})))

    monkeypatch.setattr(record_module, "watch", watch)


def test_a_process_is_recorded_until_it_ends(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = attached(monkeypatch, Tracker(epochs(3)))
    assert cli.run(["record", "4711", "-o", str(trace)]) == 0
    assert content(trace).epochs["n_pages"].tolist() == [1, 1, 1]
    assert tracker.closed
    told = capsys.readouterr()
    assert told.out == ""
    assert "3 epochs" in told.err
    assert f"writewatch report {trace}" in told.err


def test_what_to_do_with_a_trace_can_be_pasted_into_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attached(monkeypatch, Tracker(epochs(1)))
    path = tmp_path / "my trace"
    assert cli.run(["record", "4711", "-o", str(path)]) == 0
    told = capsys.readouterr().err
    assert "(4.0 KiB/s, 1 epoch)" in told
    assert f"writewatch report '{path}' -o report.html" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well_and_the_last_writes_are_kept(
    trace: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    at = {20: lambda: signal.raise_signal(number)}
    tracker = attached(monkeypatch, Tracker(epochs(900), at))
    assert cli.run(["record", "4711", "-o", str(trace)]) == 0
    n_epochs = len(content(trace).epochs)
    assert 1 < n_epochs < 30
    assert tracker.collect().epoch == n_epochs
    assert signal.getsignal(number) == before
    assert open_trace(trace).damage == []


def test_json_is_one_object(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attached(monkeypatch, Tracker(epochs(3)))
    assert cli.run(["record", "4711", "-o", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["epochs"] == 3
    assert found["pages_written"] == 3
    assert found["bytes_written"] == 3 * 4096
    assert found["seconds"] == 3
    assert found["exact"] is True
    assert found["processes"] == [{"pid": 4711, "command": "made-up"}]
    assert found["trace_bytes"] == sum(file.stat().st_size for file in trace.iterdir())


def test_what_cannot_be_attached_to_leaves_no_trace(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(pid: int, **_: object) -> None:
        raise AttachError(f"no process {pid}", pid)

    monkeypatch.setattr(api, "attach", refuse)
    assert cli.run(["record", "4711", "-o", str(trace)]) == 1
    assert capsys.readouterr().err == "writewatch: no process 4711\n"
    assert not trace.exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name one process, or a program after --"),
        (["4711", "--", "true"], "name one process, or a program after --"),
        (["--"], "there is no program after --"),
        (["4711", "--max-size", "many"], "write it like 64MiB"),
        (["4711", "--max-size", "1k"], "give a larger --max-size"),
        (["4711", "--interval", "0"], "--interval"),
        (["4711", "--duration", "1s"], "'1s' is not a valid number"),
        (["no such process at all"], "no process is named"),
    ],
)
def test_misuse_is_one_sentence(
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    attached(monkeypatch, Tracker(epochs(3)))
    options = ["record", "-o", str(trace)]
    assert cli.run([*options, *words]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not trace.exists()


def test_a_trace_that_is_there_is_not_touched(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attached(monkeypatch, Tracker(epochs(2)))
    assert cli.run(["record", "4711", "-o", str(trace)]) == 0
    before = {file.name: file.read_bytes() for file in trace.iterdir()}
    attached(monkeypatch, Tracker(epochs(2)))
    assert cli.run(["record", "4711", "-o", str(trace)]) == 2
    assert {file.name: file.read_bytes() for file in trace.iterdir()} == before


@pytest.mark.parametrize(("status", "code"), [(0, 0), (3, 3), (-9, 137)])
def test_the_status_of_a_program_is_kept(
    trace: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    launched(monkeypatch, Tracker(epochs(2), exit_status=status))
    assert cli.run(["record", "-o", str(trace), "--", "true"]) == code
    assert len(content(trace).epochs) == 2


def test_a_trace_that_cannot_be_written_does_not_hurt_the_program(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise TraceError("the trace x cannot be written: No space left on device")

    launched(monkeypatch, Tracker(epochs(2), exit_status=5))
    monkeypatch.setattr(TraceWriter, "add", full)
    close = TraceWriter.close
    monkeypatch.setattr(TraceWriter, "close", lambda writer: full(close(writer)))  # nor room to finish it
    assert cli.run(["record", "-o", str(trace), "--", "true"]) == 5
    assert "recording ended: the trace x cannot be written" in capsys.readouterr().err


def test_a_program_with_options_of_its_own_keeps_them(trace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Ends when its first epoch is in the trace.
    code = (
        f"import os, sys; print(sys.argv[1:], flush=True)\n"
        f"while not os.path.getsize({str(files.open_path(trace, 1))!r}): pass\n"
        f"sys.exit(4)"
    )
    options = ["record", "-o", str(trace), "--no-follow-forks", "--interval", "0.05", "--"]
    assert cli.run([*options, sys.executable, "-c", code, "-o", "x", "--json", "--"]) == 4
    assert capfd.readouterr().out == "['-o', 'x', '--json', '--']\n"
    block = content(trace)
    assert len(block.epochs) >= 1
    assert block.events[-1].text == "ended; its last epoch holds all that it wrote to its end"


def test_a_program_that_ends_before_its_first_epoch_leaves_no_trace_and_that_is_said(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, Tracker([], exit_status=3))
    assert cli.run(["record", "-o", str(trace), "--", "true"]) == 3
    assert "ended before its first epoch" in capsys.readouterr().err
    assert not trace.exists()


def test_a_running_process_is_recorded_page_by_page(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Target() as target:
        at = target.memory(64)
        target.run("import gc")
        real = loop.watch

        def watch(tracker: Any, interval_s: float, **more: Any) -> Any:
            for round_ in real(tracker, interval_s, **more):
                yield round_
                target.run(f"poke({at}, {len(seen)}, {len(seen) + 32})")
                seen.append(len(seen))
                if len(seen) == 4:
                    os.kill(os.getpid(), signal.SIGINT)

        seen: list[int] = []
        monkeypatch.setattr(record_module, "watch", watch)
        assert (
            cli.run(["record", str(target.pid), "-o", str(trace), "--interval", "0.01", "--budget", "1"]) == 0
        )
    block = content(trace)
    found: list[set[int]] = [set() for _ in block.epochs]
    for one in block.ranges:
        found[one["epoch"]].update(range(one["start"], one["end"]))
    first = at // PAGE
    own = [sorted(page - first for page in pages if first <= page < first + 64) for pages in found]
    assert own[1:] == [[n, n + 32] for n in range(4)]
