"""Records of a series directory: packing one, and finding them in a run of bytes, damaged or not."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["decode_records", "encode_record"]


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

    ``data`` starts at a record's first byte and ends at a commit.
    """
    position, size = 0, len(data)
    while position < size:
        found = _record_at(data, position)
        if found is not None:
            position, kind, body = found
            yield position, kind, body
            continue
        position += fmt.WORD
        while position < size and _record_at(data, position) is None:
            position = _next_magic(data, position)
        yield min(position, size), 0, None


def _next_magic(data: bytes, position: int) -> int:
    """Offset of the next 8-byte boundary behind ``position`` where a record's magic stands, or the end."""
    magic = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, 0, 0, 0)[:4]
    position = data.find(magic, position + fmt.WORD)
    while position >= 0 and position % fmt.WORD:
        position = data.find(magic, position + 1)
    return len(data) if position < 0 else position


def _record_at(data: bytes, position: int) -> tuple[int, int, list[Any]] | None:
    if position + fmt.RECORD_HEAD.size > len(data):
        return None
    magic, length, checksum, kind = fmt.RECORD_HEAD.unpack_from(data, position)
    start = position + fmt.RECORD_HEAD.size
    if magic != fmt.RECORD_MAGIC or kind not in fmt.KINDS or length > fmt.MAX_BODY or start + length > len(data):
        return None
    text = data[start : start + length]
    if zlib.crc32(text, kind) != checksum:
        return None
    try:
        body = json.loads(text)
    except ValueError:
        return None
    if not isinstance(body, list) or not _can_be_shown(body, text):
        return None
    return start + length + -length % fmt.WORD, kind, body


def _can_be_shown(body: list[Any], text: bytes) -> bool:
    """Whether all text in a record is Unicode text: JSON can hold halves of characters, which no scrape can."""
    if text.isascii() and b"\\ud" not in text and b"\\uD" not in text:
        return True
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
