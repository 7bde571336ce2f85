"""The colours of a heatmap: one ramp for light paper, one for dark, both of steadily changing lightness.

So they can be told apart whatever colours an eye sees, and printed in grey. A cell's value is the share of
its pages that was written; the ramp is logarithmic, and the least share still stands out from the paper:
**a cell with any write is visible**.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rgb: TypeAlias = tuple[int, int, int]

#: Shares from here down have the first colour.
LEAST_SHARE: Final = 1e-3
#: Theme -> colours from the least share to all.
RAMPS: Final[dict[str, tuple[Rgb, ...]]] = {
    "light": ((168, 205, 231), (107, 174, 214), (49, 126, 184), (16, 78, 139), (8, 32, 75)),
    "dark": ((35, 84, 125), (42, 123, 155), (78, 163, 150), (160, 200, 120), (253, 234, 101)),
}
#: Theme -> colour of what was not written.
PAPER: Final[dict[str, Rgb]] = {"light": (246, 247, 249), "dark": (20, 24, 31)}


def levels(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shares as positions in a palette: 0 for none, then 1 to 255."""
    position = 1 + np.log10(np.clip(shares, LEAST_SHARE, 1.0) / LEAST_SHARE) / -np.log10(LEAST_SHARE) * 254
    return np.where(shares > 0, np.round(position), 0).astype(np.uint8)


def palette(theme: str) -> NDArray[np.uint8]:
    """(256, 3) the colour of each level."""
    stops = np.array(RAMPS[theme], np.float64)
    at = np.linspace(0, len(stops) - 1, 255)
    ramp = np.stack([np.interp(at, np.arange(len(stops)), stops[:, n]) for n in range(3)], axis=1)
    return np.vstack([[PAPER[theme]], np.round(ramp)]).astype(np.uint8)


def hex_text(colour: Rgb) -> str:
    """As CSS has it."""
    return "#" + "".join(f"{part:02x}" for part in colour)
