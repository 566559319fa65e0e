"""The words of this process's slab, segment by segment: leased at the first touch, private while they cannot be had.

Two things stand in for a segment's words: :class:`_Unleased` leases the slab, or grows it, at the first touch, in this
process or again in a forked child; :class:`Refuge` is private memory in the place of words that could not be had, which
has another attempt made once a second. Both are only ever touched under the guard.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from mpmetrics._cells import Segment, Words
from mpmetrics.errors import FormatError, StoreError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry
from mpmetrics.storage.fold import fold
from mpmetrics.storage.slab import Slab
from mpmetrics.storage.survey import SlabName, slab_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.storage.catalog import Series
    from mpmetrics.storage.directory import SeriesDirectory
    from mpmetrics.storage.moves import Moves
    from mpmetrics.storage.retry import Retry
    from mpmetrics.storage.store import Epoch

__all__ = ["Refuge", "Segments", "copy_words", "heap"]

FOLD_AT = 2
"""Dead slabs that a process finds when it leases its own before it folds them itself."""


def heap(width: int) -> Words:
    """Fresh words in this process's memory, all zero."""
    return cast("Words", memoryview(bytearray(width * fmt.WORD)).cast("d"))


def copy_words(source: Words, target: Words, index: int, width: int) -> None:
    """Store the first ``width`` words of ``source``, but those of zero bits, into ``target``, which is zero there."""
    for position in range(width):
        value = source[position]
        if value != 0.0 or str(value) == "-0.0":
            target[index + position] = value


class Refuge:
    """Private words that have themselves moved, with the first store, to where they belong."""

    def __init__(self, retry: Retry, width: int) -> None:
        self.words = heap(width)
        self._retry = retry

    def __getitem__(self, index: int, /) -> float:
        return self.words[index]

    def __setitem__(self, index: int, value: float, /) -> None:
        self._retry.wanted()
        self.words[index] = value  # last, so that what raises has changed nothing


class _Unleased:
    """Stands in for the words of segment ``number`` until the first touch.

    The operation that touches it goes on with it. Should its series turn out to be removed, its value goes nowhere.
    """

    def __init__(self, segments: Segments, number: int) -> None:
        self._segments = segments
        self._number = number
        self.gone: set[int] = set()

    def __getitem__(self, index: int, /) -> float:
        return self._segments.touch(self._number)[index]

    def __setitem__(self, index: int, value: float, /) -> None:
        words = self._segments.touch(self._number)
        if index not in self.gone:
            words[index] = value


