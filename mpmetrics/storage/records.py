"""Records in Python: packing one, and finding them in a run of bytes, damaged or not.

The hot ones, SERIES and END, are written and read by ``mpmetrics._cells``; what is here serves the rare ones.
"""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Record", "decode_records", "encode_record", "pack_texts", "unpack_texts"]

_COUNT = struct.Struct("=H")
_MAGIC = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, 0, 0, 0)[:4]


class Record(NamedTuple):
    """One record: where it ends, its kind and body; of a damaged stretch the body is None."""

    end: int
    kind: int
    body: bytes | None


def encode_record(kind: int, body: bytes) -> bytes:
    """One record, padded to a multiple of 8 bytes; FormatError when the body is over the limit."""
    if len(body) > fmt.MAX_BODY:
        msg = f"a record of {len(body)} bytes is over the limit of {fmt.MAX_BODY}"
        raise FormatError(msg)
    head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(body), zlib.crc32(body, kind), kind)
    return head + body + b"\0" * (-len(body) % fmt.WORD)


def decode_records(data: bytes) -> Iterator[Record]:
    """Yield the records of ``data``, which starts with one; a damaged stretch comes as one without a body."""
    position = 0
    while position < len(data):
        record = _record_at(data, position)
        if record is None:
            while record is None and position < len(data):
                position = _next_magic(data, position)
                record = _record_at(data, position)
            yield Record(position, 0, None)
        if record is not None:
            position = record.end
            yield record


def _next_magic(data: bytes, position: int) -> int:
    """Offset of the next 8-byte boundary behind ``position`` where a record's magic stands, or the end."""
    position = data.find(_MAGIC, position + 1)
    while position >= 0 and position % fmt.WORD:
        position = data.find(_MAGIC, position + 1)
    return len(data) if position < 0 else position


def _record_at(data: bytes, position: int) -> Record | None:
    start = position + fmt.RECORD_HEAD.size
    if start > len(data):
        return None
    magic, length, checksum, kind = fmt.RECORD_HEAD.unpack_from(data, position)
    end = start + length
    if magic != fmt.RECORD_MAGIC or length > fmt.MAX_BODY or end > len(data):
        return None
    body = data[start:end]
    return Record(end + -length % fmt.WORD, kind, body) if zlib.crc32(body, kind) == checksum else None


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
