"""Finding the removals that matter to a process among all that others have appended; the pure-Python twin."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from mpmetrics._cells.offsets import MAX_BODY, RECORD_HEAD, RECORD_MAGIC, WORD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpmetrics._cells.children import Children

__all__ = ["find_removals"]

REMOVE = 5
_BODY = struct.Struct("=QIHH")
_MAGIC = struct.pack("=I", RECORD_MAGIC)


def find_removals(
    data: bytes, after: int, upto: int, metrics: Mapping[str, Children] | None
) -> tuple[int, int, list[bytes]]:
    """Where the removals up to generation ``upto`` end, how many gaps there were, and the bodies that matter.

    Those are the ones of a generation past ``after``; with ``metrics``, only those of a metric of which this process
    has series, by its name, and where that can be told at once, of a series that it has.
    """
    at = end = gaps = gap = 0
    bodies: list[bytes] = []
    while at < len(data):
        start, body = _next_record(data, at)
        gap += start != at
        if start >= len(data):
            break
        at = start + RECORD_HEAD.size + len(body)
        at += -at % WORD
        kind = RECORD_HEAD.unpack_from(data, start)[3]
        if kind != REMOVE or len(body) < _BODY.size:
            gap += 1
            continue
        generation, _, count, length = _BODY.unpack_from(body)
        if generation > upto:
            break
        end, gaps, gap = min(at, len(data)), gaps + gap, 0
        if generation > after and (metrics is None or _matters(body, count, length, metrics)):
            bodies.append(body)
    return end, gaps, bodies


def _matters(body: bytes, count: int, length: int, metrics: Mapping[str, Children]) -> bool:
    start = _BODY.size - 2 + 2 * count
    series = metrics.get(body[start : start + length].decode("utf-8", "replace"))
    return series is not None and len(series) > 0


def _next_record(data: bytes, at: int) -> tuple[int, bytes]:
    """Where the next whole record begins, at or behind ``at``, and its body; the end of ``data`` when there is none."""
    while 0 <= at < len(data):
        if at + RECORD_HEAD.size <= len(data):
            magic, length, checksum, kind = RECORD_HEAD.unpack_from(data, at)
            body = data[at + RECORD_HEAD.size : at + RECORD_HEAD.size + length]
            is_whole = magic == RECORD_MAGIC and length <= MAX_BODY and len(body) == length
            if is_whole and zlib.crc32(body, kind) == checksum:
                return at, body
        at = data.find(_MAGIC, at + 1)
        while at >= 0 and at % WORD:
            at = data.find(_MAGIC, at + 1)
    return len(data), b""
