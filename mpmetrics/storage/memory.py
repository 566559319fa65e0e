"""Where the values of this process live: binds instruments' cells to slots of the store, or to private memory.

One :class:`Memory` a provider and process. Without a store, or before one is attached, or for as long as the store
cannot take a series, its cells write to private memory; everything moves into the store when that becomes possible.
Nothing here makes a request wait longer than the bounded wait for the append lock, and nothing raises into the hot
path.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from mpmetrics._cells import Guard, Removals, Segment
from mpmetrics.errors import ConflictError, StoreError
from mpmetrics.storage import fork
from mpmetrics.storage import format as fmt
from mpmetrics.storage.bindings import Bindings
from mpmetrics.storage.complaints import Complaints
from mpmetrics.storage.departures import Departures, detach
from mpmetrics.storage.directory import SeriesDirectory
from mpmetrics.storage.holders import holders
from mpmetrics.storage.moves import Moves
from mpmetrics.storage.private import PrivateSeries, PrivateValue
from mpmetrics.storage.retry import SETTLE, Retry
from mpmetrics.storage.segments import Refuge, Segments, copy_words, heap
from mpmetrics.storage.settled import settled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from mpmetrics._cells import Words
    from mpmetrics.storage.catalog import Catalog, Family, Key
    from mpmetrics.storage.private import Cell
    from mpmetrics.storage.store import Epoch

    Make = Callable[[Guard, Segment, int], Cell]
    Choose = Callable[[Collection[Key]], Iterable[Key]]

__all__ = ["Memory"]


class Memory:
    """The cells of one provider in this process; see the module. Any thread may call its methods."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.guard = Guard()
        self.removals = Removals()
        self.directory: SeriesDirectory | None = None
        self._clock = clock
        self._bindings = Bindings()
        self._private: dict[tuple[str, Key], PrivateSeries] = {}
        self.segments: Segments | None = None
        self._is_shared = False
        self._lowest = 0
        self._retry = Retry(self.guard, self._attempt, self._is_waiting)
        self._complaints = Complaints()
        self.moves = Moves()
        self._departures = Departures(self.guard, self._bindings, lambda: self.segments)
        fork.register(self)

    def expect_store(self) -> None:
        """Say that a store is going to be attached: until then private memory is a waiting room, not a home."""
        self._is_shared = True

    def stand_beside(self) -> None:
        """Be no worker until the next fork: a slab that is leased from now on has an ordinal beside theirs."""
        self._lowest = fmt.BESIDE

    def attach(self, epoch: Epoch) -> None:
        """Use ``epoch`` from now on; everything private moves in.

        Raises :class:`~mpmetrics.errors.StoreError` when its series directory cannot be used, and
        :class:`~mpmetrics.errors.ConflictError` when a family of ours is another in it; the others are attached then.
        """
        if self.directory is not None:
            raise StoreError(f"this provider has a store already; make another one for {epoch.path}")
        directory = SeriesDirectory(
            epoch.path,
            removals=self.removals,
            owner=epoch.owner,
            survey=lambda: holders(epoch.path, epoch.owner),
            on_removed=self._departures.add,
            on_reloaded=self._reloaded,
            clock=self._clock,
        )
        with directory:
            acknowledged = directory.seen
        self._is_shared = True
        self.segments = Segments(
            epoch,
            directory,
            acknowledged=acknowledged,
            retry=self._retry,
            complain=self._complaints.say,
            lowest=lambda: self._lowest,
        )
        self.directory = directory
        conflicts: list[ConflictError] = []
        for family in self.families():
            try:
                self._declare(directory, family)
            except ConflictError as error:
                conflicts.append(error)
        self.retry()
        if conflicts:
            raise conflicts[0]

    def declare(self, family: Family) -> dict[Key, Cell]:
        """Make ``family`` known to all processes and return the cells of its series, by label values.

        Raises :class:`~mpmetrics.errors.ConflictError`, with nothing changed, when a different family of its name is
        known, in this process or another.
        """
        with self._bindings.declaring:
            if self._bindings.declared.check(family) is None and self.directory is not None:
                self._declare(self.directory, family)
            self._bindings.declare(family)
            return self._bindings.cells[family.name]

    @settled
    def _declare(self, directory: SeriesDirectory, family: Family) -> None:
        """Declare a family in the store; where the store cannot take it, that is done with its first series."""
        try:
            with directory:
                directory.declare(family)
        except ConflictError:
            raise
        except StoreError as error:
            self._complaints.say("store", error)

    def bind(self, family: Family, key: Key, make: Make, limit: int) -> Cell | None:
        """The cell of a series of a declared family, made unless it is there; None when there are ``limit`` others."""
        cells = self._bindings.cells[family.name]
        cell = cells.get(key)
        if cell is not None:
            return cell
        if self.directory is not None and self.segments is not None:
            try:
                return self._bind_shared(self.directory, self.segments, (family, key), make, limit)
            except (StoreError, ConflictError, OSError) as error:
                self.directory.trouble(1.0)
                self._complaints.say("store", error)
        if key is not None and len(cells) - (None in cells) >= limit:
            return None
        return self._bind_private(family, key, make)

    @settled
    def _bind_shared(
        self, directory: SeriesDirectory, segments: Segments, which: tuple[Family, Key], make: Make, limit: int
    ) -> Cell | None:
        family, key = which
        if self._departures.finish():  # else ours may be among the slots that seem to be free
            directory.look_for_free_slots()
        # Registered under the append lock: a removal by anyone comes before or after, never in between.
        with directory:
            series = directory.obtain(directory.declare(family), key, limit)
            if series is None:
                return None
            place = segments.bind(series)
            if (family.name, key) not in self._private:
                self._bindings.slots[series.first] = (family.name, key)
            return self._bindings.cells[family.name].setdefault(key, make(self.guard, *place))

    def _bind_private(self, family: Family, key: Key, make: Make) -> Cell:
        segment = Segment(self._private_words(family))
        made = make(self.guard, segment, 0)
        cell = self._bindings.cells[family.name].setdefault(key, made)
        if cell is made:
            self._private[family.name, key] = PrivateSeries(family, key, cell, segment, self._clock())
            if self.segments is not None:
                self._retry.wanted()
        return cell

    def _private_words(self, family: Family) -> Words:
        return Refuge(self._retry, family.width) if self._is_shared else heap(family.width)

    @settled
    def remove(self, family: Family, choose: Choose) -> None:
        """Remove those series of ``family``, in all processes, that ``choose`` picks from the label values of all.

        Raises :class:`~mpmetrics.errors.StoreError` when the store cannot take the removal; nothing is removed then.
        """
        directory = self.directory
        if directory is None:
            self._remove_private(family, choose)
            return
        with directory:  # in which nothing moves in
            directory.remove(directory.declare(family), choose)
            self._remove_private(family, choose)

    def _remove_private(self, family: Family, choose: Choose) -> None:
        keys = [key for name, key in list(self._private) if name == family.name]
        for key in list(choose(keys)):
            # In this order: a cell without an entry would never move in.
            self._bindings.cells[family.name].pop(key, None)
            entry = self._private.pop((family.name, key), None)
            if entry is not None:
                self.guard.run(detach, (entry.cell, family.width))

    @settled
    def in_use(self, names: Iterable[str]) -> list[str]:
        """Those of these metrics of which any process has a series; none where the store cannot be asked."""
        directory = self.directory
        if directory is None:
            return []
        try:
            with directory:  # reads what others appended
                catalog = directory.catalog
                return [name for name in names if catalog.series.get(catalog.numbers.get(name, -1))]
        except StoreError:
            return []

    @settled
    def sync(self) -> None:
        """Take in what other processes removed. Cheap to ask for; that it is due, ``labels`` sees by itself."""
        if self.directory is not None and self.removals.is_due:
            try:
                self.directory.sync()
            except StoreError as error:
                self._complaints.say("store", error)

    def _reloaded(self, catalog: Catalog, generation: int) -> None:
        """Under the append lock: whatever of ours is not in ``catalog`` was removed."""
        self._departures.add(self._bindings.missing(catalog), generation)

    def _is_waiting(self) -> bool:
        return self.segments is not None and (bool(self._private) or self.segments.incomplete)

    def retry(self) -> None:
        """Move private values into the store, if there are any and it can take them."""
        if self._is_waiting():
            self._retry.now()
        if self._is_waiting():
            self._retry.wanted()

    @settled
    def _attempt(self, _: None) -> None:
        """Under the guard: move in what can be moved."""
        directory, segments = self.directory, self.segments
        if directory is None or segments is None:
            return
        try:
            segments.move_in(self.moves)
            for entry in list(self._private.values()):
                self._move_in(directory, segments, entry)
        except (StoreError, OSError) as error:
            self._complaints.say("store", error)

    @settled
    def _move_in(self, directory: SeriesDirectory, segments: Segments, entry: PrivateSeries) -> None:
        name = entry.family.name, entry.key
        try:
            with directory, self.moves:  # a series that comes while the words are read would be left out
                series = directory.obtain(directory.declare(entry.family), entry.key, created=entry.created)
                segment, index = segments.bind(series)
            _ = segment.words[index]  # leases and grows the slab, which takes the append lock itself
            with directory, self.moves:
                if self._private.get(name) is not entry or directory.catalog.by_slot.get(series.first) != series:
                    return  # removed meanwhile
                source = entry.segment.words
                words = source.words if isinstance(source, Refuge) else source
                copy_words(words, segment.words, index, entry.family.width)
                entry.cell.place(segment, index)
                # Last, so that whatever ends this before is made good by doing it again.
                self._bindings.slots[series.first] = name
                del self._private[name]
        except ConflictError as error:
            self._complaints.say(f"conflict {entry.family.name}", error)

    def after_fork_in_child(self) -> None:
        """The parent's lease, locks and unsaved values are the parent's; the child begins with nothing of its own."""
        self.guard.reset()
        self.moves.after_fork_in_child()
        self._bindings.after_fork_in_child()
        self._lowest = 0
        if self.directory is not None:
            self.directory.after_fork_in_child()
        if self.segments is not None:
            self.segments.after_fork_in_child()
        if self._is_shared:
            for entry in self._private.values():
                entry.segment.words = self._private_words(entry.family)
        self._retry.reset()

    def close(self) -> None:
        """Give up the store; values written from now on stay in this process and go nowhere."""
        self.retry()
        self.guard.settle(SETTLE)  # another thread may be at it
        directory, self.directory = self.directory, None
        segments, self.segments = self.segments, None
        self._is_shared = False
        if segments is not None:
            self.guard.run(lambda _: segments.close(), None)
        if directory is not None:
            with contextlib.suppress(StoreError), directory:  # once nobody is in the middle of something
                pass
            directory.close()

    def families(self) -> list[Family]:
        """The families declared in this process."""
        return self._bindings.families()

    def private_values(self) -> Iterator[PrivateValue]:
        """The series whose values are not in the store, with their words."""
        for entry in list(self._private.values()):
            yield entry.value()
        segments = self.segments
        if segments is not None and segments.incomplete:
            for first, (name, key) in list(self._bindings.slots.items()):
                family = self._bindings.family(name)
                found = segments.private_words(first, family.width)
                if found is not None:
                    yield PrivateValue(family, key, self._clock(), found)
