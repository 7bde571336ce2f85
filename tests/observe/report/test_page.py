"""The page as a file: self-contained, complete without a script, and safe against what names may hold."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.observe.trace.made_up import HEAP, LIBRARY, PAGE, mapping, meta, writes
from writewatch.observe.report.findings import Findings
from writewatch.observe.report.page import page
from writewatch.observe.report.palette import LEAST_SHARE, levels, palette
from writewatch.observe.report.payload import packed, packed_ranges
from writewatch.observe.report.png import png
from writewatch.observe.report.raster import raster
from writewatch.observe.report.remarks import remarks
from writewatch.observe.report.scales import byte_ticks, length_text, seconds_text, time_ticks
from writewatch.observe.report.survey import survey
from writewatch.observe.trace.reader import open_trace
from writewatch.observe.trace.writer import TraceWriter


def unpacked(stream: bytes, n: int) -> tuple[list[int], bytes]:
    """The first n numbers, and what is left."""
    found: list[int] = []
    value, shift = 0, 0
    for at, byte in enumerate(stream):
        if len(found) == n:
            return found, stream[at:]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value)
            value, shift = 0, 0
    return found, b""


class Links(HTMLParser):
    """Everything that a browser would fetch, and the tags that were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}
        ]


def test_the_page_fetches_nothing(known: Findings) -> None:
    parser = Links()
    text = page(known)
    parser.feed(text)
    assert parser.links
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    assert not re.findall(r"url\(|@import|https?://", text)


def test_names_cannot_break_out_of_the_page(known: Findings) -> None:
    text = page(known)
    parser = Links()
    parser.feed(text)
    assert parser.tags.count("script") == 3
    assert "a &lt;device&gt; may write here" in text
    bad = replace(known.axis.bands[0], name="</script><img src=x>")
    evil = replace(known, axis=replace(known.axis, bands=(bad, *known.axis.bands[1:])))
    parser = Links()
    parser.feed(page(evil))
    assert parser.tags.count("script") == 3
    assert parser.tags.count("img") == 1


def test_damage_stands_at_the_top(known: Findings) -> None:
    text = page(replace(known, damage=("segment 2 is missing; its epochs are left out",)))
    assert '<p class="warning">Segment 2 is missing; its epochs are left out.</p>' in text


def test_nothing_written_is_said_and_has_no_script(known: Findings) -> None:
    empty = replace(
        known,
        axis=replace(known.axis, bands=()),
        ranges=known.ranges[:0],
        mappings=(),
        windows=(),
        intervals=(),
    )
    text = page(empty)
    assert "Nothing was written." in text
    assert "class Heatmap" not in text