class Segments:
    """The segments of one process's slab in ``epoch``.

    ``complain(cause, error)`` is told what goes wrong; it must not raise. ``acknowledged`` is the generation of
    removals that the process has let go of so far; ``lowest`` is asked for the lowest ordinal that the slab may have.
    All methods but :meth:`place` are called under the guard, or where no other thread runs.
    """

    def __init__(
        self,
        epoch: Epoch,
        directory: SeriesDirectory,
        *,
        acknowledged: int,
        retry: Retry,
        complain: Callable[[str, Exception], None],
        lowest: Callable[[], int],
    ) -> None:
        self._epoch = epoch
        self._directory = directory
        self._acknowledged = acknowledged
        self._bound = 0
        self._retry = retry
        self._complain = complain
        self._segments: dict[int, Segment] = {}
        self._refuges: dict[int, Refuge] = {}
        self._slab: Slab | None = None
        self._touching = 0
        self._touched: Words | None = None
        self._lowest = lowest

    @property
    def ordinal(self) -> int:
        """Ordinal of the slab; before there is one, the lowest that it may have."""
        return self._lowest() if self._slab is None else self._slab.ordinal

    @property
    def slab_name(self) -> SlabName | None:
        """Which slab is this process's; None before there is one. Any thread may ask."""
        slab = self._slab
        return None if slab is None else SlabName(slab_name(slab.ordinal, slab.identity), slab.ordinal, slab.identity)

    def lease(self) -> None:
        """Lease the slab now rather than at the first touch; when that cannot be done, it is at the next."""
        try:
            self._lease()
        except StoreError:
            return
        finally:
            self._directory.lock.settle()

    @property
    def is_touching(self) -> bool:
        """Whether the calling thread is in :meth:`touch`, and so has the guard already."""
        return self._touching == threading.get_ident()

    def private_words(self, first: int, width: int) -> list[float] | None:
        """The words of a series, if they are private for now; else None."""
        segment, index = self.place(first)
        words = segment.words
        return [words[index + at] for at in range(width)] if isinstance(words, Refuge) else None

    @property
    def incomplete(self) -> bool:
        """Whether some words are private for now."""
        return bool(self._refuges)

    def place(self, first: int) -> tuple[Segment, int]:
        """The segment that holds slot ``first``, and the slot's index in it. Any thread may ask."""
        number = geometry.segment_of(first)
        segment = self._segments.get(number)
        if segment is None:
            segment = self._segments.setdefault(number, Segment(_Unleased(self, number)))
        return segment, first - geometry.first_slot(number)

    def touch(self, number: int) -> Words:
        """The words of segment ``number``: of the slab, which is leased and grown as needed, else private ones."""
        segment = self._segments[number]
        if isinstance(segment.words, _Unleased):
            self._touched = segment.words
            try:
                segment.words = self._lease().words(number)
            except StoreError as error:
                self._refuges[number] = refuge = Refuge(self._retry, geometry.slots_of(number))
                segment.words = refuge
                self._directory.trouble(1.0)
                self._complain("store", error)
            finally:
                self._touched = None
                self._directory.lock.settle()
        return segment.words

    def _lease(self) -> Slab:
        if self._slab is None:
            path, owner = self._epoch.path, self._epoch.owner
            # Until now others could not know that we may hold removed series, and may have given their slots away.
            self._touching = threading.get_ident()
            try:
                self._slab = Slab(
                    path, directory=self._directory, owner=owner, standing=self._standing, lowest=self._lowest()
                )
            finally:
                self._touching = 0
            try:
                fold(path, owner=owner, at_least=FOLD_AT)
            except (OSError, FormatError) as error:
                self._complain("fold", error)
        return self._slab

    def _standing(self) -> tuple[int, int]:
        return self._acknowledged, self._bound

    def bind(self, series: Series) -> tuple[Segment, int]:
        """The place of a series that this process is about to hold. Call it within ``with directory:``."""
        if series.serial > self._bound:
            self._bound = series.serial
            if self._slab is not None:
                self._slab.bind(self._bound)
        return self.place(series.first)

    def move_in(self, moves: Moves) -> None:
        """Move private words to where they belong; :class:`~mpmetrics.errors.StoreError` when that cannot be done."""
        for number, refuge in list(self._refuges.items()):
            words = self._lease().words(number)
            with moves:
                copy_words(refuge.words, words, 0, geometry.slots_of(number))
                self._segments[number].words = words
                del self._refuges[number]

    def let_go(self, gone: Iterable[tuple[int, int]], generation: int) -> None:
        """No cell writes to these slots (first and width) any more: make them zero, and tell others so."""
        for first, width in gone:
            segment, index = self.place(first)
            words, positions = segment.words, range(index, index + width)
            if isinstance(words, _Unleased):
                if words is self._touched:  # by an operation that may be on one of these
                    words.gone.update(positions)
            else:
                for position in positions:
                    words[position] = 0.0
        self._acknowledged = generation
        if self._slab is not None:
            # Others take this for: the slots that went up to this generation hold nothing of this process.
            self._slab.acknowledge(generation)

    def after_fork_in_child(self) -> None:
        """The parent's slab and private words are the parent's; the child leases its own at its first write."""
        slab, self._slab = self._slab, None
        self._touching = 0
        self._touched = None
        if slab is not None:
            slab.abandon()
        self._refuges.clear()
        for number, segment in self._segments.items():
            segment.words = _Unleased(self, number)

    def close(self) -> None:
        """Give up the lease; what is written from now on goes to private memory and nowhere else."""
        slab, self._slab = self._slab, None
        self._refuges.clear()
        for number, segment in self._segments.items():
            segment.words = heap(geometry.slots_of(number))
        if slab is not None:
            slab.release()
