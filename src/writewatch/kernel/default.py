"""Which ``KernelCalls`` serve when none is named: those of the running kernel, less what the switch hides."""

from __future__ import annotations

import os
from typing import Final

from writewatch.abi.calls import KernelCalls
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.hiding import hide, parse_hidden

#: Names of features, separated by commas, that the running kernel shall seem to lack (``kernel/hiding.py``).
HIDE_VARIABLE: Final = "WRITEWATCH_HIDE"


def default_calls() -> KernelCalls:
    """The running kernel; looking older when ``WRITEWATCH_HIDE`` names features.

    The same object for the same value of the variable, so results can be kept per object.

    Raises:
        UsageError: The variable names a feature that cannot be hidden.
    """
    names = os.environ.get(HIDE_VARIABLE, "")
    calls = _made.get(names)
    if calls is None:
        # Several threads may come here at once, and all have to get the same: what one of them put there first.
        calls = _made.setdefault(names, hide(LinuxCalls(), parse_hidden(names)))
    return calls


_made: Final[dict[str, KernelCalls]] = {}
