"""What a read of a mapped file maps besides the page that was read: mm/filemap.c:filemap_map_pages()."""

from __future__ import annotations

import pytest

from tests.conformance.actions import Place
from tests.conformance.machine import is_not_the_models_kernel
from tests.conformance.world import MemorySignal
from writewatch.abi import mman
from writewatch.abi.pagemap import PM_PRESENT

N_PAGES = 4


def _present_after_reading(place: Place, page: int, *, table: bool) -> list[int]:
    """Pages of a file of four that are mapped after a read beyond its end; only its last page is in reach."""
    whole = place.aligned(512)
    fd = place.world.regular_file(N_PAGES * place.page)
    place.calls.pwrite(fd, b"x" * N_PAGES * place.page, 0)
    if table:
        whole.write(100)  # the same PMD: its page table is there
    area = place.map_at(whole.start, 16, mman.MAP_PRIVATE, fd=fd)
    area.part(0, 3).unmap()
    with pytest.raises(MemorySignal):
        area.read(page)
    return [page for page, entry in enumerate(area.entries()) if entry & PM_PRESENT]


def test_a_read_beyond_the_end_maps_the_last_page_where_a_page_table_is(place: Place) -> None:
    assert _present_after_reading(place, 5, table=True) == [3]


@pytest.mark.skipif(
    bool(is_not_the_models_kernel()), reason="older kernels map it: " + is_not_the_models_kernel()
)
def test_a_read_beyond_the_end_maps_nothing_where_no_page_table_is(place: Place) -> None:
    assert _present_after_reading(place, 5, table=False) == []
