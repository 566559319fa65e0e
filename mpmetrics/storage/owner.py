"""A process as the owner of a slab: what its cells (``mpmetrics._cells``) come to for what is rare.

That is the first write of a process, a metric's FAMILY record, growth, removals that others have made, a store that has
no room, and an epoch that took the place of this one. Nothing here waits for another process.

A forked child finds its process state empty, however it was forked, and so comes to :meth:`SlabOwner.begin`: it begins
with nothing of its own. Only a provider that is to be private goes on with its copy of its parent's values.
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
    """See the module; any thread may call its methods. ``clock`` tells the Unix time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.epoch: Epoch | None = None
        self.on_overflow: Callable[[str], None] | None = None
        """Told the name of a metric each time that it has no room for a series."""
        self.process = Process(self)
        self.process.clock = None if clock is time.time else clock
        self._clock = clock
        self._log = LogOnceUnlocked()
        self._children: dict[str, Children] = {}
        """The series of each metric, in the order of the numbers that metrics have in the slab."""
        self._times: dict[str, int] = {}
        """When each metric was declared."""
        self._is_deferred = False
        self._beside = 0
        self._leased: LeasedSlab | None = None
        self._lost: list[LeasedSlab | None] = []
        """Slabs of this process that somebody has unlinked, and in which it goes on counting."""
        self._map: Map | None = None
        """Of the slab in memory."""
        self._waiting: dict[Cell, float] = {}
        """Series whose values wait in memory, and when (Unix time, s) they began to."""
        self.moves = 0
        """How many of them have moved into the store."""
        self._room = WaitingRoom(self.settle)

    @property
    def _has_begun(self) -> bool:
        token = self.process.token
        return token != 0 and self.process.begun == token

    @property
    def _lowest(self) -> int:
        return fmt.BESIDE if self._beside == os.getpid() else 0

    def begin(self, counting: bool) -> None:  # noqa: FBT001 (called from C)
        """Have a slab, and if this process is ``counting``, an ordinal; without one, the values wait."""
        with self._log, self._log.lock:
            if not self._has_begun:
                self._start()
            if counting and self.process.counting != self.process.token:
                self._claim()

    def _start(self) -> None:
        process = self.process
        before = process.token
        process.time_offset = time_offset()
        if before and self.epoch is None and not self._is_deferred:
            process.begun = before  # the copy of the parent's slab is this process's
            return
        self._waiting, self._leased, self._map, self._lost = {}, None, None, []
        self._room.reset()
        slab = self._new_slab()
        if self._has_begun:
            return  # a signal handler that came in above was quicker
        process.slab = slab
        process.token = new_token()
        # From here on series are made in this slab.
        process.begun = process.token

    def _new_slab(self) -> Slab | None:
        if self.epoch is None:
            slab, self._map = anonymous_slab(self._clock())
            return slab
        try:
            self._move_over(self.epoch)
        except (StoreError, OSError) as error:  # ours is still there
            self._complain(error)
        try:
            self._leased = LeasedSlab(self.epoch.directory, self._lowest, self._clock())
        except (StoreError, OSError) as error:
            self._complain(error)
            return None
        return self._leased.slab

    def _claim(self) -> None:
        """Count under an ordinal from now on."""
        process = self.process
        if process.slab is not None:
            try:
                process.slab.claim()
            except OSError as error:  # what it counts is read all the same
                self._complain(error)
        process.counting = process.token

    def declare_in(self, children: Children) -> None:
        """Write the FAMILY record of a metric into the slab; its series wait where there is no room for that."""
        with self._log, self._log.lock:
            number = list(self._children).index(children.family.name)
            self._declare_in(self.process.slab, children, number)

    def _declare_in(self, slab: Slab | None, children: Children, number: int) -> None:
        token, family = self.process.token, children.family
        body = fmt.FAMILY_HEAD.pack(number, 0, self._times[family.name]) + family.pack()
        is_there = slab is not None and (
            slab.append(fmt.FAMILY, body)
            or (self._grow(slab, 0, fmt.RECORD_HEAD.size + len(body) + fmt.WORD) and slab.append(fmt.FAMILY, body))
        )
        children.number = number if is_there else -1
        children.stamp = token

    def grow(self, words: int, size: int) -> bool:
        """Have room for a series of so many words and a record of so many bytes; False when there is none."""
        with self._log, self._log.lock:
            slab = self.process.slab
            return slab is not None and self._grow(slab, words, size)

    def _grow(self, slab: Slab, words: int, size: int) -> bool:
        try:
            return slab.grow(words, size)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and slab is self.process.slab:
                # Somebody has unlinked ours. Processes that have it mapped go on reading it, too.
                lost = self._leased
                if self._lease_again():
                    self._lost.append(lost)
                    return self.grow(words, size)
            self._complain(error)
            return False

    def overflow(self, children: Children) -> Cell:
        """The series of what is past the metric's cap; said once in the log, and counted."""
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

    def waits(self, cell: Cell) -> None:
        """Have ``cell``, whose words are in memory, moved into the store when that has room."""
        self._waiting.setdefault(cell, self._clock())
        if self.epoch is not None:
            self.epoch.shared.add_trouble(1.0)
            self._room.open()

    def settle(self) -> bool:
        """Move what waits into the store, as far as it has room; whether nothing waits any more."""
        with self._log, self._log.lock:
            process, waiting = self.process, self._waiting
            if not self._has_begun:
                return True  # of a parent
            if process.slab is None and not self._lease_again():
                return not waiting
            for children in list(self._children.values()):
                if children.number < 0 and children.stamp == process.token:
                    self.declare_in(children)
            for cell in list(waiting):
                if cell.gone or cell.place is not None or self._move(cell):
                    waiting.pop(cell, None)
            return not waiting

    def _lease_again(self) -> bool:
        """Go on with another slab in the place of the one that there was; series stay where they are."""
        slab = self._new_slab()
        if slab is None:
            return False
        for number, children in enumerate(list(self._children.values())):
            self._declare_in(slab, children, number)
        # All metrics are declared in it, so from here on series can be made there.
        self.process.slab = slab
        if self.process.counting == self.process.token:
            self._claim()
        return True

    def _move(self, cell: Cell) -> bool:
        children = cell._children  # noqa: SLF001 (a cell's own way to its metric)
        if children.number < 0:
            return False
        texts = fmt.pack_texts(cell._key)  # noqa: SLF001 (as above)
        size = fmt.RECORD_HEAD.size + fmt.SERIES_HEAD.size + len(texts) + fmt.WORD
        has_moved = children.move(cell) or (self.grow(children.width, size) and children.move(cell))
        self.moves += has_moved
        return has_moved

    def notice(self) -> None:
        """Take in what other processes removed, and move over when another epoch took this one's place."""
        epoch, process = self.epoch, self.process
        if epoch is None:
            return
        with self._log, self._log.lock:
            try:
                generation = epoch.shared.generation
                # What waits would be gone: it moves into the slab that there is, or we move over another time.
                if self.settle() and self._move_over(epoch):
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
        """End the series of this process that were removed."""
        children = self._children.get(removal.metric)
        if children is not None:
            for key in removal.ended(children):
                children.end(key)

    def _move_over(self, epoch: Epoch) -> bool:
        """Join the epoch that took the place of ours, if one did."""
        successor = epoch.successor()
        if successor is None:
            return False
        if self.epoch is not epoch:  # a signal handler was quicker
            successor.close()
            return False
        self._watch(successor)
        epoch.close()
        return True

    def _watch(self, epoch: Epoch) -> None:
        """Be part of ``epoch``: compare its generation with what was seen, and follow its removals."""
        self.epoch = epoch
        epoch.shared.watch(self.process)
        if not epoch.directory.is_foreign:
            self.process.follow(epoch.directory.where, self._children)

    def _start_anew(self) -> None:
        """Count from zero in another slab: what was counted so far is a dead process's from now on."""
        leased, process = self._leased, self.process
        is_counting = process.counting == process.token
        process.begun = 0
        self._start()
        if is_counting:
            self._claim()
        if leased is not None:
            leased.release()

    def _complain(self, error: Exception) -> None:
        self._log.warn("store", "%s; values stay in process %d until the store can take them", error, os.getpid())


def time_offset() -> int:
    """Nanoseconds by which this process's monotonic clock is ahead of the machine's: that of its time namespace."""
    try:
        with open("/proc/self/timens_offsets", "rb") as lines:
            fields = dict(line.split(maxsplit=1) for line in lines)
        seconds, nanoseconds = map(int, fields[b"monotonic"].split())
    except (OSError, KeyError, ValueError):  # a kernel without such namespaces
        return 0
    return seconds * 10**9 + nanoseconds
