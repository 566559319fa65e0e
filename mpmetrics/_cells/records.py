"""Finding records in bytes of which some may be damaged; for the twins in Python."""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from mpmetrics._cells.offsets import MAX_BODY, RECORD_HEAD, RECORD_MAGIC

__all__ = ["FamilyRecord", "Records"]

PATIENCE: Final = 1 << 26
"""Bytes of damaged records whose checksums are computed."""

_MAGIC: Final = struct.pack("=I", RECORD_MAGIC)


class FamilyRecord(NamedTuple):
    """A FAMILY record: number, time of the declaration in ns, and the packed fields of the metric."""

    number: int
    declared: int
    packed: bytes


class Records:
    """Finds records, and gives up once damaged ones have taken too long."""

    def __init__(self) -> None:
        self.patience = PATIENCE

    def record(self, data: bytes, at: int) -> tuple[int, bytes, int] | None:
        """Kind and body of the record there, and where the next one begins; None when there is no valid one."""
        start = at + RECORD_HEAD.size
        if start > len(data) or self.patience < 0:
            return None
        magic, length, checksum, kind = RECORD_HEAD.unpack_from(data, at)
        if magic != RECORD_MAGIC or length > MAX_BODY or start + length > len(data):
            return None
        body = data[start : start + length]
        if zlib.crc32(body, kind) != checksum:
            self.patience -= length
            return None
        return kind, body, start + (length + 7 & ~7)

    def goes_on(self, data: bytes, at: int) -> bool:
        """Whether the record there goes on behind the end of ``data``."""
        start = at + RECORD_HEAD.size
        if start > len(data):
            return True
        magic, length, _, _ = RECORD_HEAD.unpack_from(data, at)
        return bool(magic == RECORD_MAGIC and length <= MAX_BODY and start + length > len(data))

    def find(self, data: bytes, at: int) -> int:
        """Where the next valid record begins behind a damaged one, or the end."""
        while self.patience >= 0:
            at = data.find(_MAGIC, at + 1)
            while at >= 0 and at % 8:
                at = data.find(_MAGIC, at + 1)
            if at < 0:
                break
            if self.record(data, at) is not None:
                return at
        return len(data)
