"""Packing a record and its texts in Python.

The hot ones, SERIES and END, are written and read by ``mpmetrics._cells``; what is here serves the rare ones.
"""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["encode_record", "pack_texts", "unpack_texts"]

_COUNT = struct.Struct("=H")


def encode_record(kind: int, body: bytes) -> bytes:
    """One record, padded to a multiple of 8 bytes; FormatError when the body is over the limit."""
    if len(body) > fmt.MAX_BODY:
        msg = f"a record of {len(body)} bytes is over the limit of {fmt.MAX_BODY}"
        raise FormatError(msg)
    head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(body), zlib.crc32(body, kind), kind)
    return head + body + b"\0" * (-len(body) % fmt.WORD)


def pack_texts(texts: Sequence[str]) -> bytes:
    """Texts as records hold them; ValueError when one is too long, or UTF-8 cannot carry it."""
    encoded = [text.encode() for text in texts]
    try:
        lengths = struct.pack(f"={len(encoded) + 1}H", len(encoded), *map(len, encoded))
    except struct.error as error:
        msg = f"{len(encoded)} texts of up to {max(map(len, encoded))} bytes are no texts of a record"
        raise ValueError(msg) from error
    return lengths + b"".join(encoded)


def unpack_texts(data: bytes, offset: int) -> list[str]:
    """The texts at ``offset`` to the end of ``data``; ValueError when there are none."""
    try:
        (count,) = _COUNT.unpack_from(data, offset)
        lengths = struct.unpack_from(f"={count}H", data, offset + _COUNT.size)
    except struct.error as error:
        msg = f"no texts: {error}"
        raise ValueError(msg) from error
    ends = list(accumulate(lengths, initial=offset + _COUNT.size * (1 + count)))
    if ends[-1] != len(data):
        msg = f"texts of {ends[-1]} bytes in {len(data)}"
        raise ValueError(msg)
    return [data[low:high].decode() for low, high in pairwise(ends)]
