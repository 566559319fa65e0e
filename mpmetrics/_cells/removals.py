"""Find the removals that may end a series of this process; the pure-Python twin."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mpmetrics._cells.records import Records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpmetrics._cells.children import Children

__all__ = ["find_removals"]

REMOVE = 5
_BODY = struct.Struct("=QIHH")


def find_removals(
    data: bytes, after: int, upto: int, metrics: Mapping[str, Children] | None
) -> tuple[int, int, list[bytes]]:
    """Where the removals up to generation ``upto`` end, how many gaps there were, and the bodies that matter.

    A body matters if its generation is above ``after``. With ``metrics`` (by name), its metric must also have series in
    this process; the compiled twin checks for the very series where that is cheap.
    """
    at = end = gaps = gap = 0
    bodies: list[bytes] = []
    records = Records()
    while at < len(data):
        found = records.record(data, at)
        if found is None:
            gap += 1
            at = records.find(data, at)
            continue
        kind, body, at = found
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
