"""``writewatch report``: what it makes, and what it says when it cannot."""

from __future__ import annotations

import builtins
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.observe.trace.made_up import heap_page, meta, writes
from writewatch.observe import cli
from writewatch.observe.trace import files
from writewatch.observe.trace.writer import TraceWriter


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "x.trace"
    with TraceWriter(path, meta(), 0) as writer:
        for epoch in range(130):
            writer.add([writes(epoch, [heap_page(epoch)])])
    return path


def test_it_writes_a_page_a_picture_and_the_figures(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, svg = tmp_path / "report.html", tmp_path / "heat.svg"
    assert cli.run(["report", str(trace), "-o", str(page), "--svg", str(svg), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["pages_written"] == 130
    assert told.err == ""
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "<svg" in svg.read_text(encoding="utf-8")


def test_a_trace_that_was_cut_is_shown_and_what_is_missing_is_said(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.segment_path(trace, 2).unlink()
    page = tmp_path / "report.html"
    assert cli.run(["report", str(trace), "-o", str(page)]) == 0
    assert capsys.readouterr().err == "writewatch: segment 2 is missing; its epochs are left out\n"
    assert "Segment 2 is missing; its epochs are left out." in page.read_text(encoding="utf-8")


def test_a_recording_that_was_cut_off_is_finished_first(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trace / "_segment-000004.parquet.unfinished").write_bytes(b"PAR1 half")
    assert cli.run(["report", str(trace), "--finish"]) == 0
    assert capsys.readouterr().err == "writewatch: every epoch of the trace was in Parquet already\n"
    assert len(list(trace.iterdir())) == 3


def test_a_recording_of_one_epoch_that_was_cut_off_is_told_in_the_singular(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.trace"
    with TraceWriter(path, meta(), 0) as writer:
        writer.add([writes(0, [heap_page(0)])])
        stream = files.open_path(path, 1).read_bytes()
    files.segment_path(path, 1).unlink()
    files.open_path(path, 1).write_bytes(stream)
    page = tmp_path / "report.html"
    assert cli.run(["report", str(path), "--finish", "-o", str(page)]) == 0
    expected = "writewatch: the recording was cut off; its last epoch is in Parquet now\n"
    assert capsys.readouterr().err == expected
    assert " UTC, 1 epoch, 4 KiB pages" in page.read_text(encoding="utf-8")


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / os.fsdecode(b"tr\xffce")
    with TraceWriter(path, meta(), 0) as writer:
        writer.add([writes(0, [heap_page(0)])])
    page = tmp_path / os.fsdecode(b"report\xff.html")
    assert cli.run(["report", str(path), "--json", "-o", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["pages_written"] == 1
    assert page.exists()


def test_a_trace_without_writes_has_figures_but_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    path = tmp_path / "idle.trace"
    with TraceWriter(path, meta(), 0) as writer:
        writer.add([writes(0)])
    assert cli.run(["report", str(path), "--json", "--png", str(tmp_path / "x.png")]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["pages_written"] == 0
    assert told.err == "writewatch: nothing was written in this trace, so there is no picture of it\n"


def test_what_to_make_must_be_said(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(trace)]) == 2
    assert "-o report.html" in capsys.readouterr().err


def test_no_trace_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(tmp_path / "none"), "--json"]) == 1
    told = capsys.readouterr().err
    assert "there is no trace" in told
    assert told.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_sentence(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["report", str(trace), "-o", str(tmp_path / "no" / "x.html")]) == 1
    missing = tmp_path / "no" / "x.html"
    expected = f"writewatch: the report cannot be written: {missing}: No such file or directory\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("option", ["-o", "--png", "--svg"])
def test_a_full_disk_is_one_sentence_that_names_the_file(
    trace: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert cli.run(["report", str(trace), option, "/dev/full"]) == 1
    expected = "writewatch: the report cannot be written: /dev/full: No space left on device\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("package", "options", "sentence"),
    [
        ("pyarrow", ["--json"], 'traces need pyarrow; install it with: pip install "writewatch[trace]"'),
        (
            "matplotlib",
            ["--png", "x.png"],
            'pictures need matplotlib; install it with: pip install "writewatch[plot]"',
        ),
    ],
)
def test_without_a_package_it_says_how_to_install_it(
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    options: list[str],
    sentence: str,
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.run(["report", str(trace), *options]) == 1
    assert capsys.readouterr().err == f"writewatch: {sentence}\n"


def test_a_report_that_cannot_be_written_leaves_the_one_that_was_there(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("before")

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert cli.run(["report", str(trace), "-o", str(page)]) == 1
    assert "report.html: No space left on device" in capsys.readouterr().err
    assert page.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir() if "report" in one.name] == ["report.html"]
