"""One suite, two kernels: every case runs in a ``world`` of Linux and in one of the model."""

from __future__ import annotations

import pathlib
from collections.abc import Generator, Iterator

import pytest

from tests.conformance import access, machine, model_world
from tests.conformance.actions import Place
from tests.conformance.linux_world import Zygote
from tests.conformance.world import Unavailable, World


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote | str]:
    """The parent of every Linux world; a sentence where there can be none."""
    directory = tmp_path_factory.mktemp("worlds")
    try:
        source = Zygote(access.build(directory), pathlib.Path(directory))
    except Unavailable as reason:
        yield str(reason)
        return
    try:
        yield source
    finally:
        source.close()
        machine.restore()


def _linux_world(zygote: Zygote | str) -> World:
    if isinstance(zygote, str):
        pytest.skip(zygote)
    if reason := machine.lacks_userfaultfd():
        pytest.skip(reason)
    return zygote.world()


@pytest.fixture(params=["linux", "model"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One process, on the running kernel and on the model."""
    if request.param == "linux":
        process = _linux_world(request.getfixturevalue("zygote"))
    else:
        try:
            process = model_world.boot()
        except Unavailable as reason:
            pytest.skip(str(reason))
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def place(world: World) -> Place:
    """The world with the short words that cases are written in."""
    return Place(world)


def _skip_by_name() -> Generator[None, object, object]:
    """What runs inside is skipped, with the reason as its sentence, where a need of it is not met."""
    try:
        return (yield)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """A fixture may need what is not there."""
    return (yield from _skip_by_name())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """So may a case."""
    return (yield from _skip_by_name())
