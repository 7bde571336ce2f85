"""Each seeded bug is caught: by a fact that fails, or by a call that ends where it should not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.model.facts import FACTS
from tests.model.mutations import MUTATIONS, seeded


def _holds(fact: Callable[[], None]) -> bool:
    try:
        fact()
    except (Exception, pytest.fail.Exception):
        return False
    return True


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_fact(fact: Callable[[], None]) -> None:
    fact()


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name: str) -> None:
    with seeded(name):
        assert not all(_holds(fact) for fact in FACTS)


def test_the_model_is_whole_again_afterwards() -> None:
    for name in MUTATIONS:
        with seeded(name):
            pass
    assert all(_holds(fact) for fact in FACTS)
