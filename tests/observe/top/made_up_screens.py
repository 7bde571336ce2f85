"""A made-up process on a made-up terminal: epochs in, the text on the screen out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.observe.watch.made_up import epoch, mapping
from writewatch.observe.reporters.screen import UNICODE, Glyphs
from writewatch.observe.top.app import Top
from writewatch.observe.top.facts import Facts, Member
from writewatch.observe.top.feed import News
from writewatch.observe.top.view import View
from writewatch.tracker.process.writes import Mapping, ProcessWrites

HEAP = mapping("[heap]", 0x5581D2A10, 0x5581D2A10 + 9000, "heap")
ARENA = mapping("[anon: malloc arena]", 0x7F20A0000, 0x7F20A0000 + 16384)
DATA = mapping("redis-server .data", 0x5581D1800, 0x5581D1800 + 40, "file")
LIBC = mapping("libc.so.6 .data", 0x7F20B1000, 0x7F20B1000 + 6, "library")
SHARED = mapping(
    "memfd:ring",
    0x7F20B8000,
    0x7F20B8000 + 256,
    "shared",
    unseen="Other processes may write to memfd:ring through mappings of their own.",
)
STACK = mapping("[stack]", 0x7FFD31200, 0x7FFD31200 + 34, "stack")
ALL = (DATA, HEAP, ARENA, LIBC, SHARED, STACK)

FACTS = Facts(1.0, 1.0, 0.012, "works")


def first(one: Mapping) -> int:
    return one.start // 4096


def epochs(n: int, pid: int = 4711, command: str = "redis-server") -> Iterator[ProcessWrites]:
    """A server that fills its heap, sweeps over an arena, and touches a little of everything."""
    chance = random.Random(4711)
    for number in range(n):
        written = [(first(HEAP) + 150 * number, first(HEAP) + 150 * number + 400)]
        start = first(ARENA) + (number * 700) % 14000
        written += [(start, start + 500 + chance.randrange(900))]
        written += [
            (page, page + 1) for page in sorted(chance.sample(range(first(DATA), first(DATA) + 40), 7))
        ]
        written += [(first(STACK) + 30, first(STACK) + 33)]
        if number % 5 == 0:
            written += [(first(LIBC) + 1, first(LIBC) + 3), (first(SHARED), first(SHARED) + 1 + number)]
        notes = (
            "It has io_uring descriptors open: what the kernel stores through registered buffers is not seen.",
        )
        yield epoch(number, ALL, *written, pid=pid, command=command, notes=notes)


def filled(n: int = 40) -> View:
    """A view that has seen so many epochs."""
    view = View(4711)
    for one in epochs(n):
        view.add([one], [Member(4711, 0, "redis-server", True)], FACTS)
    return view


def text_of(app: Top) -> str:
    """What stands on the terminal, without spaces at the ends of lines."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips) + "\n"


@asynccontextmanager
async def running(
    view: View, size: tuple[int, int] = (80, 24), glyphs: Glyphs = UNICODE, keys: Sequence[str] = ()
) -> Any:
    """The application on a terminal of this size, after some keys."""
    app = Top(view, glyphs=glyphs)
    async with app.run_test(size=size) as pilot:
        await pilot.press(*keys)
        await pilot.pause()
        yield app, pilot


def news(round_: Sequence[ProcessWrites], members: Sequence[Member] = ()) -> News:
    return News(tuple(round_), tuple(members), FACTS)
