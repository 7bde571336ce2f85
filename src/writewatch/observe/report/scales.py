"""Round numbers for axes, and what to write at them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

_SECONDS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def byte_ticks(most: float, n: int = 4) -> list[float]:
    """0 and multiples of a power of two, about ``n`` of them, the last at or above ``most``."""
    step = 1.0
    while most / step > n:
        step *= 2
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)] if most > 0 else [0.0, 1.0]


def time_ticks(duration_s: float, n: int = 8) -> Iterator[tuple[float, str]]:
    """Times from 0 on, with their text."""
    steps = [10.0**-k * m for k in range(6, 0, -1) for m in (1, 2, 5)] + [float(one) for one in _SECONDS]
    step = next((one for one in steps if duration_s / one <= n), duration_s / n)
    for number in range(math.floor(duration_s / step + 1e-9) + 1):
        yield number * step, seconds_text(number * step, step)


def seconds_text(seconds: float, step: float = 1.0) -> str:
    """Seconds, or minutes and hours with colons, with as many digits as tell apart what is ``step`` away."""
    digits = max(0, min(6, math.ceil(-math.log10(step) - 1e-9)))
    if seconds < 120:
        return f"{seconds:.{digits}f} s"
    minutes, rest = divmod(round(seconds, digits), 60)
    padded = f"{rest:0{3 + digits if digits else 2}.{digits}f}"
    if minutes < 60:
        return f"{minutes:.0f}:{padded} min"
    return f"{minutes // 60:.0f}:{minutes % 60:02.0f}:{padded} h"


def length_text(seconds: float) -> str:
    """A length of time in two digits that count: ``0.25 s``, ``12 s``, ``3.4 min``, ``2.5 h``."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{_two(seconds / size)} {unit}"
    return f"{_two(seconds)} s" if seconds >= 0.1 else f"{_two(seconds * 1000)} ms"


def _two(value: float) -> str:
    text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
