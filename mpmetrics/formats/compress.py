"""Compressing a text of which little changes from one time to the next."""

from __future__ import annotations

import zlib
from typing import NamedTuple

__all__ = ["Packer"]

_LEVEL = 1
"""The quickest: level 4 takes twice as long, for a ninth less."""

_CHUNK = 1 << 15
"""How many bytes of text are compressed together, or up to twice as many once lines have grown: to the end of one."""

_DRIFT = 1 << 12
"""How many bytes a chunk may have grown or shrunk by for its last line to be found again."""

_HEAD = bytes.fromhex("1f8b 08 00 00000000 04 ff")
"""Of a gzip file (RFC 1952) with neither name nor time, compressed for speed, on no system in particular."""

_END = b"\x03\x00"
"""An empty block, the last."""


class _Chunk(NamedTuple):
    text: memoryview
    packed: bytes
    tail: bytes
    """The last line but for its value, with the end of the line before."""


class Packer:
    """Compresses texts as gzip does, each only where it differs from the one before. Any thread may call it.

    Chunks of whole lines are compressed by themselves, and one that the text before had, too, goes into the stream as
    it is. So that it is the same one although lines before it grew, it ends with the same series. The text before is
    kept for that.
    """

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []

    def pack(self, text: bytes) -> bytes:
        """The text, compressed."""
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
    """Where the chunk that begins at ``start`` ends: with the same series as ``held`` did, if that is near."""
    near = start + _CHUNK
    if held is not None and held.tail and len(held.text) < 2 * _CHUNK:
        expected = start + len(held.text) - len(held.tail)
        found = text.find(held.tail, max(start, expected - _DRIFT), expected + _DRIFT)
        near = near if found < 0 else found + len(held.tail)
    return text.find(b"\n", near) + 1 or len(text)


def _deflate(chunk: memoryview) -> bytes:
    """Whole blocks that end with a byte and refer to nothing before them."""
    compress = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compress.compress(chunk) + compress.flush(zlib.Z_FULL_FLUSH)
