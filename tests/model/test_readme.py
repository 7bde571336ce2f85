"""What the model's README tells and draws is what the model does."""

from __future__ import annotations

import pathlib

import pytest

from scripts import draw_model
from tests.model.worlds import Area
from writewatch.abi import mman
from writewatch.model import pte as p
from writewatch.model import zap
from writewatch.model.rules import DROP_FILE, Becomes, Kind

README = pathlib.Path(p.__file__).with_name("README.md")


def _tells(area: Area, page: int, *expected: str) -> None:
    shown = p.describe(area.entry(page))
    assert all(word in shown for word in expected), shown


def test_protecting_a_present_page() -> None:
    area = Area()
    area.store(0)
    _tells(area, 0, "PFN:", "write", "dirty")
    area.armed()
    _tells(area, 0, "PFN:", "dirty", "uffd-wp")
    assert "write" not in p.describe(area.entry(0))


def test_protecting_an_empty_entry() -> None:
    area = Area()
    assert p.describe(area.entry(0)) == "none"
    area.armed()
    assert p.describe(area.entry(0)) == "marker, uffd-wp"


def test_writing_to_a_marker_takes_the_two_steps_that_are_shown() -> None:
    area = Area()
    area.armed()
    steps = area.calls.steps("store", area.at(0), b"x")
    shown = [p.describe(area.entry(0)) for _ in steps]
    assert any("PFN:" in entry and "uffd-wp" in entry for entry in shown)
    assert "uffd-wp" not in p.describe(area.entry(0))


def test_reading_a_marker_keeps_the_bit() -> None:
    area = Area()
    area.armed()
    area.byte(0)
    _tells(area, 0, "zero page", "uffd-wp")


def test_every_module_that_the_readme_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    named = {
        word.strip("`").split(".")[0] for word in text.split("`") if word.endswith(".py") and "/" not in word
    }
    missing = [name for name in named if not README.with_name(f"{name}.py").exists()]
    assert not missing


# ---- drawings ------------------------------------------------------------------------------------


def test_the_drawings_are_those_that_the_model_makes() -> None:
    text = README.read_text(encoding="utf-8")
    assert draw_model.drawn(text) == text, "run python -m scripts.draw_model"


def test_every_drawing_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in draw_model.DRAWINGS if f"<!-- drawn: {name} -->" not in text] == []


def test_a_cell_of_a_rule_shows_in_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zap, "DROP_FILE", {**DROP_FILE, Kind.PRESENT: Becomes.EMPTY})
    assert draw_model.transitions(mman.MAP_SHARED)["page + bit"]["drop"] == "none"


def test_every_entry_is_of_one_kind() -> None:
    entries = [0, p.present(3, p.UFFD_WP), p.swap(3), 3 << p.NUMBER_SHIFT | p.MIGRATION]
    entries += [p.UFFD_WP_MARKER, p.POISON_MARKER | p.UFFD_WP, p.GUARD_MARKER]
    matching = [[kind for kind in Kind if entry & kind.mask == kind.flags] for entry in entries]
    assert matching == [[kind] for kind in Kind]
