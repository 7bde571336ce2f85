"""Tensors of torch as they are: layouts, training, what has no memory here. ``test_buffers.py`` has a stand-in."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import writewatch as ww
from writewatch.kernel.default import default_calls
from writewatch.tracker.buffers import resolve

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

LAYOUTS: dict[str, Callable[[], Any]] = {
    "contiguous": lambda: torch.zeros(2048, 64),
    "transposed": lambda: torch.zeros(64, 2048).t(),
    "every other row": lambda: torch.zeros(4096, 64)[::2],
    "parameter": lambda: torch.nn.Parameter(torch.zeros(2048, 64)),
    "bfloat16": lambda: torch.zeros(2048, 64, dtype=torch.bfloat16),
    "bool": lambda: torch.zeros(2048, 64, dtype=torch.bool),
    "complex, conjugated": lambda: torch.zeros(2048, 64, dtype=torch.complex64).conj(),
    "of an array": lambda: torch.from_numpy(np.zeros((2048, 64), "f4")),
    "no dimension": lambda: torch.zeros(()),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_tensor_of_any_layout_is_tracked_where_it_lies(make: Callable[[], Any], backend: str) -> None:
    tensor = make()
    with ww.track(tensor, backend=backend) as tracker, torch.no_grad():
        row = tensor[5] if tensor.dim() else tensor
        row.fill_(1)
        dirty = tracker.collect()
    touched = resolve(row).span
    assert touched.start in dirty
    assert touched.end - 1 in dirty


def test_an_empty_tensor_has_nothing_to_report() -> None:
    tensor = torch.zeros(0, 4)
    with ww.track(tensor) as tracker:
        assert tracker.collect().rows(tensor).tolist() == []


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.zeros(8, 8).to_sparse(), "has no plain memory"),
    "meta": (lambda: torch.zeros(8, 8, device="meta"), "lives on meta"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_tensor_without_memory_of_this_process_is_refused(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(ww.UsageError, match=why):
        ww.track(make())


def test_no_row_that_training_changed_is_missed(backend: str) -> None:
    torch.manual_seed(1)
    embedding = torch.nn.Embedding(20_000, 64, sparse=True)
    optimiser = torch.optim.SGD(embedding.parameters(), lr=0.1)
    before = embedding.weight.detach().clone()
    with ww.track(embedding.weight, backend=backend) as tracker:
        for _ in range(4):
            optimiser.zero_grad()
            embedding(torch.randint(0, 20_000, (64,))).pow(2).sum().backward()
            optimiser.step()
            rows = tracker.collect().rows(embedding.weight).tolist()
            now = embedding.weight.detach().clone()
            changed = (now != before).any(1).nonzero().flatten().tolist()
            assert changed
            assert all(any(first <= row < last for first, last in rows) for row in changed)
            before = now


def test_a_parameter_that_was_given_other_memory_is_not_called_clean() -> None:
    linear = torch.nn.Linear(256, 256)
    with ww.track(linear.weight) as tracker:
        linear.half()
        dirty = tracker.collect()
        with pytest.raises(ww.UsageError, match="not wholly inside what was tracked"):
            dirty.rows(linear.weight)


def test_memory_that_a_parameter_gave_up_is_kept_until_the_tracker_is_closed() -> None:
    linear = torch.nn.Linear(1024, 1024)
    span = resolve(linear.weight).span
    content = default_calls().load(span.start, span.length)
    with ww.track(linear.weight):
        linear.half()
        gc.collect()
        assert default_calls().peek(span.start, span.length) == content
