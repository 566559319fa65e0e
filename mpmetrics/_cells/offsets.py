"""The numbers of the slab's format that the twin in Python needs; ``mpmetrics.storage.format`` explains them."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "AREA_0",
    "AREA_SIZE",
    "COMMITTED",
    "END",
    "FAMILY",
    "FAMILY_HEAD",
    "FIRST_WORD",
    "FLIPS",
    "FOLDED",
    "MAX_BODY",
    "MAX_GROWTH",
    "OVERFLOW",
    "PAGE",
    "RECORD_HEAD",
    "RECORD_MAGIC",
    "ROOM",
    "SERIES",
    "SERIES_HEAD",
    "SLAB_SIZE",
    "WORD",
    "WORDS_END",
]

WORD: Final = 8
PAGE: Final = 4096
FIRST_WORD: Final = PAGE // WORD
WORDS_END: Final = 64 // WORD
FLIPS: Final = 72 // WORD
COMMITTED: Final = 80 // WORD
ROOM: Final = 96 // WORD
AREA_0: Final = 1 << 26
AREA_SIZE: Final = 1 << 27
MAX_GROWTH: Final = 1 << 15
SLAB_SIZE: Final = AREA_0 + 2 * AREA_SIZE

RECORD_MAGIC: Final = 0x4D50524B
RECORD_HEAD: Final = struct.Struct("=IIII")
"""Magic, length of the body, CRC-32, kind."""
FAMILY_HEAD: Final = struct.Struct("=IIQ")
"""The body of a FAMILY record before the metric's fields: number, zero, time of the declaration."""
SERIES_HEAD: Final = struct.Struct("=IIQdQ")
"""The body of a SERIES record before the texts: family, words, first word, creation, generation."""
FAMILY: Final = 1
SERIES: Final = 2
END: Final = 3
FOLDED: Final = 4
MAX_BODY: Final = 1 << 20
OVERFLOW: Final = 0xFFFF
