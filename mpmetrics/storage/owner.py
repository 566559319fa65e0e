"""The rare work behind a cell's operation. :class:`SlabOwner` is what cells (``mpmetrics._cells``) call.

Cells call it for the first write of a process, a metric's FAMILY record, growth, removals by other processes, a store
without room, and an epoch that replaced this one. Nothing here waits for another process. Its only subclass,
:class:`~mpmetrics.storage.memory.Memory`, adds what instruments, providers and collectors call.

A forked child finds its process state empty, however it was forked; so its first operation calls :meth:`begin`, which
gives it a slab of its own. A private provider (one without a store) keeps the copy of its parent's values instead.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mpmetrics._cells import Process, new_token
from mpmetrics.errors import StoreError
from mpmetrics.log_once import LogOnceUnlocked
from mpmetrics.storage import format as fmt
from mpmetrics.storage.slab import LeasedSlab, anonymous_slab
from mpmetrics.storage.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells import Cell, Children, Map, Slab
    from mpmetrics.storage.epoch import Epoch
    from mpmetrics.storage.removals import Removal

__all__ = ["SlabOwner", "time_offset"]


class SlabOwner:
    """Answers the cells of one provider in this process, from any thread. ``clock`` returns the Unix time (s)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.epoch: Epoch | None = None
        self.on_overflow: Callable[[str], None] | None = None
        """Called with a metric's name each time that the metric has no room for a series."""
        self.process = Process(self)
        self.process.clock = None if clock is time.time else clock
        self._clock = clock
        self._log = LogOnceUnlocked()
        self._children: dict[str, Children] = {}
        """The series of each metric, in the order of the families' numbers in the slab."""
        self._times: dict[str, int] = {}
        """When each metric was declared (ns)."""
        self._is_deferred = False
        self._auxiliary_pid = 0
        self._leased: LeasedSlab | None = None
        self._lost: list[LeasedSlab | None] = []
        """Slabs of this process that another process unlinked. Series that live there still count there."""
        self._map: Map | None = None
        """The map of the slab in memory."""
        self._waiting: dict[Cell, float] = {}
        """Series whose values wait in memory, and since when (Unix time, s)."""
        self.moved_count = 0
        """How many waiting series have moved into the store."""
        self._room = WaitingRoom(self.move_in)

    @property
    def _has_begun(self) -> bool:
        token = self.process.token
        return token != 0 and self.process.begun == token

    @property
    def _lowest(self) -> int:
        return fmt.AUXILIARY if self._auxiliary_pid == os.getpid() else 0

    def begin(self, counting: bool) -> None:  # noqa: FBT001 (called from C)
        """Make this process's slab and, if ``counting``, claim an ordinal. If no slab can be made, values wait."""
        with self._log, self._log.lock:
            if not self._has_begun:
                self._start()
            if counting and self.process.counting != self.process.token:
                self._claim_ordinal()

    def _start(self) -> None:
        process = self.process
        before = process.token
        process.time_offset = time_offset()
        if before and self.epoch is None and not self._is_deferred:
            process.begun = before  # this process keeps its copy of the parent's slab
            return
        self._waiting, self._leased, self._map, self._lost = {}, None, None, []
        self._room.reset()
        slab = self._new_slab()
        if self._has_begun:
            return  # a signal handler interrupted the lines above and has begun already
        process.slab = slab
        process.token = new_token()
        # From here on, cells make series in this slab.
        process.begun = process.token

    def _new_slab(self) -> Slab | None:
        if self.epoch is None:
            slab, self._map = anonymous_slab(self._clock())
            return slab
        try:
            self._join_successor(self.epoch)
        except (StoreError, OSError) as error:  # our epoch can still be used
            self._log_store_error(error)
        try:
            self._leased = LeasedSlab(self.epoch.directory, self._lowest, self._clock())
        except (StoreError, OSError) as error:
            self._log_store_error(error)
            return None
        return self._leased.slab

    def _claim_ordinal(self) -> None:
        """Claim an ordinal, and count under it from now on."""
        process = self.process
        if process.slab is not None:
            try:
                process.slab.claim()
            except OSError as error:  # readers read a slab without an ordinal, too
                self._log_store_error(error)
        process.counting = process.token

    def declare_in(self, children: Children) -> None:
        """Write a metric's FAMILY record into the slab. If the slab has no room for it, the metric's series wait."""
        with self._log, self._log.lock:
            number = list(self._children).index(children.family.name)
            self._declare_in(self.process.slab, children, number)

    def _declare_in(self, slab: Slab | None, children: Children, number: int) -> None:
        token, family = self.process.token, children.family
        body = fmt.FAMILY_HEAD.pack(number, 0, self._times[family.name]) + family.pack()
        is_written = slab is not None and (
            slab.append(fmt.FAMILY, body)
            or (self._grow(slab, 0, fmt.RECORD_HEAD.size + len(body) + fmt.WORD) and slab.append(fmt.FAMILY, body))
        )
        children.number = number if is_written else -1
        children.stamp = token

    def grow(self, words: int, size: int) -> bool:
        """Make room for a series of ``words`` words and a record of ``size`` bytes; False when that is impossible."""
        with self._log, self._log.lock:
            slab = self.process.slab
            return slab is not None and self._grow(slab, words, size)

    def _grow(self, slab: Slab, words: int, size: int) -> bool:
        try:
            return slab.grow(words, size)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and slab is self.process.slab:
                # Another process has unlinked our slab. Readers that map it still read it.
                lost = self._leased
                if self._replace_slab():
                    self._lost.append(lost)
                    return self.grow(words, size)
            self._log_store_error(error)
            return False

    def overflow(self, children: Children) -> Cell:
        """The series that counts what exceeds the metric's cap; the first time, logs a warning."""
        name = children.family.name
        with self._log:
            self._log.warn(
                ("overflow", name),
                "metric %r has no room for more series in process %d: those past %d series, or %d bytes of label"
                " values, count in one labelled otel_metric_overflow; raise max_series or use labels with fewer values",
                name,
                os.getpid(),
                children.limit,
                children.budget,
            )
            if self.on_overflow is not None:
                self.on_overflow(name)
            overflow: Cell = children.make(None)
            return overflow

    def move_later(self, cell: Cell) -> None:
        """Move ``cell``, whose words are in memory, into the store once the store has room."""
        self._waiting.setdefault(cell, self._clock())
        if self.epoch is not None:
            self.epoch.shared.add_trouble(1.0)
            self._room.open()

    def move_in(self) -> bool:
        """Move waiting values into the store as far as it has room; True when nothing waits any more."""
        with self._log, self._log.lock:
            process, waiting = self.process, self._waiting
            if not self._has_begun:
                return True  # a forked child: what waits is its parent's
            if process.slab is None and not self._replace_slab():
                return not waiting
            for children in list(self._children.values()):
                if children.number < 0 and children.stamp == process.token:
                    self.declare_in(children)
            for cell in list(waiting):
                if cell.gone or cell.place is not None or self._move(cell):
                    waiting.pop(cell, None)
            return not waiting

    def _replace_slab(self) -> bool:
        """Make another slab for new series, and declare all metrics in it. Existing series stay where they are."""
        slab = self._new_slab()
        if slab is None:
            return False
        for number, children in enumerate(list(self._children.values())):
            self._declare_in(slab, children, number)
        # Only now: all metrics are declared in it, so cells can make series there.
        self.process.slab = slab
        if self.process.counting == self.process.token:
            self._claim_ordinal()
        return True

    def _move(self, cell: Cell) -> bool:
        children = cell._children  # noqa: SLF001 (cells have no public attribute for their metric)
        if children.number < 0:
            return False
        texts = fmt.pack_texts(cell._key)  # noqa: SLF001 (as above)
        size = fmt.RECORD_HEAD.size + fmt.SERIES_HEAD.size + len(texts) + fmt.WORD
        has_moved = children.move(cell) or (self.grow(children.width, size) and children.move(cell))
        self.moved_count += has_moved
        return has_moved

    def catch_up(self) -> None:
        """End the series that other processes removed, and join the epoch that replaced this one, if one did."""
        epoch, process = self.epoch, self.process
        if epoch is None:
            return
        with self._log, self._log.lock:
            try:
                generation = epoch.shared.generation
                # Waiting values first move into the present slab. While some cannot, we stay in this epoch.
                if self.move_in() and self._join_successor(epoch):
                    self._start_anew()
                    return
                for removal in epoch.removals.after(process.seen, generation, self._children):
                    self._apply(removal)
                is_replaced = epoch.shared.successor > epoch.number
            except (OSError, StoreError) as error:  # readers drop what is removed; the next look-up tries again
                self._log.warn("removals", "process %d cannot see which series were removed: %s", os.getpid(), error)
                return
            if not self._waiting or not is_replaced:
                process.seen = max(process.seen, generation)

    def _apply(self, removal: Removal) -> None:
        """End the series of this process that ``removal`` removes."""
        children = self._children.get(removal.metric)
        if children is not None:
            for key in removal.ended(children):
                children.end(key)

    def _join_successor(self, epoch: Epoch) -> bool:
        """Join the epoch that replaced ours; False if none did."""
        successor = epoch.successor()
        if successor is None:
            return False
        if self.epoch is not epoch:  # a signal handler has joined it already
            successor.close()
            return False
        self._watch(successor)
        epoch.close()
        return True

    def _watch(self, epoch: Epoch) -> None:
        """Use ``epoch``: cells watch its generation of removals and read its removals."""
        self.epoch = epoch
        epoch.shared.watch(self.process)
        if not epoch.directory.is_foreign:
            self.process.follow(epoch.directory.where, self._children)

    def _start_anew(self) -> None:
        """Count from zero in another slab; the present one becomes a dead process's slab."""
        leased, process = self._leased, self.process
        is_counting = process.counting == process.token
        process.begun = 0
        self._start()
        if is_counting:
            self._claim_ordinal()
        if leased is not None:
            leased.release()

    def _log_store_error(self, error: Exception) -> None:
        where = "" if self.epoch is None else f"the store {self.epoch.path}: "
        self._log.warn("store", "%s%s; values wait in process %d until it can take them", where, error, os.getpid())


def time_offset() -> int:
    """Offset of this process's time namespace: nanoseconds by which its monotonic clock is ahead of the machine's."""
    try:
        with open("/proc/self/timens_offsets", "rb") as lines:
            fields = dict(line.split(maxsplit=1) for line in lines)
        seconds, nanoseconds = map(int, fields[b"monotonic"].split())
    except (OSError, KeyError, ValueError):  # a kernel without such namespaces
        return 0
    return seconds * 10**9 + nanoseconds
