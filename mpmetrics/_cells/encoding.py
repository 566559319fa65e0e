"""Encode records, and encode and decode texts, as ``mpmetrics.storage.format`` specifies."""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from mpmetrics._cells.offsets import MAX_BODY, OVERFLOW, RECORD_HEAD, RECORD_MAGIC, WORD
from mpmetrics.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["encode_record", "pack_texts", "unpack_texts"]

_COUNT: Final = struct.Struct("=H")


def encode_record(kind: int, body: bytes) -> bytes:
    """One record, padded to a multiple of 8 bytes; FormatError when the body is over the limit."""
    if len(body) > MAX_BODY:
        msg = f"a record of {len(body)} bytes is over the limit of {MAX_BODY}"
        raise FormatError(msg)
    head = RECORD_HEAD.pack(RECORD_MAGIC, len(body), zlib.crc32(body, kind), kind)
    return head + body + b"\0" * (-len(body) % WORD)


def pack_texts(texts: Sequence[str] | None) -> bytes:
    """Texts as records hold them; None stands for the overflow series. ValueError when no record can hold them."""
    if texts is None:
        return _COUNT.pack(OVERFLOW)
    encoded = [text.encode() for text in texts]
    try:
        lengths = struct.pack(f"={len(encoded) + 1}H", len(encoded), *map(len, encoded))
    except struct.error as error:
        msg = f"{len(encoded)} texts of up to {max(map(len, encoded))} bytes do not fit into a record"
        raise ValueError(msg) from error
    return lengths + b"".join(encoded)


def unpack_texts(data: bytes, offset: int) -> list[str]:
    """The texts from ``offset`` to the end of ``data``; ValueError when these bytes are no texts."""
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
