"""An image with a palette as PNG, in thirty lines: a page can hold the heatmap where no plotting library is."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def png(levels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> bytes:
    """The file.

    Args:
        levels: (height, width) positions in the palette.
        colours: (n, 3) the palette, n at most 256.
    """
    height, width = levels.shape
    # Each row begins with the number of its filter; 0 is none (PNG specification, section 9).
    rows = np.concatenate((np.zeros((height, 1), np.uint8), levels), axis=1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
