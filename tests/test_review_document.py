"""docs/review.md: fourteen points, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "review.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def names_of_tests(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_points_are_numbered_from_1_to_14_in_the_table_and_below() -> None:
    titles = [section.splitlines()[0] for section in SECTIONS]
    assert [title.partition(".")[0] for title in titles] == [str(n) for n in range(1, 15)]
    anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
    assert re.findall(r"^\| \[\d+\]\(#([\w-]+)\)", TEXT, re.MULTILINE) == anchors


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_point_says_what_was_asked_what_linux_does_what_is_here_and_which_test_shows_it(
    section: str,
) -> None:
    for part in ("*Asked:*", "*Linux:*", "*Here:*", "*Shown by:*"):
        assert part in section
    number = section.partition(".")[0]
    named = NAMED.findall(section)
    assert any(name.startswith(f"test_{number}_") for _, name in named)


def test_every_test_that_is_named_exists() -> None:
    missing = [f"{path}::{name}" for path, name in NAMED.findall(TEXT) if name not in names_of_tests(path)]
    assert not missing


def test_every_rule_of_the_review_that_has_a_test_is_named() -> None:
    path = "tests/model/test_review_rules.py"
    rules = {name for name in names_of_tests(path) if re.match(r"test_\d+_", name)}
    assert rules == {name for where, name in NAMED.findall(TEXT) if where == path}
