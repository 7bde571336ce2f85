"""What the categories of a walk say, told from made-up ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from writewatch.abi.pagemap import (
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_WRITTEN,
)
from writewatch.pages import Runs, expand, no_runs
from writewatch.tracker.process.accounting import Findings, Look, clipped, findings

PAGE = 4096
HERE = PAGE_IS_PRESENT
WRITTEN = PAGE_IS_PRESENT | PAGE_IS_WRITTEN
SWAPPED = 0  # as it is returned: neither present nor, while protected, written


def runs(*pairs: tuple[int, int]) -> Runs:
    return np.array(pairs, np.int64).reshape(-1, 2)


@dataclass
class Sorts:
    """Pages 0 to 99 are anonymous, 100 to 199 of a private file, 200 to 299 shared."""

    anonymous: Runs = field(default_factory=lambda: runs((0, 100)))
    private_files: Runs = field(default_factory=lambda: runs((100, 200)))
    shared: Runs = field(default_factory=lambda: runs((200, 300)))


def found(
    *regions: tuple[int, int, int],
    held: Runs | None = None,
    whole: Runs | None = None,
    coarse: Runs | None = None,
    **others: Runs,
) -> Findings:
    words = np.array([(a * PAGE, b * PAGE, c) for a, b, c in regions], np.uint64).reshape(-1, 3)
    look = Look(words, runs((0, 300)) if whole is None else whole, **others)
    none = no_runs()
    return findings(look, Sorts(), PAGE, none if held is None else held, none if coarse is None else coarse)


def pages(of: Runs) -> list[int]:
    return [int(page) for page in expand(of)]


def test_a_region_that_spans_mappings_is_judged_in_each() -> None:
    seen = found((98, 102, WRITTEN))
    assert pages(seen.written) == [98, 99, 100, 101]
    assert pages(seen.held) == [98, 99, 100, 101]


@pytest.mark.parametrize("bit", [PAGE_IS_PFNZERO, PAGE_IS_GUARD])
def test_no_data_of_its_own_is_no_write(bit: int) -> None:
    seen = found((3, 5, WRITTEN | bit))
    assert not pages(seen.written)
    assert not pages(seen.held)


def test_pages_of_a_private_file_that_are_the_files_are_no_writes() -> None:
    seen = found((100, 101, WRITTEN | PAGE_IS_FILE), (101, 102, WRITTEN))
    assert pages(seen.written) == [101]
    assert pages(seen.held) == [101]


def test_what_held_data_and_is_gone_was_discarded() -> None:
    held = runs((3, 6), (110, 112))
    seen = found((3, 4, HERE), (4, 5, WRITTEN | PAGE_IS_PFNZERO), held=held)
    assert pages(seen.discarded) == [4, 5, 110, 111]
    assert pages(seen.held) == [3]


def test_shared_memory_that_is_not_mapped_any_more_was_written_and_evicted() -> None:
    seen = found(held=runs((200, 210)))
    assert (pages(seen.assumed), pages(seen.discarded), pages(seen.held)) == (list(range(200, 210)), [], [])
    seen = found(held=runs((200, 210)), whole=no_runs(), partial=runs((200, 300)), empty=runs((205, 206)))
    assert (pages(seen.assumed), seen.held.tolist()) == ([205], [[200, 205], [206, 210]])


def test_what_was_not_scanned_is_left_as_it_was() -> None:
    seen = found(held=runs((3, 6)), whole=runs((5, 100)))
    assert pages(seen.discarded) == [5]
    assert pages(seen.held) == [3, 4]


def test_what_is_not_mapped_any_more_is_forgotten() -> None:
    seen = found(held=runs((300, 310)), whole=no_runs())
    assert not pages(seen.held)


def test_shared_memory_seen_for_the_first_time_is_assumed_and_written_afterwards() -> None:
    assert pages(found((200, 201, WRITTEN | PAGE_IS_FILE)).assumed) == [200]
    seen = found((200, 201, WRITTEN | PAGE_IS_FILE), held=runs((200, 201)))
    assert (pages(seen.written), pages(seen.assumed)) == ([200], [])


def test_a_private_page_of_a_file_that_may_be_a_marker_or_in_swap_is_assumed() -> None:
    seen = found((100, 101, SWAPPED), (101, 102, SWAPPED), held=runs((100, 101)))
    assert (pages(seen.assumed), pages(seen.discarded)) == ([100], [])
    assert not pages(seen.held)


def test_an_anonymous_page_in_swap_still_holds_data() -> None:
    seen = found((3, 4, SWAPPED), held=runs((3, 4)))
    assert (pages(seen.held), pages(seen.discarded), pages(seen.written)) == ([3], [], [])


def test_pages_of_mappings_that_were_not_registered_are_assumed_and_cost_no_fault() -> None:
    seen = found((3, 6, WRITTEN), held=runs((3, 6)), fresh=runs((4, 10)))
    assert (pages(seen.written), pages(seen.assumed), seen.n_faults) == ([3], [4, 5], 1)


def test_what_holds_data_where_a_report_was_lost_is_assumed() -> None:
    seen = found((3, 6, HERE), held=runs((3, 6)), doubted=runs((5, 9)))
    assert (pages(seen.written), pages(seen.assumed)) == ([], [5])


def test_only_pages_that_were_protected_cost_a_fault() -> None:
    assert found((3, 6, WRITTEN), held=runs((5, 6))).n_faults == 1


def test_a_huge_page_is_assumed_in_anonymous_memory_and_not_exact_in_a_file() -> None:
    seen = found((0, 8, WRITTEN | PAGE_IS_HUGE))
    assert (pages(seen.assumed), pages(seen.written), seen.exact) == (list(range(8)), [], True)
    seen = found((200, 208, WRITTEN | PAGE_IS_HUGE), held=runs((200, 208)))
    assert (pages(seen.assumed), pages(seen.written), seen.exact) == ([], list(range(200, 208)), False)


def test_what_a_huge_entry_of_a_file_mapped_is_not_exact_until_it_was_seen_in_small_pages() -> None:
    huge = runs((200, 208))
    first = found((200, 208, WRITTEN | PAGE_IS_HUGE))
    assert pages(first.coarse) == pages(huge)
    silent = found(held=huge, coarse=huge, whole=no_runs(), partial=huge)
    assert pages(silent.coarse) == pages(huge)
    small = found((200, 208, WRITTEN), held=huge, coarse=huge)
    assert (small.exact, pages(small.coarse)) == (False, [])
    assert found((201, 202, WRITTEN), held=huge).exact


def test_nothing_found_is_nothing() -> None:
    seen = found()
    assert not any(len(one) for one in (seen.written, seen.assumed, seen.discarded, seen.held))
    assert seen.exact


def test_where_only_written_pages_are_reported_the_others_are_as_they_were() -> None:
    everywhere = {"whole": no_runs(), "partial": runs((0, 100), (200, 300))}
    seen = found((3, 4, WRITTEN), held=runs((2, 9), (200, 204)), empty=runs((5, 7), (50, 60)), **everywhere)
    assert (pages(seen.written), pages(seen.discarded)) == ([3], [5, 6])
    assert pages(seen.held) == [2, 3, 4, 7, 8, 200, 201, 202, 203]


def test_where_only_written_pages_are_reported_a_zero_page_held_data_before() -> None:
    seen = found(
        (3, 4, WRITTEN | PAGE_IS_PFNZERO), held=runs((3, 5)), whole=no_runs(), partial=runs((0, 100))
    )
    assert (pages(seen.written), pages(seen.discarded), pages(seen.held)) == ([], [3], [4])


def test_regions_that_overlap_are_both_true() -> None:
    seen = found((100, 104, HERE), (102, 103, WRITTEN), held=runs((100, 104)))
    assert (pages(seen.written), pages(seen.discarded), seen.n_faults) == ([102], [], 1)


def test_regions_are_cut_to_a_range() -> None:
    words = np.array([(0, 4, 1), (6, 8, 2), (9, 10, 3)], np.uint64)
    assert clipped(words, 3, 7).tolist() == [[3, 4, 1], [6, 7, 2]]


def test_what_is_outside_of_every_known_mapping_is_told_with_the_next_round() -> None:
    seen = found((400, 402, WRITTEN), (410, 411, HERE), whole=runs((0, 500)))
    assert pages(seen.written) == pages(seen.assumed) == []
    assert pages(seen.strays) == pages(seen.held) == [400, 401, 410]


def test_a_fresh_page_that_kept_its_protection_is_assumed() -> None:
    seen = found((3, 5, HERE), fresh=runs((3, 4), (7, 9)), whole=runs((0, 6)), partial=runs((6, 9)))
    assert pages(seen.assumed) == [3, 7, 8]
    assert pages(seen.written) == []


def test_a_fresh_page_that_was_not_scanned_stays_fresh() -> None:
    seen = found(fresh=runs((3, 5)), whole=runs((0, 4)))
    assert pages(seen.assumed) == []
    assert pages(seen.strays) == [4]
