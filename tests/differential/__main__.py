"""``python -m tests.differential STEPS [SEED]``: the long run. Exit 1 on a divergence, with a script to replay.

``python -m tests.differential --replay FILE``: run a printed script again.
"""

from __future__ import annotations

import argparse
import ast
import pathlib
import sys
import tempfile
import time

from tests.conformance import access, machine
from tests.conformance.linux_world import Zygote
from tests.differential.driver import Divergence, available_options, compare, compare_twice, observed, shrink
from tests.differential.script import Script, options_of
from tests.differential.sides import Side, linux_side, model_side

SESSION = 200  # operations on one pair of fresh processes


class Run:
    """A long comparison with its counts."""

    def __init__(self, zygote: Zygote, *, against_itself: bool) -> None:
        self._zygote = zygote
        self._against_itself = against_itself
        self.steps = 0
        self.disturbed = 0
        self.started = time.monotonic()

    def linux(self) -> Side:
        return linux_side(self._zygote)

    def other(self) -> Side:
        return linux_side(self._zygote) if self._against_itself else model_side()

    def until(self, steps: int, seed: int) -> Divergence | None:
        """Scripts of consecutive seeds until that many steps are done or one differs."""
        options = available_options()
        while self.steps < steps:
            script = observed(Script(seed, options_of(seed, options)).operations(SESSION))
            divergence, disturbed = compare_twice(self.linux, self.other, script)
            self.disturbed += disturbed
            if divergence is not None:
                print(f"seed {seed} differs after {self.steps} steps; shrinking")
                return shrink(self.linux, self.other, divergence)
            self.steps += SESSION
            seed += 1
            self._report(steps)
            machine.refill_pool()
        return None

    def _report(self, steps: int) -> None:
        if self.steps % (SESSION * 50) == 0 or self.steps >= steps:
            seconds = time.monotonic() - self.started
            rate = self.steps / seconds
            print(
                f"{self.steps} of {steps} steps, {rate:.0f} a second, {self.disturbed} disturbed", flush=True
            )


def main(arguments: list[str]) -> int:
    """Run, and print what differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("steps", nargs="?", type=int, default=20_000)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument(
        "--replay", type=pathlib.Path, help="a file that holds the printed list of operations"
    )
    parser.add_argument(
        "--against-itself", action="store_true", help="Linux on both sides, to find what varies"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        zygote = Zygote(access.build(directory), directory)
        try:
            run = Run(zygote, against_itself=options.against_itself)
            if options.replay:
                script = ast.literal_eval(options.replay.read_text(encoding="utf-8"))
                divergence = compare(run.linux, run.other, script)
            else:
                divergence = run.until(options.steps, options.seed)
        finally:
            zygote.close()
            machine.restore()
    print(divergence or "no divergence")
    return 1 if divergence else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
