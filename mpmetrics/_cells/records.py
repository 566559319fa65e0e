"""Copy a slab's records while its writer may move them, and find records among damaged bytes."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final, NamedTuple

from mpmetrics._cells.offsets import AREA_0, AREA_SIZE, COMMITTED, FLIPS, MAX_BODY, RECORD_HEAD, RECORD_MAGIC

__all__ = ["Copy", "FamilyRecord", "Records", "copy_records"]

CHECK_BUDGET: Final = 1 << 26
"""Bytes of damaged records whose checksums are computed, at most; bounds the time that a damaged file costs."""

_MAGIC: Final = struct.pack("=I", RECORD_MAGIC)


COPIES: Final = 256
"""How often to copy records again because their writer has flipped meanwhile."""


class Copy(NamedTuple):
    """A consistent copy of a slab's records: the writer did not flip while they were copied."""

    data: bytes
    start: int
    """Their offset in the area."""
    flips: int
    is_restart: bool
    """Whether they are all records of the slab, because the writer has moved those that were read before."""
    wanted: int
    """Where the committed records end in the file."""
    is_partial: bool
    """Whether the file was shorter than that when its size was last checked."""


def copy_records(
    view: memoryview[Any], head: memoryview[Any], limit: int, flips: int | None, position: int
) -> Copy | None:
    """Copy the records of a file of ``limit`` bytes from ``position`` on; all of them if ``flips`` has changed.

    None when the writer flips too often to copy them.
    """
    for _ in range(COPIES):
        now = head[FLIPS]
        end = head[COMMITTED + (now & 1)] & ~7
        is_restart = now != flips or end < position
        start = 0 if is_restart else position
        area = AREA_0 + (now & 1) * AREA_SIZE
        there = max(0, min(limit - area, AREA_SIZE)) & ~7
        data = bytes(view[area + start : area + min(end, there)])
        if head[FLIPS] == now:  # else the writer may have overwritten the area during the copy
            return Copy(data, start, now, is_restart, area + end, end > there)
    return None


class FamilyRecord(NamedTuple):
    """A FAMILY record: number, time of the declaration (ns), and the packed fields of the metric."""

    number: int
    declared: int
    packed: bytes


class Records:
    """Finds records; gives up when damaged ones have used up CHECK_BUDGET."""

    def __init__(self) -> None:
        self.check_budget = CHECK_BUDGET

    def record(self, data: bytes, at: int) -> tuple[int, bytes, int] | None:
        """Kind and body of the record at ``at``, and where the next begins; None if the record is not valid."""
        start = at + RECORD_HEAD.size
        if start > len(data) or self.check_budget < 0:
            return None
        magic, length, checksum, kind = RECORD_HEAD.unpack_from(data, at)
        if magic != RECORD_MAGIC or length > MAX_BODY or start + length > len(data):
            return None
        body = data[start : start + length]
        if zlib.crc32(body, kind) != checksum:
            self.check_budget -= length
            return None
        return kind, body, start + (length + 7 & ~7)

    def is_incomplete(self, data: bytes, at: int) -> bool:
        """Whether the record at ``at`` extends beyond the end of ``data``."""
        start = at + RECORD_HEAD.size
        if start > len(data):
            return True
        magic, length, _, _ = RECORD_HEAD.unpack_from(data, at)
        return bool(magic == RECORD_MAGIC and length <= MAX_BODY and start + length > len(data))

    def find(self, data: bytes, at: int) -> int:
        """Where the next valid record behind a damaged one begins; the end of ``data`` if there is none."""
        while self.check_budget >= 0:
            at = data.find(_MAGIC, at + 1)
            while at >= 0 and at % 8:
                at = data.find(_MAGIC, at + 1)
            if at < 0:
                break
            if self.record(data, at) is not None:
                return at
        return len(data)