def test_epochs_of_several_processes_are_said_to_be_theirs(known: Findings, tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "trace", meta(), 0) as writer:
        for epoch in range(3):
            writer.add([writes(epoch, [HEAP // PAGE], pid=pid) for pid in (4711, 4712)])
    assert " UTC, 6 epochs of 2 processes, 4 KiB pages" in page(survey(open_trace(tmp_path / "trace")))
    assert " UTC, 20 epochs, 4 KiB pages" in page(known)


def test_what_is_not_exact_is_said(known: Findings) -> None:
    ranges = known.ranges.copy()
    ranges["reported"][0] -= 1
    said = " ".join(remarks(replace(known, ranges=ranges, n_coarse=3, most_merged=8, granule=4)))
    assert "No page that was written is missing" in said
    assert "merged up to 8 collects" in said
    assert "What single mappings wrote, and how fast, counts it there once, and is a lower bound" in said
    assert "4 neighbouring pages as one" in said
    assert "show as partly written" in said


def test_the_packed_ranges_are_the_ranges(known: Findings) -> None:
    stream = zlib.decompress(base64.b64decode(packed_ranges(known)))
    n = len(known.ranges)
    gaps, stream = unpacked(stream, n)
    lengths, stream = unpacked(stream, n)
    fills, stream = unpacked(stream, n)
    assert lengths == (known.ranges["end"] - known.ranges["start"]).tolist()
    assert set(fills) == {255}
    assert gaps[0] == known.ranges["start"][0]


@given(st.lists(st.integers(0, 2**52)))
def test_numbers_survive_packing(numbers: list[int]) -> None:
    assert unpacked(packed(np.array(numbers, np.int64)), len(numbers))[0] == numbers


# ---- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(20, 300), (40, 97), (7, 11), (200, 1000)])
def test_a_cell_has_a_colour_where_and_only_where_something_was_written(
    known: Findings, width: int, height: int
) -> None:
    grid = raster(known, width, height)
    assert grid.shape == (height, width)
    assert 0 <= grid.min() <= grid.max() <= 1
    is_coloured = levels(grid) > 0
    columns = known.columns.edges_ns / known.columns.edges_ns[-1] * width
    for one in known.ranges:
        x = int(columns[one["epoch"]] + 1e-9)
        assert is_coloured[:, x].any()
    library = is_coloured[: math.ceil(known.axis.weights()[1] * height)]
    seen = [column for column in range(width) if library[:, column].any()]
    expected = {x for e in (*range(0, 20, 2), 15) for x in range(e * width // 20, -(-(e + 1) * width // 20))}
    assert set(seen) == expected


def test_the_picture_adds_up_to_what_was_written(known: Findings) -> None:
    height = 4000
    grid = raster(known, 20, height)
    weights = known.axis.weights()
    heap = grid[-round(weights[0] * height) :].sum(axis=0) / (weights[0] * height)
    expected = [(500 + (epoch == 10)) / 1000 for epoch in range(20)]
    assert heap == pytest.approx(expected, abs=2e-3)


def test_the_least_share_does_not_have_the_papers_colour() -> None:
    assert levels(np.array([0.0, 1e-12, LEAST_SHARE, 1.0])).tolist() == [0, 1, 1, 255]


@pytest.mark.parametrize(("theme", "sign"), [("light", -1), ("dark", 1)])
def test_the_ramp_steadily_leaves_the_lightness_of_the_paper(theme: str, sign: int) -> None:
    lightness = palette(theme) @ np.array([0.2126, 0.7152, 0.0722])
    assert (sign * np.diff(lightness[1:]) > -1).all()
    assert (sign * (lightness[1:] - lightness[0]) > 25).all()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_png_holds_its_pixels(pixels: np.ndarray) -> None:
    colours = np.arange(768, dtype=np.int64).reshape(256, 3).astype(np.uint8)
    data = png(pixels, colours)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        parts[kind] = body
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(pixels.shape[0], -1)
    assert (rows[:, 1:] == pixels).all()
    assert parts[b"PLTE"] == colours.tobytes()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_matplotlib_draws_it(known: Findings, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    from writewatch.observe.report.picture import draw

    draw(known, tmp_path / f"x.{kind}", kind)
    content = (tmp_path / f"x.{kind}").read_bytes()
    if kind == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert all(word in content.decode() for word in ("[heap]", "libc.so.6 .data", "100 %", "15 s"))


@pytest.mark.parametrize("letter", ["W", "i", "$x_", "日"])
def test_names_that_are_long_end_within_the_picture(tmp_path: Path, letter: str) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    from matplotlib.image import imread

    from writewatch.observe.report.picture import draw

    long = (mapping(HEAP, 100, letter * 100), mapping(LIBRARY, 100, f"/a/path/{letter * 60} .data/.bss"))
    pages = [one.start // PAGE for one in long]
    with TraceWriter(tmp_path / "trace", meta(target=letter * 200), 0) as writer:
        for epoch in range(3):
            both = [writes(epoch, pages, pid=pid, command="a-command", mappings=long) for pid in (4711, 4712)]
            writer.add(both)
    draw(survey(open_trace(tmp_path / "trace")), tmp_path / "x.png", "png")
    pixels = imread(tmp_path / "x.png")
    assert pixels[:, 400:1000].min() < 0.5  # there is something
    assert pixels[:, :8].min() == pixels[:, -8:].min() == 1


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "step", "text"),
    [(0, 1, "0 s"), (1.5, 0.5, "1.5 s"), (90, 10, "90 s"), (150, 30, "2:30 min"), (121.5, 0.5, "2:01.5 min"),
     (3600, 60, "1:00:00 h"), (7325, 1, "2:02:05 h")],
)  # fmt: skip
def test_times(seconds: float, step: float, text: str) -> None:
    assert seconds_text(seconds, step) == text


def test_lengths() -> None:
    texts = [length_text(seconds) for seconds in (0.0123, 0.25, 1, 2.5, 60, 300, 5400, 9000)]
    assert texts == ["12 ms", "0.25 s", "1 s", "2.5 s", "60 s", "5 min", "90 min", "2.5 h"]


def test_ticks_are_round_and_reach_the_most() -> None:
    assert byte_ticks(100) == [0, 32, 64, 96, 128]
    assert byte_ticks(0) == [0, 1]
    assert [text for _, text in time_ticks(75)] == [f"{n} s" for n in range(0, 80, 10)]
    assert [text for _, text in time_ticks(0.3)][:2] == ["0.00 s", "0.05 s"]


def test_the_axes_are_json_that_reads_back(known: Findings) -> None:
    found = re.search(r'<script type="application/json" id="axes">(.*?)</script>', page(known), re.DOTALL)
    assert found
    values = json.loads(found[1])
    assert len(values["edges"]) == 21
    assert sum(values["counts"]) == len(known.ranges)
    assert sum(band["weight"] for band in values["bands"]) == pytest.approx(1)
