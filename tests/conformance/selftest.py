"""How the kernel's pagemap_ioctl selftest arms memory and scans it."""

from __future__ import annotations

from tests.conformance.actions import ASYNC, GET_AND_PROTECT, Area, Context, Place, Scan, W
from writewatch.abi import userfaultfd as uf

FEATURES = uf.UFFD_FEATURE_WP_UNPOPULATED | ASYNC | uf.UFFD_FEATURE_WP_HUGETLBFS_SHMEM


def arm(place: Place, area: Area) -> Context:
    """REGISTER, WRITEPROTECT, then the vec-less scan of the selftest."""
    context = place.context(FEATURES)
    context.register(area)
    context.protect(area)
    protect_again(area)
    return context


def protect_again(area: Area) -> None:
    area.scan(GET_AND_PROTECT, mask=W, returns=W, vec=None)


def plain(area: Area, vec: int, max_pages: int = 0) -> Scan:
    return area.scan(mask=W, returns=W, vec=vec, max_pages=max_pages)
