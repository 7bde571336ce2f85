"""A recorder that is killed, files that are cut, foreign or newer: what is whole is read, and the rest is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.observe.trace.made_up import LIBRARY, MAPPINGS, PAGE, heap_page, mapping, meta, writes
from tests.observe.trace.recorder import pages_of
from writewatch.errors import TraceError
from writewatch.observe.trace import files
from writewatch.observe.trace.blocks import joined
from writewatch.observe.trace.finishing import finish_trace
from writewatch.observe.trace.reader import Trace, open_trace
from writewatch.observe.trace.schema import VERSION_KEY
from writewatch.observe.trace.writer import TraceWriter

ROOT = Path(__file__).parents[3]


def record(path: Path, n_epochs: int = 130) -> Path:
    """A trace of three segments."""
    with TraceWriter(path, meta(), 0) as writer:
        for epoch in range(n_epochs):
            writer.add([writes(epoch, [heap_page(epoch)])])
    return path


def killed_after(path: Path, n_epochs: int) -> int:
    """Record in a process that is killed while it goes on after so many epochs; the last that it had finished."""
    command = [sys.executable, "-m", "tests.observe.trace.recorder", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        for _ in range(n_epochs):
            recorder.stdout.readline()
        recorder.send_signal(signal.SIGKILL)
        rest = recorder.stdout.read().split()
    return int(rest[-1]) if rest else n_epochs - 1


# Finishing a segment, thinning and plain epochs all fall among these.
@pytest.mark.parametrize("n_epochs", [1, 23, 60, 290, 301, 400])
def test_kill_9_leaves_every_finished_epoch(tmp_path: Path, n_epochs: int) -> None:
    last = killed_after(tmp_path / "trace", n_epochs)
    trace = open_trace(tmp_path / "trace")
    block = joined(list(trace.blocks()))
    assert block.epochs["n_epochs"].sum() > last
    found: dict[int, set[int]] = {}
    for one in block.ranges:
        found.setdefault(int(one["epoch"]), set()).update(range(int(one["start"]), int(one["end"])))
    for row, epoch in enumerate(block.epochs):
        for number in range(int(epoch["epoch"]), int(epoch["epoch"] + epoch["n_epochs"])):
            assert found[row] >= set(pages_of(number))
    assert any("cut off" in sentence for sentence in trace.damage) or not files.open_segments_in(trace.path)


@pytest.mark.parametrize("n_epochs", [1, 60, 301])
def test_a_recording_that_was_killed_can_be_finished_and_is_parquet_alone(
    tmp_path: Path, n_epochs: int
) -> None:
    path = tmp_path / "trace"
    last = killed_after(path, n_epochs)
    told = joined(list(open_trace(path).blocks())).epochs["n_epochs"].sum()
    finish_trace(path)
    assert {one.suffix for one in path.iterdir()} == {".parquet"}
    epochs = pl.read_parquet(path / "*.parquet").filter(pl.col("what") == "epoch")
    assert epochs["n_epochs"].sum() == told > last
    assert open_trace(path).damage == []
    assert finish_trace(path) == 0


def test_a_finished_recording_says_that_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with open_writer(path, 70):
        stream = files.open_path(path, 2).read_bytes()
    files.segment_path(path, 2).unlink()
    files.open_path(path, 2).write_bytes(stream)
    assert finish_trace(path) == 10
    (note,) = [event for block in open_trace(path).blocks() for event in block.events]
    assert (note.what, note.pid, note.text) == ("note", 0, "the recording was cut off")
    assert note.from_ns == note.to_ns == 70 * 10**9


def test_what_a_writer_left_twice_or_half_is_removed(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    words = open_trace(path).words
    (first, of_first), (second, _) = (files.read_segment(files.segment_path(path, n), words) for n in (1, 2))
    files.write_segment(path, joined([first, second]), replace(of_first, last=2))
    (path / "_segment-000004.parquet.unfinished").write_bytes(b"PAR1 half")
    assert finish_trace(path) == 0
    assert sorted(one.name for one in path.iterdir()) == ["segment-000001.parquet", "segment-000003.parquet"]
    assert n_epochs_of(open_trace(path)) == 130


def test_a_recording_without_an_epoch_is_not_finished_into_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.mkdir()
    with files.OpenSegment(path, meta(first=1, last=1)):
        pass
    with pytest.raises(TraceError, match="is whole; record it again"):
        finish_trace(path)
    assert [one.name for one in path.iterdir()] == ["_open-000001.arrows"]


@pytest.mark.parametrize("look", [open_trace, finish_trace])
def test_a_recording_that_has_only_begun_is_said_to_go_on(
    tmp_path: Path, look: Callable[[Path], object]
) -> None:
    with (
        open_writer(tmp_path / "trace", 0),
        pytest.raises(TraceError, match="being recorded and holds no epo"),
    ):
        look(tmp_path / "trace")


def test_what_is_left_twice_stays_if_the_other_is_damaged(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    words = open_trace(path).words
    (first, of_first), (second, _) = (files.read_segment(files.segment_path(path, n), words) for n in (1, 2))
    files.write_segment(path, joined([first, second]), replace(of_first, last=2))
    content = bytearray(files.segment_path(path, 1).read_bytes())
    content[40] ^= 0xFF
    files.segment_path(path, 1).write_bytes(content)
    assert finish_trace(path) == 0
    assert files.segment_path(path, 2).exists()


def test_a_trace_that_is_being_recorded_is_not_finished_by_another(tmp_path: Path) -> None:
    refused = pytest.raises(TraceError, match="is being recorded; end the recording")
    with open_writer(tmp_path / "trace", 70), refused:
        finish_trace(tmp_path / "trace")
    assert n_epochs_of(open_trace(tmp_path / "trace")) == 70


def open_writer(path: Path, n_epochs: int) -> TraceWriter:
    writer = TraceWriter(path, meta(), 0)
    for epoch in range(n_epochs):
        writer.add([writes(epoch, [heap_page(epoch)])])
    return writer


def n_epochs_of(trace: Trace) -> int:
    return sum(len(block.epochs) for block in trace.blocks())


def test_a_trace_can_be_read_while_it_is_recorded(tmp_path: Path) -> None:
    with open_writer(tmp_path / "trace", 70):
        trace = open_trace(tmp_path / "trace")
        assert trace.is_open
        assert trace.damage == []
        assert n_epochs_of(trace) == 70
        assert len(pd.read_parquet(tmp_path / "trace", filters=[("what", "==", "epoch")])) == 60


def test_the_open_segment_names_the_mappings_of_its_writes(tmp_path: Path) -> None:
    new = mapping(LIBRARY - 16 * PAGE, 4, "new")
    with TraceWriter(tmp_path / "trace", meta(), 0) as writer:
        writer.add([writes(0, [heap_page(1), LIBRARY // PAGE])])
        writer.add([writes(1, [heap_page(1), LIBRARY // PAGE])])
        pages = [heap_page(1), new.start // PAGE, LIBRARY // PAGE, 3]
        writer.add([writes(2, pages, mappings=(MAPPINGS[0], new, *MAPPINGS[1:]))])
        writer.add([writes(3, [LIBRARY // PAGE])])
        table = pl.read_ipc_stream(files.open_path(tmp_path / "trace", 1)).filter(pl.col("what") == "write")
        names = table.group_by("epoch", maintain_order=True).agg("mapping")["mapping"].to_list()
    heap, library = "[heap]", "libc.so.6 .data"
    assert [set(one) for one in names] == [
        {heap, library},
        {heap, library},
        {heap, "new", library, None},
        {library},
    ]


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_cut_open_segment_is_read_up_to_its_last_whole_epoch(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "trace"
    with open_writer(path, 70):
        stream = files.open_path(path, 2).read_bytes()
    files.segment_path(path, 2).unlink()
    files.open_path(path, 2).write_bytes(stream[: int(len(stream) * kept)])
    trace = open_trace(path)
    assert 60 <= n_epochs_of(trace) < 70
    assert [sentence for sentence in trace.damage if "cut off" in sentence]


def test_a_segment_that_was_cut_is_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    second = files.segment_path(path, 2)
    os.truncate(second, second.stat().st_size // 2)
    trace = open_trace(path)
    assert n_epochs_of(trace) == 70
    assert [sentence for sentence in trace.damage if "segment-000002.parquet is damaged" in sentence]


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    second = files.segment_path(path, 2)
    content = bytearray(second.read_bytes())
    content[40] ^= 0xFF
    second.write_bytes(content)
    trace = open_trace(path)
    assert n_epochs_of(trace) == 70
    assert any("damaged" in sentence for sentence in trace.damage)


def test_a_segment_that_is_gone_is_missed(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    files.segment_path(path, 2).unlink()
    trace = open_trace(path)
    assert n_epochs_of(trace) == 70
    assert trace.damage == ["segment 2 is missing; its epochs are left out"]


def test_content_that_is_there_twice_is_read_once(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    words = open_trace(path).words
    (first, of_first), (second, _) = (files.read_segment(files.segment_path(path, n), words) for n in (1, 2))
    files.write_segment(path, joined([first, second]), replace(of_first, last=2))
    trace = open_trace(path)
    assert n_epochs_of(trace) == 130
    assert trace.damage == []


def test_an_unfinished_file_is_passed_over(tmp_path: Path) -> None:
    path = record(tmp_path / "trace")
    (path / "_segment-000004.parquet.unfinished").write_bytes(b"PAR1 half")
    assert n_epochs_of(open_trace(path)) == 130
    assert len(pd.read_parquet(path, filters=[("what", "==", "epoch")])) == 130


def newer(path: Path) -> None:
    table = pa.parquet.read_table(files.segment_path(path, 1))
    metadata = {**table.schema.metadata, VERSION_KEY: b"2"}
    pa.parquet.write_table(table.replace_schema_metadata(metadata), files.segment_path(path, 1))


def test_a_newer_trace_is_one_sentence(tmp_path: Path) -> None:
    newer(record(tmp_path / "trace"))
    with pytest.raises(
        TraceError, match=r"has format 2 and this writewatch reads formats up to 1; install a newer"
    ):
        open_trace(tmp_path / "trace")


def junk(path: Path) -> None:
    path.write_bytes(b"\x00junk" * 100)


def empty(path: Path) -> None:
    path.mkdir()


def foreign(path: Path) -> None:
    path.mkdir()
    pa.parquet.write_table(pa.table({"x": [1]}), path / "part-0.parquet")


def foreign_with_our_name(path: Path) -> None:
    path.mkdir()
    pa.parquet.write_table(pa.table({"x": [1]}), files.segment_path(path, 1))


def junk_with_our_name(path: Path) -> None:
    path.mkdir()
    files.segment_path(path, 1).write_bytes(b"junk" * 1000)


def nothing(path: Path) -> None:
    """There is no such path."""


@pytest.mark.parametrize("make", [junk, empty, foreign, foreign_with_our_name, junk_with_our_name, nothing])
def test_what_is_no_trace_is_one_sentence(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "x")
    with pytest.raises(TraceError) as error:
        open_trace(tmp_path / "x")
    assert "\n" not in str(error.value)
    assert "trace" in str(error.value)
