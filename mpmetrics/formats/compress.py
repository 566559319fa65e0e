"""Compresses texts that differ little from the text before."""

from __future__ import annotations

import zlib
from typing import NamedTuple

__all__ = ["Packer"]

_LEVEL = 1
"""The fastest. Level 4 takes twice as long, and its output is a ninth smaller."""

_CHUNK = 1 << 15
"""Bytes of text that are compressed together, up to the end of a line; up to twice as many once lines have grown."""

_DRIFT = 1 << 12
"""Bytes by which a chunk may grow or shrink so that its last line is still found."""

_HEAD = bytes.fromhex("1f8b 08 00 00000000 04 ff")
"""The head of a gzip file (RFC 1952) without name and time, compressed for speed, on an unknown system."""

_END = b"\x03\x00"
"""The last block, which is empty."""


class _Chunk(NamedTuple):
    text: memoryview
    packed: bytes
    tail: bytes
    """The last line without its value, and the end of the line before."""


class Packer:
    """Compresses texts with gzip, but only the parts that differ from the text before. Any thread may call it.

    Chunks of whole lines are compressed independently. A chunk that the text before had, too, is reused. A chunk ends
    with the same series as before, so that it can be reused although lines before it have grown. The last text is kept
    for the comparison.
    """

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []

    def pack(self, text: bytes) -> bytes:
        """Return the text, compressed."""
        before, view = self._chunks, memoryview(text)
        chunks: list[_Chunk] = []
        start = 0
        while start < len(text):
            held = before[len(chunks)] if len(chunks) < len(before) else None
            end = _end(text, start, held)
            chunk = view[start:end]
            if held is not None and len(held.text) == end - start and text.startswith(held.text, start):
                chunks.append(held._replace(text=chunk))
            else:
                line = max(start, text.rfind(b"\n", start, end - 1))
                chunks.append(_Chunk(chunk, _deflate(chunk), text[line : text.rfind(b" ", line, end) + 1]))
            start = end
        self._chunks = chunks
        sums = zlib.crc32(text).to_bytes(4, "little") + (len(text) % 2**32).to_bytes(4, "little")
        return b"".join((_HEAD, *(chunk.packed for chunk in chunks), _END, sums))


def _end(text: bytes, start: int, held: _Chunk | None) -> int:
    """Return the end of the chunk that begins at ``start``: after the same series as in ``held`` if it is near."""
    near = start + _CHUNK
    if held is not None and held.tail and len(held.text) < 2 * _CHUNK:
        expected = start + len(held.text) - len(held.tail)
        found = text.find(held.tail, max(start, expected - _DRIFT), expected + _DRIFT)
        near = near if found < 0 else found + len(held.tail)
    return text.find(b"\n", near) + 1 or len(text)


def _deflate(chunk: memoryview) -> bytes:
    """Return whole blocks that end at a byte boundary and do not refer to earlier data."""
    compress = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compress.compress(chunk) + compress.flush(zlib.Z_FULL_FLUSH)
