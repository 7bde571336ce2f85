"""What ``import writewatch`` costs in a fresh interpreter, and what it drags in."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import Final

from writewatch.observe.benchmark.timing import Effort, Spread, interleave

#: Packages of the extras, and those that an integration may use: none belongs into a plain import.
OPTIONAL: Final = (
    "click",
    "fsspec",
    "matplotlib",
    "obstore",
    "pandas",
    "pyarrow",
    "rich",
    "textual",
    "torch",
    "xxhash",
)

# The clock runs inside, so that starting Python is not counted.
_CHILD: Final = """
import json, sys, time
began = time.perf_counter_ns()
import {module}
took = time.perf_counter_ns() - began
print(json.dumps([took, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


@dataclass(frozen=True, slots=True)
class ImportCost:
    """Nanoseconds of two imports, in turn, each in a fresh interpreter with warm file caches.

    Attributes:
        writewatch_ns: With NumPy, which it needs.
        numpy_ns: NumPy alone.
        optional: Optional packages that were loaded with it; the budget allows none.
    """

    writewatch_ns: Spread
    numpy_ns: Spread
    optional: tuple[str, ...]


def import_cost(n_imports: int) -> ImportCost:
    """Import in turn, so often."""
    subjects = {name: partial(_import_ns, name) for name in ("writewatch", "numpy")}
    taken = interleave(subjects, Effort(warmups=1, least=n_imports, most=n_imports))
    loaded = _import_in_child("writewatch")[1]
    optional = tuple(name for name in OPTIONAL if name in loaded)
    return ImportCost(Spread.of(taken["writewatch"]), Spread.of(taken["numpy"]), optional)


def _import_ns(module: str) -> int:
    return _import_in_child(module)[0]


def _import_in_child(module: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-c", _CHILD.format(module=module)]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    took, loaded = json.loads(output)
    return took, loaded
