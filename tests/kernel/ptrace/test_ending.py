"""The target exits, or runs another program, while it is attached to: it ends as it would have, and nothing hangs."""

from __future__ import annotations

import os
import random

import pytest

from tests.kernel.ptrace.target import Target
from writewatch.errors import AttachError
from writewatch.kernel.ptrace.attaching import take_userfaultfd

pytestmark = pytest.mark.usefixtures("attachable")


@pytest.mark.parametrize("how", ["exit", "exec"])
def test_a_target_that_ends_at_a_random_moment(how: str, soak: int) -> None:
    moments = random.Random(how)
    outcomes = set()
    for _ in range(25 * soak):
        with Target("ending", how, str(moments.randrange(20_000))) as target:
            outcomes |= {_outcome(target.pid) for _ in range(3)}
            assert target.wait() == 5
    assert "taken" in outcomes
    assert outcomes <= {"taken", "has already exited (zombie)", "is gone"}


def _outcome(pid: int) -> str:
    try:
        os.close(take_userfaultfd(pid, deadline_s=10).fd)
    except AttachError as error:
        return str(error).replace(f"process {pid} ", "")
    return "taken"
