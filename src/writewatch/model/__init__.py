"""Linux's write-protection by userfaultfd as an executable specification. Theory: ``README.md`` beside this file.

``ModelCalls`` serves ``writewatch.abi.calls.KernelCalls`` on simulated memory: ``ModelCalls(Machine(Settings(...)))``
boots a machine with one process. ``explore`` visits every interleaving of a small program on it, ``replay`` and
``run_at_random`` one of them.
"""

from writewatch.model.calls import ModelCalls
from writewatch.model.exploration import Exploration, Failure, Scenario, explore, replay, run_at_random
from writewatch.model.machine import Machine, Settings

__all__ = [
    "Exploration",
    "Failure",
    "Machine",
    "ModelCalls",
    "Scenario",
    "Settings",
    "explore",
    "replay",
    "run_at_random",
]
