"""The screen at fixed sizes, as text, against files; keys come from Textual's pilot.

WRITEWATCH_NEW_SCREENS=1 writes the files: look at what changed before it is committed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.observe.top.made_up_screens import FACTS, epochs, filled, news, running, text_of
from writewatch.observe.reporters.screen import ASCII, UNICODE, Glyphs
from writewatch.observe.top.facts import Facts, Member
from writewatch.observe.top.view import View

FOLDER = Path(__file__).with_name("screens")
SMALL, LARGE = (80, 24), (120, 40)


def shown(
    view: View, size: tuple[int, int] = SMALL, keys: Sequence[str] = (), glyphs: Glyphs = UNICODE
) -> str:
    async def show() -> str:
        async with running(view, size, glyphs, keys) as (app, _pilot):
            return text_of(app)

    return asyncio.run(show())


def check(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("WRITEWATCH_NEW_SCREENS"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), f"the screen differs from {path.name}"


def family() -> View:
    """A server with two children, one of which has ended."""
    view = View(4711)
    members = [
        Member(4711, 0, "redis-server", True),
        Member(4720, 1, "redis-rdb-bgsave", True),
        Member(4731, 2, "gzip", False),
    ]
    for parent, child in zip(epochs(6), epochs(6, pid=4720, command="redis-rdb-bgsave"), strict=True):
        view.add([parent, child], members, FACTS)
    return view


def several_of_a_name() -> View:
    view = filled(3)
    view.facts = Facts(1.0, 3.2, 0.049)
    return view


@pytest.mark.parametrize(
    ("name", "size", "keys"),
    [
        ("small", SMALL, []),
        ("large", LARGE, []),
        ("cursor", SMALL, ["down", "down", "j", "k"]),
        ("sorted-by-distinct", SMALL, ["s", "s", "s"]),
        ("reversed", SMALL, ["r"]),
        ("filtered", SMALL, ["slash", "l", "i", "b", "enter"]),
        ("filter-is-typed", SMALL, ["slash", "h", "e"]),
        ("filter-finds-nothing", SMALL, ["slash", "z", "enter"]),
        ("heatmap-has-the-keys", SMALL, ["tab", "down"]),
        ("zoomed-to-a-mapping", SMALL, ["down", "enter"]),
        ("zoomed-to-a-part", SMALL, ["down", "enter", "down", "down", "enter"]),
        ("zoomed-to-pages", SMALL, ["down", "enter", *["down", "enter"] * 6]),
        ("help", SMALL, ["question_mark"]),
        ("notes", SMALL, ["n"]),
    ],
)
def test_a_server_on_screen(name: str, size: tuple[int, int], keys: Sequence[str]) -> None:
    check(name, shown(filled(), size, keys))


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_without_unicode_everything_is_ascii(size: tuple[int, int]) -> None:
    text = shown(filled(), size, glyphs=ASCII)
    assert text.isascii()
    check(f"ascii-{size[0]}", text)


@pytest.mark.parametrize("keys", [["question_mark"], ["n"], ["slash", "z"], ["tab", "enter"]])
def test_pages_and_zooms_are_ascii_as_well(keys: list[str]) -> None:
    assert shown(filled(), keys=keys, glyphs=ASCII).isascii()


def test_processes_are_a_tree() -> None:
    check("processes", shown(family(), keys=["p", "down"]))


def test_a_child_is_shown_when_it_is_chosen() -> None:
    text = shown(family(), keys=["p", "down", "enter"])
    assert text.startswith("redis-rdb-bgsave (4720)")


def test_an_interval_that_the_budget_made_longer_is_said() -> None:
    assert "every 3.2 s (budget), costs 4.9 % of a core" in shown(several_of_a_name())


def test_before_the_first_epoch() -> None:
    check("waiting", shown(View(4711)))


def test_the_last_picture_stays_with_a_sentence() -> None:
    view = filled()
    view.end("redis-server (4711) has ended.")
    check("ended", shown(view))


def test_a_screen_that_is_too_small_says_so() -> None:
    assert "needs 60 columns and 16 lines" in shown(filled(), (50, 20))
    words = shown(filled(), (20, 4)).split()
    assert " ".join(words) == "This needs 60 columns and 16 lines; here are 20 and 4."


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (100, 30), (137, 51), (240, 70)])
def test_every_line_is_as_wide_as_the_screen(size: tuple[int, int]) -> None:
    from writewatch.observe.reporters.top import screen

    for glyphs in (UNICODE, ASCII):
        lines = screen(filled(), *size, glyphs)
        assert {line.cell_len for line in lines} == {size[0]}
        assert len(lines) == size[1]


def test_no_colour_says_nothing_that_characters_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with_colour = shown(filled())
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(filled()) == with_colour


def test_paused_the_picture_stays_and_going_on_shows_what_came_meanwhile() -> None:
    async def script() -> tuple[str, str, str]:
        view = View(4711)
        made = list(epochs(8))
        member = [Member(4711, 0, "redis-server", True)]
        async with running(view) as (app, pilot):
            for one in made[:4]:
                app.add(news([one], member))
            await pilot.press("space")
            before = text_of(app)
            for one in made[4:]:
                app.add(news([one], member))
            await pilot.pause()
            during = text_of(app)
            await pilot.press("space")
            return before, during, text_of(app)

    before, during, after = asyncio.run(script())
    assert "PAUSED" in before
    assert during == before
    assert "(4711)  4 s" in before
    assert "(4711)  8 s" in after


@pytest.mark.parametrize(
    "keys", [["tab", "tab"], ["enter", "escape"], ["p", "p"], ["question_mark", "escape"], ["r", "r"]]
)
def test_a_step_and_back_is_where_it_was(keys: list[str]) -> None:
    assert shown(filled(), keys=keys) == shown(filled())


def test_escape_takes_a_filter_away() -> None:
    assert shown(filled(), keys=["slash", "l", "i", "b", "escape"]) == shown(filled())


def test_q_leaves() -> None:
    async def script() -> bool:
        async with running(filled()) as (app, pilot):
            await pilot.press("q")
            return not app.is_running or app._exit

    assert asyncio.run(script())
