"""A second statement of PAGEMAP_SCAN (sections 6.3 to 6.5), made from page categories alone.

It knows small pages whose page table exists, and vecs of at most 512 regions; nothing of VMAs, tables or
huge pages. Kept as small as it can be: it is believed because it can be read.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from tests.conformance.actions import A, W
from writewatch.abi.pagemap import PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING


@dataclass(frozen=True)
class Request:
    """The fields of a scan over pages ``[first, end)``; vec None is a null pointer of length 0."""

    first: int
    end: int
    flags: int = 0
    mask: int = 0
    anyof: int = 0
    inverted: int = 0
    returns: int = 0
    vec: int | None = 4096
    max_pages: int = 0


@dataclass(frozen=True)
class Answer:
    """What the scan answers, and the pages that have the uffd-wp bit afterwards because of it."""

    error: int
    regions: tuple[tuple[int, int, int], ...]
    walk_end: int
    protected: frozenset[int]


def matches(categories: int, request: Request) -> bool:
    """The filter of section 6.4."""
    seen = categories ^ request.inverted
    anyof = request.anyof == 0 or seen & request.anyof
    return seen & request.mask == request.mask and bool(anyof)


def scan(pages: list[int | None], request: Request) -> Answer:
    """Answer a request; ``pages[i]`` are the categories of page i, None where nothing is mapped."""
    regions: list[list[int]] = []
    protected: set[int] = set()
    protecting = request.flags & PM_SCAN_WP_MATCHING
    left = request.max_pages or 1 << 64
    for page in range(request.first, request.end):
        c = pages[page]
        if c is None:
            continue
        if not c & A and request.flags & PM_SCAN_CHECK_WPASYNC:
            return Answer(errno.EPERM, (), request.end, frozenset(protected))
        if not c & A and protecting:
            continue
        if protecting and not request.vec and c & W and not _skips_vma(c, request):
            protected.add(page)  # the filter is ignored without a vec
        if not matches(c, request) or not request.vec:
            continue
        extends = bool(regions) and regions[-1][1] == page and regions[-1][2] == c & request.returns
        if not left or (not extends and len(regions) == request.vec):
            return Answer(0, _frozen(regions), page, frozenset(protected))
        left -= 1
        if extends:
            regions[-1][1] = page + 1
        else:
            regions.append([page, page + 1, c & request.returns])
        if protecting and c & W:
            protected.add(page)
    return Answer(0, _frozen(regions), request.end, frozenset(protected))


def _skips_vma(categories: int, request: Request) -> bool:
    """Section 6.3, rule 4: WPALLOWED in the mask is tested once for the VMA."""
    return bool(request.mask & A) and not (categories ^ request.inverted) & A


def _frozen(regions: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((first, end, categories) for first, end, categories in regions)
