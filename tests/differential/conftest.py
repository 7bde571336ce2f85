"""The Linux worlds of the conformance suite, and the sides made from them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.conformance import access, machine, model_world
from tests.conformance.linux_world import Zygote
from tests.conformance.world import Unavailable
from tests.differential.driver import Pair, available_options
from tests.differential.sides import linux_side, model_side


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Opens both sides; skipped with a sentence where one of them cannot be."""
    directory = tmp_path_factory.mktemp("sides")
    if reason := machine.lacks_userfaultfd() or machine.is_not_the_models_kernel():
        pytest.skip(reason)
    try:
        model_world.boot()
        zygote = Zygote(access.build(directory), pathlib.Path(directory))
    except Unavailable as reason:
        pytest.skip(str(reason))
    try:
        yield Pair(lambda: linux_side(zygote), model_side, available_options())
    finally:
        zygote.close()
        machine.restore()
