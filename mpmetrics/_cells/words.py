"""Words that others write to while they are copied, and where two copies differ; for the twins in Python."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final, cast

from mpmetrics._cells.offsets import WORD

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["differing", "load", "runs"]

RETRIES: Final = 256
"""How often words that belong together are read again before they are taken as they are."""

BLOCK: Final = 64
"""Words that are compared as bytes, and loaded or merged anew together."""


def load(words: memoryview[Any], spans: Iterable[tuple[int, int]], held: array[float]) -> array[float]:
    """A zero, and a copy of the words of a map that others write to, each loaded whole.

    ``spans`` are the places of words that belong together. ``held`` is what the last call for these words returned; it
    is returned again when nothing has changed.
    """
    # A copy of bytes may tear a word. One that is torn differs from what is held, or has the bytes of the old word.
    seen = words.tobytes()
    before = held.tobytes()[8:]
    if seen == before:
        return held
    if len(seen) != len(before):
        values = array("d", [0.0, *words.tolist()])  # of a view in native format this loads item by item
    else:
        values = held[:]
        for low, high in runs(differing(seen, before)):
            values[low + 1 : high + 1] = array("d", words[low:high].tolist())
    if words.tobytes() != memoryview(values)[1:].tobytes():
        again = array("d", [0.0, *words.tolist()])
        for low, high in spans:
            if values[low:high] != again[low:high]:
                values[low:high] = array("d", _take_stable(words, low - 1, high - 1))
    return values


def _take_stable(words: memoryview[Any], start: int, end: int) -> list[float]:
    """Words from start to end, read until two readings agree, a bounded number of times.

    The readings are copies of bytes, which are so quick that a busy writer pauses for long enough: as numbers, the
    words of a sketch take ten times as long as its writer does. Such a copy may tear a word, but the next one then
    differs from it; if none ever agree, each word is loaded whole, at least.
    """
    earlier = words[start:end].tobytes()
    for _ in range(RETRIES):
        later = words[start:end].tobytes()
        if earlier == later:
            return cast("list[float]", memoryview(later).cast("d").tolist())
        earlier = later
    return cast("list[float]", words[start:end].tolist())


def differing(some: bytes, others: bytes) -> list[tuple[int, int]]:
    """First word and end of each block in which these words, as many here as there, are not the same."""
    width = WORD * BLOCK
    starts = [at for at in range(0, len(some), width) if some[at : at + width] != others[at : at + width]]
    return [(at // WORD, min(at // WORD + BLOCK, len(some) // WORD)) for at in starts]


def runs(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Blocks in ascending order, those put together that touch each other."""
    found: list[tuple[int, int]] = []
    for start, end in blocks:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
