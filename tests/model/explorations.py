"""``python -m tests.model.explorations``: the programs of test_explore.py and larger ones, with states and time."""

from __future__ import annotations

from collections.abc import Callable

from tests.model import test_explore as small
from tests.model.programs import Saving
from writewatch.model.exploration import Scenario, explore


def two_writers_and_two_rounds() -> Scenario:
    saving = Saving(small.N_PAGES)
    return saving.scenario(
        one=saving.writer([0, 1], 7), two=saving.writer([1, 2], 9), collector=saving.collector(rounds=2)
    )


PROGRAMS: dict[str, Callable[[], Scenario]] = {
    "get+protect, two writers": small.together,
    "get+protect, two collectors": small.two_collectors,
    "get+protect, MADV_DONTNEED": small.with_dontneed,
    "get+protect, fork": small.with_fork,
    "get+protect twice, two writers": two_writers_and_two_rounds,
    "synchronous, two writers and a handler": small.handled,
    "get, then protect, two writers": small.apart,
    "get+protect, and get, then protect": small.together_and_apart,
}

if __name__ == "__main__":
    for name, program in PROGRAMS.items():
        print(f"{name}: {explore(program)}", flush=True)
