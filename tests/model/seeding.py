"""How a bug is seeded: a function, or one cell of a table, is replaced while a context is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from writewatch.model.rules import Becomes, Kind

Patch = Callable[[], Any]


def replace(module: Any, name: str, make: Callable[[Any], Any]) -> Patch:
    """Replace a function by what ``make`` returns for the right one."""
    return lambda: mock.patch.object(module, name, make(getattr(module, name)))


def rewrite(module: Any, table: str, kind: Kind, becomes: Becomes) -> Patch:
    """Change one cell of one of the model's tables, as a module has imported it."""
    return replace(module, table, lambda right: {**right, kind: becomes})
