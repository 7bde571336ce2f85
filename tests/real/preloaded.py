"""A WSGI application with data that is loaded before the workers are forked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

NUMBERS = list(range(2_000_000))
counts: dict[str, int] = {}


def app(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Sums the data, which writes reference counts all over it."""
    counts[environment["PATH_INFO"]] = counts.get(environment["PATH_INFO"], 0) + 1
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(sum(NUMBERS)).encode()]
