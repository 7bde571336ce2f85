"""Which requests are made where."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from writewatch.abi.calls import Vma
from writewatch.kernel.maps import parse_maps
from writewatch.pages import Runs
from writewatch.tracker.process.walking import Manner, Piece, few, pieces

MIB = 1 << 20


def vmas(*lines: tuple[int, int, str]) -> tuple[Vma, ...]:
    """VMAs from start and end in MiB, and what they are."""
    rest = {
        "anonymous": "rw-p 0 00:00 0",
        "file": "r--p 0 08:01 7 /lib/x",
        "shared": "rw-s 0 00:01 9 /memfd:m",
    }
    text = "".join(f"{start * MIB:x}-{end * MIB:x} {rest[sort]}\n" for start, end, sort in lines)
    return parse_maps(text.encode())


def cut(*lines: tuple[int, int, str]) -> list[tuple[int, int, Manner, bool]]:
    return [
        (piece.start // MIB, piece.end // MIB, piece.manner, piece.has_files)
        for piece in pieces(vmas(*lines))
    ]


def test_small_mappings_are_walked_together() -> None:
    assert cut((1, 2, "file"), (2, 3, "anonymous"), (5, 6, "shared")) == [(1, 6, Manner.WHOLE, True)]
    assert cut((1, 2, "anonymous"), (2, 3, "shared")) == [(1, 3, Manner.WHOLE, False)]


@pytest.mark.parametrize(
    ("sort", "manner"),
    [("anonymous", Manner.CHANGES), ("shared", Manner.CHANGES), ("file", Manner.FILE)],
)
def test_a_large_mapping_is_walked_in_the_manner_of_its_sort(sort: str, manner: Manner) -> None:
    before = "anonymous" if sort == "file" else "file"
    assert cut((1, 2, before), (2, 9, sort)) == [
        (1, 2, Manner.WHOLE, before == "file"),
        (2, 9, manner, sort == "file"),
    ]


def test_many_small_ones_of_one_sort_are_a_large_one() -> None:
    many = [(at, at + 1, "anonymous") for at in range(1, 9)]
    assert cut(*many) == [(1, 9, Manner.CHANGES, False)]
    assert cut((0, 1, "file"), *many) == [(0, 1, Manner.WHOLE, True), (1, 9, Manner.CHANGES, False)]


def test_pieces_cover_everything_once() -> None:
    lines = [(1, 2, "file"), (2, 8, "anonymous"), (8, 9, "shared"), (9, 10, "file"), (10, 30, "file")]
    found: list[Piece] = list(pieces(vmas(*lines)))
    assert found[0].start == 1 * MIB
    assert found[-1].end == 30 * MIB
    assert all(one.end == after.start for one, after in itertools.pairwise(found))


def runs(*pairs: tuple[int, int]) -> Runs:
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_ranges_that_lie_near_are_one() -> None:
    assert few(runs((0, 1), (10, 11), (500, 501))).tolist() == [[0, 11], [500, 501]]
    assert few(runs()).tolist() == []


def test_too_many_ranges_are_one() -> None:
    assert few(runs(*[(at, at + 1) for at in range(0, 100_000, 1000)])).tolist() == [[0, 99_001]]
