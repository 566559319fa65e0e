"""Records of a series directory: packing one, and finding them in a run of bytes, damaged or not."""

from __future__ import annotations

import json
import os
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_end", "decode_records", "encode_record"]

PATIENCE = 1 << 26
"""Bytes of which the checksum may be computed in vain before a search for the next record is given up; and some more
for each byte that there is."""


def encode_record(kind: int, body: list[Any]) -> bytes:
    """One record, padded to a multiple of 8 bytes."""
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    if len(text) > fmt.MAX_BODY:
        msg = f"a record of {len(text)} bytes is over the limit of {fmt.MAX_BODY}"
        raise FormatError(msg)
    head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(text), zlib.crc32(text, kind), kind)
    return head + text + b"\0" * (-len(text) % fmt.WORD)


def decode_records(data: bytes) -> Iterator[tuple[int, int, list[Any] | None]]:
    """Yield ``(end offset, kind, body)`` for each record in ``data``; a damaged stretch comes as one with body None.

    ``data`` starts at a record's first byte and ends at a commit. Bytes that look like records everywhere are not
    searched for ever: past a bound, all that is left counts as damaged.
    """
    position, size = 0, len(data)
    patience = PATIENCE + _PATIENCE_PER_BYTE * size
    while position < size:
        head = _head_at(data, position)
        body = None if head is None else _body(data, head)
        if head is not None and body is not None:
            position = head.end
            yield position, head.kind, body
            continue
        while body is None and position < size:
            position = _next_magic(data, position)
            head = _head_at(data, position)
            body = None if head is None else _body(data, head)
            patience -= 0 if head is None else head.length
            if patience < 0:
                position, body = size, None
        yield position, 0, None


def check_end(descriptor: int, words: memoryview, where: str, end: int, sound: int | None = None) -> None:
    """:class:`FormatError` when more records of a series directory were committed once than up to ``end``.

    That is where its head's words say that they end, unless that has changed meanwhile: then nothing is wrong. A killed
    writer leaves one record behind the end at most, and so does one that is at work. ``sound`` is where the last record
    ends that is whole up to the end: one that is cut in two by the end is enough to tell.
    """
    committed = end
    if committed >= fmt.MAX_SERIES_FILE:
        return  # it is no offset at all, and refused as such
    start = committed if sound is None else sound
    found = [body for _, _, body in islice(decode_records(os.pread(descriptor, 2 * fmt.MAX_BODY, start)), 4)]
    is_cut = start < committed and found[:1] not in ([], [None])
    if (is_cut or sum(body is not None for body in found) > 1) and words[fmt.COMMITTED] == committed:
        msg = f"{where}: its end was moved back to {committed}: there are records behind it"
        raise FormatError(msg)


class _Head(NamedTuple):
    start: int
    length: int
    checksum: int
    kind: int

    @property
    def end(self) -> int:
        return self.start + self.length + -self.length % fmt.WORD


def _next_magic(data: bytes, position: int) -> int:
    """Offset of the next 8-byte boundary behind ``position`` where a record's magic stands, or the end."""
    position = data.find(_MAGIC, position + 1)
    while position >= 0 and position % fmt.WORD:
        position = data.find(_MAGIC, position + 1)
    return len(data) if position < 0 else position


def _head_at(data: bytes, position: int) -> _Head | None:
    """The head of a record that may be one."""
    start = position + fmt.RECORD_HEAD.size
    if start > len(data):
        return None
    magic, length, checksum, kind = fmt.RECORD_HEAD.unpack_from(data, position)
    end = start + length
    if magic != fmt.RECORD_MAGIC or kind not in fmt.KINDS or not 2 <= length <= fmt.MAX_BODY or end > len(data):
        return None
    # Cheaper than a checksum, and as good as that against bytes that were never a record.
    return _Head(start, length, checksum, kind) if data[start] == _OPENING and data[end - 1] == _CLOSING else None


def _body(data: bytes, head: _Head) -> list[Any] | None:
    text = data[head.start : head.start + head.length]
    if zlib.crc32(text, head.kind) != head.checksum:
        return None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, list) else None


_MAGIC = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, 0, 0, 0)[:4]
_OPENING, _CLOSING = b"[]"
_PATIENCE_PER_BYTE = 8
