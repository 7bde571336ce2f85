"""A process to watch, for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tracker.process.targets import Target


@pytest.fixture
def target() -> Iterator[Target]:
    """A Python child; ended by force after the test."""
    with Target() as made:
        yield made
