"""The kernel matrix's own parts: what is written into the document, and into the guest's first archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.kernels import initramfs, matrix, observe, suites


def seen(series: str, works: bool, **outcomes: int) -> dict[str, Any]:
    return {
        "series": series,
        "release": f"{series}.1-test",
        "machine": "x86_64",
        "chosen": "every-page",
        "features": {"pagemap_scan": {"works": works, "reason": "" if works else "too old"}},
        "backends": {"uffd-wp": {"private": {"result": "exact" if works else "no", "reason": ""}}},
        "suites": {"tests/tracker": {"outcomes": outcomes, "skipped": {}, "failed": []}},
    }


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "support-matrix.md").write_text(f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n")
    return tmp_path


def test_only_the_block_between_the_marks_is_replaced(docs: Path) -> None:
    matrix.record(seen("6.12", True, passed=3), docs)
    text = (docs / "support-matrix.md").read_text()
    assert text.startswith(f"before\n{matrix.BEGIN}\n")
    assert text.endswith(f"{matrix.END}\nafter\n")
    assert "| `tests/tracker` | 3 passed |" in text
    assert "old" not in text


def test_a_second_kernel_keeps_the_column_of_the_first(docs: Path) -> None:
    matrix.record(seen("6.12", True, passed=3), docs)
    matrix.record(seen("6.1", False, passed=2, skipped=1), docs)
    text = (docs / "support-matrix.md").read_text()
    assert "|  | **6.1.1-test** | **6.12.1-test** |" in text
    assert "| `pagemap_scan` | no [1] | yes |" in text
    assert "1. too old" in text


def test_a_failed_test_is_named_with_its_number_of_cases(docs: Path) -> None:
    record = seen("6.1", False, failed=2)
    record["suites"]["tests/tracker"]["failed"] = ["test_x[a]", "test_x[b]"]
    matrix.record(record, docs)
    assert "- `test_x`, 2 cases" in (docs / "support-matrix.md").read_text()


def test_a_document_without_marks_is_left_alone(docs: Path) -> None:
    (docs / "support-matrix.md").write_text("no marks\n")
    with pytest.raises(ValueError, match="once each"):
        matrix.record(seen("6.1", True), docs)
    assert (docs / "support-matrix.md").read_text() == "no marks\n"
    assert not (docs / "support-matrix.json").exists()


@pytest.mark.parametrize(
    ("reported", "again", "result"),
    [({2, 3, 11}, 0, "exact"), ({2, 3, 4, 11}, 0, "all, and 1 more"), ({2, 3}, 0, "MISSED 1")],
)
def test_a_report_is_judged_against_what_was_written(reported: set[int], again: int, result: str) -> None:
    assert observe.judged(reported, again)["result"] == result


def test_cpio_entries_are_padded_to_four_bytes() -> None:
    entry = initramfs._entry("ab", 0o100644, b"12345")
    assert len(entry) % 4 == 0
    assert entry[:6] == b"070701"
    assert int(entry[54:62], 16) == 5  # size of the content
    assert int(entry[94:102], 16) == 3  # of the name, with its NUL
    assert entry[110:113] == b"ab\0"
    assert b"12345" in entry[112:]


def test_junit_report_is_counted_by_outcome(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="t" name="a"/>'
        '<testcase classname="t" name="b"><skipped message="no swap"/></testcase>'
        '<testcase classname="t" name="c"><failure message="x"/></testcase></testsuite></testsuites>'
    )
    assert suites.read_report(report) == {
        "outcomes": {"passed": 1, "skipped": 1, "failed": 1},
        "skipped": {"no swap": 1},
        "failed": ["t.c"],
    }
