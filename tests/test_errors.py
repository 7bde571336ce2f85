"""Errors outlive their process: a pool of workers pickles what a worker raises."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable

import numpy as np
import pytest

import writewatch as ww
from writewatch.abi.pagemap import PAGE_REGION

REGIONS = np.array([(0x1000, 0x2000, 2)], PAGE_REGION)

ERRORS: list[BaseException] = [
    ww.UsageError("misuse"),
    ww.KernelUnsupportedError("missing", ("wp_async",)),
    ww.TrackingLostError("lost", ww.AddrRange(0x1000, 0x2000)),
    ww.AttachError("not allowed", 17),
    ww.CorruptError("differs", 3, 4096),
    ww.ChainError("no parent"),
    ww.PartialResultError("UFFDIO_COPY", 4096, 8192),
    ww.PartialScanError(OSError(errno.EPERM, "PAGEMAP_SCAN: no"), REGIONS, 0x3000),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "again",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_an_error_arrives_as_it_was(
    error: BaseException, again: Callable[[BaseException], BaseException]
) -> None:
    arrived = again(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert getattr(arrived, "errno", None) == getattr(error, "errno", None)
    assert arrived.__dict__ == error.__dict__


def test_notes_arrive_too() -> None:
    error = ww.AttachError("not allowed", 17)
    error.add_note("of the third worker")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["of the third worker"]
