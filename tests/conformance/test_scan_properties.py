"""Section 6.8: properties of PAGEMAP_SCAN, over random layouts and requests, against the oracle."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance import oracle
from tests.conformance.actions import A, Area, Context, G, P, Place, S, W, Z
from tests.conformance.oracle import Request
from writewatch.abi import mman
from writewatch.abi.pagemap import PM_UFFD_WP

MAX_PAGES = 24

#: How a page can be, and its categories then.
KINDS: dict[str, int | None] = {
    "unmapped": None,
    "plain-present": W | P,
    "plain-empty": W,
    "clean": A | P,
    "written": A | W | P,
    "zero": A | P | Z,
    "zero-written": A | W | P | Z,
    "marker": A | S,
    "empty": A | W,
    "guard": A | W | S | G,
}
REGISTERED = ("clean", "written", "zero", "zero-written", "marker", "empty", "guard")

modest = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
layouts = st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=MAX_PAGES)
registered_layouts = st.lists(st.sampled_from(REGISTERED), min_size=1, max_size=MAX_PAGES)
writable_layouts = st.lists(st.sampled_from(REGISTERED[:-1]), min_size=1, max_size=MAX_PAGES)  # no guards


@st.composite
def requests(draw: st.DrawFn, n_pages: int, known: int) -> Request:
    bits = st.integers(0, known).map(lambda value: value & known)
    first = draw(st.integers(0, n_pages))
    return Request(
        first,
        draw(st.integers(first, n_pages)),
        draw(st.integers(0, 3)),
        draw(st.sampled_from([0, 0, W, P, W | P, A, A | W, S])),
        draw(st.one_of(st.just(0), bits)),
        draw(st.one_of(st.just(0), bits)),
        draw(st.one_of(st.just(W), bits)),
        draw(st.one_of(st.none(), st.integers(1, 6), st.just(64))),
        draw(st.integers(0, 8)),
    )


def _build(place: Place, layout: list[str]) -> tuple[Area, Context]:
    """Memory whose pages are of these kinds, in one page table that exists."""
    if not place.categories & G:
        layout[:] = ["empty" if kind == "guard" else kind for kind in layout]
    room = place.aligned(place.per_huge)
    room.advise(mman.MADV_NOHUGEPAGE)  # where huge pages are always given, there would be no empty entries
    room.write(place.per_huge - 1)
    area, context = room.part(0, len(layout)), place.asynchronous()
    for kind in REGISTERED:
        for page in _pages(layout, kind):
            context.register(area.part(page, page + 1))
    area.write(*(p for p, kind in enumerate(layout) if kind in ("plain-present", "clean", "written")))
    for page in _pages(layout, "zero") + _pages(layout, "zero-written"):
        area.read(page)
    for page in _pages(layout, "guard"):
        area.part(page, page + 1).guard()
    for page in _pages(layout, "clean") + _pages(layout, "zero") + _pages(layout, "marker"):
        context.protect(area.part(page, page + 1))
    for page in _pages(layout, "unmapped"):
        area.part(page, page + 1).unmap()
    return area, context


def _pages(layout: list[str], kind: str) -> list[int]:
    return [page for page, name in enumerate(layout) if name == kind]


def _run(area: Area, request: Request) -> oracle.Answer:
    part = area.part(request.first, request.end)
    before = set(area.protected())
    error, walk_end = 0, request.end
    regions: tuple[tuple[int, int, int], ...] = ()
    try:
        scan = part.scan(
            request.flags,
            request.mask,
            request.anyof,
            request.inverted,
            request.returns,
            request.vec,
            request.max_pages,
        )
    except OSError as failure:
        error = failure.errno or 0
    else:
        assert scan.returned == len(scan.regions)
        regions = tuple((f + request.first, e + request.first, c) for f, e, c in scan.regions)
        walk_end = scan.walk_end + request.first
    return oracle.Answer(error, regions, walk_end, frozenset(set(area.protected()) - before))


@modest
@given(data=st.data(), layout=layouts)
def test_the_scan_is_what_the_oracle_says(place: Place, data: st.DataObject, layout: list[str]) -> None:
    area, context = _build(place, layout)
    pages = [KINDS[kind] for kind in layout]
    request = data.draw(requests(len(layout), place.categories))
    assert _run(area, request) == oracle.scan(pages, request)
    _discard(area, context)


def _discard(area: Area, context: Context) -> None:
    area.place.calls.munmap(area.start, area.place.huge)
    context.close()


@modest
@given(data=st.data(), layout=layouts)
def test_regions_are_aligned_sorted_disjoint_and_inside(
    place: Place, data: st.DataObject, layout: list[str]
) -> None:
    area, context = _build(place, layout)
    request = data.draw(requests(len(layout), place.categories))
    answer = _run(area, request)
    at, value = request.first - 1, -1
    for first, end, categories in answer.regions:
        assert at <= first < end <= request.end
        assert first > at or categories != value
        at, value = end, categories
    _discard(area, context)


@modest
@given(data=st.data(), layout=layouts)
def test_a_plain_scan_changes_nothing(place: Place, data: st.DataObject, layout: list[str]) -> None:
    area, context = _build(place, layout)
    request = data.draw(requests(len(layout), place.categories))
    before = area.entries()
    part = area.part(request.first, request.end)
    part.scan(0, request.mask, request.anyof, request.inverted, request.returns, request.vec)
    assert area.entries() == before
    _discard(area, context)


@modest
@given(layout=registered_layouts)
def test_nothing_is_written_after_a_complete_collection(place: Place, layout: list[str]) -> None:
    area, context = _build(place, layout)
    expected = [page for page, kind in enumerate(layout) if (KINDS[kind] or 0) & W]
    assert area.collect().pages == expected
    assert area.collect().pages == []
    assert area.written() == []
    _discard(area, context)


@modest
@given(layout=writable_layouts, first=st.integers(0, MAX_PAGES), length=st.integers(1, MAX_PAGES))
def test_protecting_twice_equals_once_and_unprotecting_makes_all_written(
    place: Place, layout: list[str], first: int, length: int
) -> None:
    first %= len(layout)
    area, context = _build(place, layout)
    part = area.part(first, min(first + length, len(layout)))
    context.protect(part)
    once = area.entries()
    context.protect(part)
    assert area.entries() == once
    assert part.written() == []
    context.unprotect(part)
    assert part.written() == list(range(part.n_pages))
    _discard(area, context)


@modest
@given(layout=writable_layouts, page=st.integers(0, MAX_PAGES))
def test_a_write_changes_its_page_and_no_other(place: Place, layout: list[str], page: int) -> None:
    page %= len(layout)
    area, context = _build(place, layout)
    before = [entry & PM_UFFD_WP for entry in area.entries()]
    area.write(page)
    after = [entry & PM_UFFD_WP for entry in area.entries()]
    assert after[page] == 0
    assert after[:page] + after[page + 1 :] == before[:page] + before[page + 1 :]
    _discard(area, context)


@modest
@given(layout=layouts, vec=st.integers(1, 8), max_pages=st.integers(0, 8))
def test_the_fast_path_and_the_general_one_agree(
    place: Place, layout: list[str], vec: int, max_pages: int
) -> None:
    area, context = _build(place, layout)
    limits: dict[str, Any] = {"vec": vec, "max_pages": max_pages, "returns": W}
    assert area.scan(mask=W, **limits) == area.scan(anyof=W, **limits)
    _discard(area, context)
