"""Where the values of this process live: binds instruments' cells to slots of its slab, or to private memory.

One :class:`Memory` a provider and process. Without a store, or before one is attached, or for as long as the store
cannot take a value, cells write to private memory; everything moves into the store when that becomes possible. Nothing
here makes a request wait longer than the bounded wait for the append lock, and nothing raises into the hot path.

Two words stand in for a segment's: :class:`_Unleased` leases the slab, or grows it, at the first touch, in this process
or again in a forked child; :class:`_Refuge` is private memory in the place of words that could not be had, which tries
again once a second. Both are only ever touched under the guard.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmetrics._cells import Guard, Segment
from mpmetrics.errors import ConflictError, FormatError, StoreError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import fork
from mpmetrics.storage.catalog import Catalog, Family, Key, Series
from mpmetrics.storage.directory import SeriesDirectory
from mpmetrics.storage.fold import fold
from mpmetrics.storage.quiet import quiet_generation
from mpmetrics.storage.slab import Slab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics._cells import CounterCell, DistributionCell, GaugeCell, RecentCell, Words
    from mpmetrics.storage.store import Epoch

    Cell = CounterCell | GaugeCell | RecentCell | DistributionCell

__all__ = ["Memory", "PrivateSeries"]

log = logging.getLogger("mpmetrics")

RETRY_AFTER = 1.0
"""Seconds between attempts to move private values into the store."""

FOLD_AT = 2
"""Dead slabs that a process finds when it leases its own before it folds them itself."""


def _heap(width: int) -> memoryview:
    return memoryview(bytearray(width * fmt.WORD)).cast("d")


class PrivateSeries(NamedTuple):
    """A series whose words are in private memory."""

    family: Family
    key: Key
    cell: Cell
    segment: Segment
    created: float


class _Unleased:
    """Stands in for the words of segment ``number`` until the first touch."""

    def __init__(self, memory: Memory, number: int) -> None:
        self._memory = memory
        self._number = number

    def __getitem__(self, index: int) -> float:
        return self._memory._materialise(self._number)[index]

    def __setitem__(self, index: int, value: float) -> None:
        self._memory._materialise(self._number)[index] = value


class _Refuge:
    """Private words that remind ``memory`` with each store to move them into the slab."""

    def __init__(self, memory: Memory, width: int) -> None:
        self.words = _heap(width)
        self._memory = memory

    def __getitem__(self, index: int) -> float:
        return self.words[index]

    def __setitem__(self, index: int, value: float) -> None:
        self.words[index] = value
        self._memory.retry_later()


class Memory:
    """The cells of one provider in this process; see the module."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.guard = Guard()
        self.directory: SeriesDirectory | None = None
        self.children: dict[str, dict[Key, Cell]] = {}
        self.private: dict[tuple[str, Key], PrivateSeries] = {}
        self._clock = clock
        self._declared = Catalog()
        self._epoch: Epoch | None = None
        self._slab: Slab | None = None
        self._acknowledged = 0
        self._segments: dict[int, Segment] = {}
        self._refuges: dict[int, _Refuge] = {}
        self._bound: dict[int, tuple[str, Key]] = {}
        self._shared = False
        self._next_retry = 0.0
        self._said: set[str] = set()
        fork.register(self)

    # Declaring and binding: the cold path.

    def expect_store(self) -> None:
        """Say that a store is going to be attached: until then private memory is a waiting room, not a home."""
        self._shared = True

    def attach(self, epoch: Epoch) -> None:
        """Use ``epoch`` from now on; everything private moves in.

        Raises :class:`~mpmetrics.errors.StoreError` when its series directory cannot be used, and
        :class:`~mpmetrics.errors.ConflictError` when a family of ours is another in it; in the second case the other
        families are attached nevertheless.
        """
        path = epoch.path
        directory = SeriesDirectory(
            path,
            owner=epoch.owner,
            quiet=lambda: quiet_generation(path, epoch.owner),
            on_removed=self._removed,
            clock=self._clock,
        )
        self._shared = True
        self._epoch = epoch
        with directory:
            self._acknowledged = directory.seen
        self.directory = directory
        conflicts = []
        for family in self._declared.families.values():
            try:
                self._declare(directory, family)
            except ConflictError as error:
                conflicts.append(error)
            except StoreError as error:
                self._complain("declare", error)
        self._next_retry = 0.0
        self.retry()
        if conflicts:
            raise conflicts[0]

    def declare(self, family: Family) -> dict[Key, Cell]:
        """Make ``family`` known to all processes and return the cells of its series, by label values.

        Raises :class:`~mpmetrics.errors.ConflictError`, with nothing changed, when a different family of its name is
        known, in this process or another.
        """
        number = self._declared.check(family)
        if number is None:
            if self.directory is not None:
                try:
                    self._declare(self.directory, family)
                except ConflictError:
                    raise
                except StoreError as error:
                    self._complain("declare", error)
            self.children[family.name] = {}
            self._declared.apply(fmt.FAMILY, [self._declared.next_family, family.dump()])
        return self.children[family.name]

    def _declare(self, directory: SeriesDirectory, family: Family) -> int:
        with directory:
            return directory.declare(family)

    def bind(self, family: Family, key: Key, make: Callable[[Guard, Segment, int], Cell], limit: int) -> Cell | None:
        """The cell of a series of a declared family, made unless it is there; None when there are ``limit`` others."""
        children = self.children[family.name]
        cell = children.get(key)
        if cell is not None:
            return cell
        if self.directory is not None and self._shared:
            self.retry()
            try:
                return self._bind_shared(self.directory, family, key, make, limit)
            except StoreError as error:
                self.directory.trouble(1.0)
                self._complain("bind", error)
        if key is not None and len(children) - (None in children) >= limit:
            return None
        return self._bind_private(family, key, make)

    def _bind_shared(
        self, directory: SeriesDirectory, family: Family, key: Key, make: Callable[..., Cell], limit: int
    ) -> Cell | None:
        # Registered under the append lock: a removal by anyone comes before or after, never in between.
        with directory:
            series = directory.obtain(directory.declare(family), key, limit)
            if series is None:
                return None
            segment, index = self._place(series.first)
            cell = self.children[family.name].setdefault(key, make(self.guard, segment, index))
            if (family.name, key) not in self.private:
                self._bound[series.first] = (family.name, key)
            return cell

    def _bind_private(self, family: Family, key: Key, make: Callable[..., Cell]) -> Cell:
        words: Words = _Refuge(self, family.width) if self._shared else _heap(family.width)
        segment = Segment(words)
        made = make(self.guard, segment, 0)
        cell = self.children[family.name].setdefault(key, made)
        if cell is made:
            self.private[family.name, key] = PrivateSeries(family, key, cell, segment, self._clock())
        return cell

    def _place(self, first: int) -> tuple[Segment, int]:
        number = fmt.segment_of(first)
        segment = self._segments.get(number)
        if segment is None:
            segment = self._segments.setdefault(number, Segment(_Unleased(self, number)))
        return segment, first - _first_slot(number)

    def remove(self, family: Family, wanted: Callable[[tuple[str, ...]], bool]) -> None:
        """Remove the series of ``family`` whose label values ``wanted`` answers true to, in all processes.

        Raises :class:`~mpmetrics.errors.StoreError` when the store cannot take the removal; nothing is removed then.
        """
        if self.directory is not None:
            with self.directory as _:
                self.directory.remove(self.directory.declare(family), wanted)
        for name, key in list(self.private):
            if name == family.name and key is not None and wanted(key):
                entry = self.private.pop((name, key), None)
                self.children[name].pop(key, None)
                if entry is not None:
                    self.guard.run(_detach, (entry.cell, family.width))

    def sync(self) -> None:
        """Take in removals by other processes, when there are any."""
        directory = self.directory
        if directory is not None and directory.generation != directory.seen:
            try:
                directory.sync()
            except StoreError as error:
                self._complain("sync", error)

    def _removed(self, gone: list[Series], generation: int) -> None:
        """Under the append lock: series are gone, by our hand or another's."""
        detached = []
        for series in gone:
            bound = self._bound.pop(series.first, None)
            if bound is not None:
                cell = self.children[bound[0]].pop(bound[1], None)
                if cell is not None:
                    detached.append((cell, series.width))
        self.guard.run(self._let_go, (detached, gone, generation))

    def _let_go(self, argument: tuple[list[tuple[Cell, int]], list[Series], int]) -> None:
        """Under the guard: nothing of ours writes to the slots any more, and our words of them are zero again."""
        detached, gone, generation = argument
        for item in detached:
            _detach(item)
        for series in gone:
            segment, index = self._place(series.first)
            if not isinstance(segment.words, _Unleased):
                for position in range(index, index + series.width):
                    segment.words[position] = 0.0
        self._acknowledged = generation
        if self._slab is not None:
            # Others take this for: the slots that went in this generation may be given away.
            self._slab.acknowledge(generation)

    # Words: under the guard.

    def _materialise(self, number: int) -> Words:
        """The words of segment ``number``: of the slab, which is leased and grown as needed, or private ones."""
        segment = self._segments[number]
        if not isinstance(segment.words, _Unleased):
            return segment.words
        start, end = fmt.segment_span(number)
        try:
            segment.words = self._lease().words(number)
        except StoreError as error:
            refuge = _Refuge(self, (end - start) // fmt.WORD)
            self._refuges[number] = refuge
            segment.words = refuge
            if self.directory is not None:
                self.directory.trouble(1.0)
            self._complain("lease", error)
        return segment.words

    def _lease(self) -> Slab:
        if self._slab is None:
            epoch, directory = self._epoch, self.directory
            if epoch is None or directory is None:
                msg = "no store is attached"
                raise StoreError(msg)
            self._slab = Slab(
                epoch.path, append_lock=directory.lock, owner=epoch.owner, acknowledged=self._acknowledged
            )
            try:
                fold(epoch.path, owner=epoch.owner, at_least=FOLD_AT)
            except (OSError, FormatError) as error:
                self._complain("fold", error)
        return self._slab

    def retry_later(self) -> None:
        """From a store to private words: have another attempt made once the present operation is over."""
        if time.monotonic() >= self._next_retry:
            self._next_retry = time.monotonic() + RETRY_AFTER
            self.guard.queue.append((self._attempt, None))

    def retry(self) -> None:
        """Move private values into the store, unless an attempt was made within the last second."""
        if (self.private or self._refuges) and time.monotonic() >= self._next_retry:
            self._next_retry = time.monotonic() + RETRY_AFTER
            self.guard.run(self._attempt, None)

    def _attempt(self, _: None) -> None:
        directory = self.directory
        if directory is None:
            return
        try:
            for number, refuge in list(self._refuges.items()):
                words = self._lease().words(number)
                _copy(refuge.words, words, 0)
                self._segments[number].words = words
                del self._refuges[number]
            for (name, key), entry in list(self.private.items()):
                self._move_in(directory, name, key, entry)
        except StoreError as error:
            self._complain("retry", error)

    def _move_in(self, directory: SeriesDirectory, name: str, key: Key, entry: PrivateSeries) -> None:
        with directory:
            try:
                number = directory.declare(entry.family)
            except ConflictError as error:
                self._complain(f"conflict {name}", error)
                return
            series = directory.obtain(number, key, 1 << 62)
            if series is None:  # pragma: no cover (there is no limit here)
                return
            segment, index = self._place(series.first)
            self._bound[series.first] = (name, key)
            self.private.pop((name, key), None)
        source = entry.segment.words
        heap = source.words if isinstance(source, _Refuge) else source
        _copy(heap, segment.words, index, entry.family.width)
        entry.cell.place(segment, index)

    # Processes.

    def after_fork_in_child(self) -> None:
        """The parent's slab, lease, locks and unsaved values are the parent's; the child leases at its first write."""
        self.guard.reset()
        if self.directory is not None:
            self.directory.after_fork_in_child()
        slab, self._slab = self._slab, None
        if slab is not None:
            slab.abandon()
        self._refuges.clear()
        for number, segment in self._segments.items():
            segment.words = _Unleased(self, number)
        if self._shared:
            for entry in self.private.values():
                entry.segment.words = _Refuge(self, entry.family.width)
        self._next_retry = 0.0

    def detach(self) -> None:
        """Give up the lease and the store; values written from now on stay in this process and go nowhere."""
        directory, self.directory = self.directory, None
        slab, self._slab = self._slab, None
        self._shared = False
        for number, segment in self._segments.items():
            start, end = fmt.segment_span(number)
            segment.words = _heap((end - start) // fmt.WORD)
        if slab is not None:
            slab.release()
        if directory is not None:
            directory.close()
        if self._epoch is not None:
            os.close(self._epoch.lease)
            self._epoch = None

    @property
    def ordinal(self) -> int:
        """Ordinal of this process's slab; 0 before it has one."""
        return 0 if self._slab is None else self._slab.ordinal

    def families(self) -> list[Family]:
        """The families declared in this process."""
        return list(self._declared.families.values())

    def private_series(self) -> Iterator[tuple[PrivateSeries, list[float]]]:
        """The series that are not in the store, with their words."""
        for entry in list(self.private.values()):
            words = entry.segment.words
            yield entry, [words[index] for index in range(entry.family.width)]

    def _complain(self, cause: str, error: Exception) -> None:
        if cause not in self._said:
            self._said.add(cause)
            log.warning("%s; values stay in process %d until the store can take them", error, os.getpid())


def _first_slot(number: int) -> int:
    return 0 if number == 0 else (fmt.segment_span(number)[0] - fmt.SLAB_HEAD_SIZE) // fmt.WORD


def _detach(argument: tuple[Any, int]) -> None:
    """Under the guard: let a cell of a removed series write to memory of its own."""
    cell, width = argument
    cell.place(Segment(_heap(width)), 0)


def _copy(source: Any, target: Words, index: int, width: int | None = None) -> None:
    """Store the words of ``source`` that are not all zero bits into ``target``, which is zero there."""
    for position in range(len(source) if width is None else width):
        value = source[position]
        if value != 0.0 or str(value) == "-0.0":
            target[index + position] = value
