"""Copy words while their owner writes to them, and compare copies; part of the pure-Python twin."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final, cast

from mpmetrics._cells.offsets import WORD

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["differing", "load", "runs"]

RETRIES: Final = 256
"""How often to read words that belong together again before accepting them as they are."""

BLOCK: Final = 64
"""Words in a block: blocks are compared as bytes, and loaded and merged as a whole."""


def load(words: memoryview[Any], spans: Iterable[tuple[int, int]], previous: array[float]) -> array[float]:
    """A zero followed by a copy of the words of a map that another process writes to, each word loaded whole.

    ``spans`` are the places of words that belong together. ``previous`` is what the last call for these words returned;
    it is returned again if nothing has changed.
    """
    # A copy of bytes may tear a word. A torn word either differs from the previous one or has its bytes.
    seen = words.tobytes()
    before = previous.tobytes()[8:]
    if seen == before:
        return previous
    if len(seen) != len(before):
        values = array("d", [0.0, *words.tolist()])  # tolist() of a view in native format loads each item whole
    else:
        values = previous[:]
        for low, high in runs(differing(seen, before)):
            values[low + 1 : high + 1] = array("d", words[low:high].tolist())
    if words.tobytes() != memoryview(values)[1:].tobytes():
        second = array("d", [0.0, *words.tolist()])
        for low, high in spans:
            if values[low:high] != second[low:high]:
                values[low:high] = array("d", _take_stable(words, low - 1, high - 1))
    return values


def _take_stable(words: memoryview[Any], start: int, end: int) -> list[float]:
    """Read the words from start to end until two readings agree, a bounded number of times.

    A reading is a copy of bytes. That is fast enough to fit between two writes of a busy writer; reading a sketch as
    numbers takes ten times as long as a write. Such a copy may tear a word, but then it differs from the next copy. If
    no two readings agree, each word is at least loaded whole.
    """
    earlier = words[start:end].tobytes()
    for _ in range(RETRIES):
        later = words[start:end].tobytes()
        if earlier == later:
            return cast("list[float]", memoryview(later).cast("d").tolist())
        earlier = later
    return cast("list[float]", words[start:end].tolist())


def differing(some: bytes, others: bytes) -> list[tuple[int, int]]:
    """First word and end of each block in which the two, of equal length, differ."""
    width = WORD * BLOCK
    starts = [at for at in range(0, len(some), width) if some[at : at + width] != others[at : at + width]]
    return [(at // WORD, min(at // WORD + BLOCK, len(some) // WORD)) for at in starts]


def runs(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join adjacent blocks. ``blocks`` are in ascending order."""
    found: list[tuple[int, int]] = []
    for start, end in blocks:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
