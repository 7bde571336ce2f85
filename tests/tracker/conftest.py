"""Fixtures of the tracker's tests: what the machine can do, and a skip by name where it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

import writewatch as ww
from writewatch.tracker.select import BACKENDS, ranking

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.kernel("uffd_wp_async")``: run only where the probe says that it works."""
    for mark in item.iter_markers("kernel"):
        for name in mark.args:
            skip_without(name)


def skip_without(name: str) -> None:
    """Skip the running test where a capability does not work, with the probe's reason."""
    capability = ww.capabilities()[name]
    if not capability.works:
        pytest.skip(f"{name}: {capability.detail}")


@pytest.fixture
def needs() -> Callable[[str], None]:
    """For tests whose need depends on a parameter: call it with the name of a capability."""
    return skip_without


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """Name of each backend that works here."""
    name: str = request.param
    choice = next(choice for choice in ranking(ww.capabilities()) if choice.name == name)
    if not choice.works:
        pytest.skip(f"{name}: {choice.why}")
    return name


@pytest.fixture(scope="session")
def page_size() -> int:
    """Bytes of a base page."""
    return ww.capabilities().page_size
