"""Figures in text: their width, their unit, and what must not be lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writewatch.observe.reporters.units import (
    count_text,
    plain,
    rate_text,
    share_text,
    shortened,
    size_text,
)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (4096, "4.0 KiB"),
        (10_240, "10 KiB"),
        (1_000_000, "977 KiB"),
        (1023 * 1024, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (123 << 40, "123 TiB"),
        (7 << 50, "7.0 PiB"),
    ],
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


@given(st.floats(0, 2**59))
def test_a_size_fits_into_seven_characters_and_a_rate_into_nine(n_bytes: float) -> None:
    assert len(size_text(n_bytes)) <= 7
    assert len(rate_text(n_bytes)) <= 9


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (9_999_999, "9,999,999"), (10_000_000, "10.0 M"), (12_345_678_901, "12,345.7 M")],
)
def test_counts(n: int, text: str) -> None:
    assert count_text(n) == text


@given(st.integers(0, 2**52))
def test_a_count_fits_into_ten_characters(n: int) -> None:
    assert len(count_text(n)) <= 10


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0004, "<0.1 %"), (0.012, "1.2 %"), (0.0996, "10 %"), (1, "100 %"), (2.4, "240 %")],
)
def test_shares(share: float, text: str) -> None:
    assert share_text(share) == text


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("[heap]", 10, "[heap]"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", 14, "…/libc.so.6"),
        ("/usr/lib/a-very-long-name-of-a-library.so", 12, "/usr/lib/a-…"),
        ("libpython3.11.so.1.0 .data/.bss", 20, "libpytho… .data/.bss"),
        ("[anonymous] 7f3ccc600000", 20, "[anony… 7f3ccc600000"),
        ("Python arenas (by their shape)", 14, "Python arenas…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_shortening_keeps_what_tells_most(text: str, width: int, short: str) -> None:
    assert shortened(text, width) == short


@given(st.text(), st.integers(0, 40))
def test_shortened_text_fits(text: str, width: int) -> None:
    assert len(shortened(text, width)) <= width


@given(st.text())
def test_plain_text_is_as_long_and_can_be_written(text: str) -> None:
    found = plain(text, "ascii")
    assert found.isascii()
    assert len(found) == len(text)


def test_a_stream_that_has_unicode_gets_it() -> None:
    assert plain("≤ 3 …", "utf-8") == "≤ 3 …"
    assert plain("≤ 3 …", None) == "< 3 ~"
