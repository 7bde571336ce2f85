"""Kinds of memory that cases are repeated over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.conformance.actions import PRIVATE, RW, SHARED, Area, Place
from tests.conformance.world import Need
from writewatch.abi import mman


def anon(place: Place, n_pages: int) -> Area:
    return place.map(n_pages, PRIVATE)


def anon_shared(place: Place, n_pages: int) -> Area:
    return place.map(n_pages, SHARED)


def memfd_shared(place: Place, n_pages: int) -> Area:
    return place.map(n_pages, mman.MAP_SHARED, fd=place.memfd(n_pages))


def memfd_private(place: Place, n_pages: int) -> Area:
    return place.map(n_pages, mman.MAP_PRIVATE, fd=place.memfd(n_pages))


def file_private(place: Place, n_pages: int) -> Area:
    place.world.needs(Need.REGULAR_FILE)
    return place.map(n_pages, mman.MAP_PRIVATE, fd=place.world.regular_file(n_pages * place.page))


def file_private_read_only(place: Place, n_pages: int) -> Area:
    """A private, readable mapping of a file that was opened for reading only."""
    place.world.needs(Need.REGULAR_FILE)
    fd = place.world.regular_file(n_pages * place.page, writable=False)
    return place.map(n_pages, mman.MAP_PRIVATE, mman.PROT_READ, fd)


def file_shared(place: Place, n_pages: int) -> Area:
    place.world.needs(Need.REGULAR_FILE)
    return place.map(n_pages, mman.MAP_SHARED, fd=place.world.regular_file(n_pages * place.page))


def prot_none(place: Place, n_pages: int) -> Area:
    return place.map(n_pages, PRIVATE, mman.PROT_NONE)


def read_only(place: Place, n_pages: int) -> Area:
    return place.map(n_pages, PRIVATE, mman.PROT_READ)


def _huge(n_pages: int, place: Place) -> int:
    return max(1, -(-n_pages // place.per_huge))


def hugetlb_private(place: Place, n_pages: int) -> Area:
    return place.hugetlb(_huge(n_pages, place))


def hugetlb_shared(place: Place, n_pages: int) -> Area:
    return place.hugetlb(_huge(n_pages, place), shared=True)


def hugetlb_memfd(place: Place, n_pages: int) -> Area:
    place.world.needs(Need.HUGETLB)
    n_pages = _huge(n_pages, place) * place.per_huge
    return place.map(n_pages, mman.MAP_SHARED, RW, place.memfd(n_pages, mman.MFD_HUGETLB))


def thp(place: Place, n_pages: int) -> Area:
    return place.thp(_huge(n_pages, place))


Maker = Callable[[Place, int], Area]

ORDINARY: Final[dict[str, Maker]] = {
    "anon": anon,
    "anon-shared": anon_shared,
    "memfd-shared": memfd_shared,
    "memfd-private": memfd_private,
}
REGULAR: Final[dict[str, Maker]] = {"file-private": file_private, "file-shared": file_shared}
HUGETLB: Final[dict[str, Maker]] = {"hugetlb-private": hugetlb_private, "hugetlb-shared": hugetlb_shared}
EVERY: Final[dict[str, Maker]] = ORDINARY | REGULAR | HUGETLB
