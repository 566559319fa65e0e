"""Where the values of this process live: its slab in the store, or without a store a slab in memory.

One :class:`Memory` a provider. The cells (``mpmetrics._cells``) write by themselves; they come here for what is rare:
the first write of a process, a metric's declaration, growth, removals that others have made, and a store that has no
room. Nothing here waits for another process, except for :meth:`Memory.remove`.

A forked child finds its process state empty, however it was forked, and so comes to :meth:`Memory.begin`: it begins
with nothing of its own. Only a provider that is to be private goes on with its copy of its parent's values.
"""

from __future__ import annotations

import _thread
import functools
import logging
import os
import secrets
import struct
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mpmetrics import fork
from mpmetrics._cells import Children, Process, new_token
from mpmetrics.errors import StoreError, StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.declared import Declared
from mpmetrics.storage.fold import SHORTEN_AT, fold
from mpmetrics.storage.removals import Removal
from mpmetrics.storage.slab import LeasedSlab, anonymous_slab
from mpmetrics.storage.slabs import SlabName
from mpmetrics.storage.waiting import WaitingRoom, waiting_slab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mpmetrics._cells import Cell, Map, Slab
    from mpmetrics.names.family import Family, Key
    from mpmetrics.storage.store import Epoch

__all__ = ["Memory"]

log = logging.getLogger("mpmetrics")

Given = ParamSpec("Given")
Result = TypeVar("Result")

_FAMILY_HEAD = struct.Struct("=IIQ")
_END_SIZE = fmt.RECORD_HEAD.size + fmt.WORD


def _speaks(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """Have what a method of :class:`Memory` wants said put into the log after it, when it has let go of its lock.

    A log handler may wait for a thread that in turn waits for that lock, or be interrupted by what needs it.
    """

    @functools.wraps(method)
    def call(*given: Given.args, **named: Given.kwargs) -> Result:
        try:
            return method(*given, **named)
        finally:
            given[0].speak()  # type: ignore[attr-defined]  # a Memory

    return call


class Memory:
    """The values of one provider in this process; see the module. Any thread may call its methods.

    ``clock`` tells the Unix time in seconds, at which series are made.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.epoch: Epoch | None = None
        self.on_overflow: Callable[[str], None] | None = None
        """Told the name of a metric each time that it has no room for a series."""
        self.process = Process(self)
        self.process.clock = None if clock is time.time else clock
        self._clock = clock
        self._locks: dict[int, _thread.RLock] = {}
        self._declared = Declared()
        self._children: dict[str, Children] = {}
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
        self._said: set[str] = set()
        self._unsaid: list[str] = []
        fork.register(self)

    @property
    def lock(self) -> _thread.RLock:
        """What orders the threads of this process; a child that was forked while one had it has another."""
        return self._locks.setdefault(os.getpid(), _thread.RLock())

    def after_fork_in_child(self) -> None:
        """Forget the locks of the parent, whose process id may come again."""
        self._locks = {}

    def expect_store(self) -> None:
        """Say that a store is going to be attached: until then, forked children have no part in our values."""
        self._is_deferred = True

    def stand_beside(self) -> None:
        """Be no worker: have an ordinal beside theirs from the first write on. Forked children are workers again."""
        self._beside = os.getpid()
        if self.process.slab is not None:
            self.process.slab.lowest = fmt.BESIDE

    # What the cells call.

    @_speaks
    def begin(self, counting: bool) -> None:  # noqa: FBT001 (called from C)
        """Have a slab, and if this process is ``counting``, an ordinal; without one, the values wait."""
        process = self.process
        with self.lock:
            if not process.token or process.begun != process.token:
                self._start()
            if counting and process.counting != process.token:
                self._claim()
                process.counting = process.token

    def _start(self) -> None:
        process = self.process
        before = process.token
        process.time_offset = _time_offset()
        if before and self.epoch is None and not self._is_deferred:
            process.begun = before  # the copy of the parent's slab is this process's
            return
        self._waiting, self._leased, self._map, self._lost = {}, None, None, []
        self._room.reset()
        slab = self._new_slab()
        if process.begun and process.begun == process.token:
            return  # a signal handler that came in above was quicker
        process.slab = slab
        process.token = new_token()
        # From here on series are made in this slab.
        process.begun = process.token

    def _new_slab(self) -> Slab | None:
        if self.epoch is None:
            slab, self._map = anonymous_slab(secrets.token_bytes(16), self._clock())
            return slab
        try:
            self._move_over()
        except (StoreError, OSError) as error:  # ours is still there
            self._complain(error)
        try:
            self._leased = LeasedSlab(self.epoch.directory, self._lowest, self._clock())
        except (StoreError, OSError) as error:
            self._complain(error)
            return None
        return self._leased.slab

    @property
    def _lowest(self) -> int:
        return fmt.BESIDE if self._beside == os.getpid() else 0

    def _claim(self) -> None:
        slab = self.process.slab
        if slab is not None:
            try:
                slab.claim()
            except OSError as error:  # what it counts is read all the same
                self._complain(error)

    @_speaks
    def declare_in(self, children: Children) -> None:
        """Write the FAMILY record of a metric into the slab; its series wait where there is no room for that."""
        with self.lock:
            process = self.process
            token = process.token
            number = list(self._children).index(children.family.name)
            children.number = number if self._append_family(process.slab, children, number) else -1
            children.stamp = token

    def _append_family(self, slab: Slab | None, children: Children, number: int) -> bool:
        family = children.family
        body = _FAMILY_HEAD.pack(number, 0, self._times[family.name]) + family.pack()
        if slab is None:
            return False
        return slab.append(fmt.FAMILY, body) or (
            self._grow(slab, 0, fmt.RECORD_HEAD.size + len(body) + fmt.WORD) and slab.append(fmt.FAMILY, body)
        )

    @_speaks
    def grow(self, words: int, size: int) -> bool:
        """Have room for a series of so many words and a record of so many bytes; False when there is none."""
        with self.lock:
            slab = self.process.slab
            return slab is not None and self._grow(slab, words, size)

    def _grow(self, slab: Slab, words: int, size: int) -> bool:
        try:
            return slab.grow(words, size)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError) and slab is self.process.slab
            if is_gone and self._replace():
                return self.grow(words, size)
            self._complain(error)
            return False

    def _replace(self) -> bool:
        """Go on in another slab where somebody has unlinked ours: who has ours mapped goes on reading it, too."""
        lost = self._leased
        if not self._lease_again():
            return False
        self._lost.append(lost)
        return True

    @_speaks
    def overflow(self, children: Children) -> Cell:
        """The series of what is past the metric's cap; said once in the log, and counted."""
        name = children.family.name
        self._say(
            f"overflow {name}",
            f"metric {name!r} has no room for more series in process {os.getpid()}: those past {children.limit} series,"
            f" or {children.budget} bytes of label values, count in one labelled otel_metric_overflow; raise"
            " max_series, or use labels with fewer values",
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

    @_speaks
    def settle(self) -> bool:
        """Move what waits into the store, as far as it has room; whether nothing waits any more."""
        with self.lock:
            process, waiting = self.process, self._waiting
            if process.begun != process.token or not process.token:
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
        slab = self._new_slab()
        if slab is None:
            return False
        self._adopt(slab)
        if self.process.counting == self.process.token:
            self._claim()
        return True

    def _adopt(self, slab: Slab) -> None:
        """Go on with another slab in the place of the one that there was; series stay where they are."""
        for number, children in enumerate(list(self._children.values())):
            children.number = number if self._append_family(slab, children, number) else -1
            children.stamp = self.process.token
        # All metrics are declared in it, so from here on series can be made there.
        self.process.slab = slab

    def _move(self, cell: Cell) -> bool:
        children = cell._children  # noqa: SLF001 (a cell's own way to its metric)
        if children.number < 0:
            return False
        has_moved = children.move(cell) or (self.grow(children.width, _record_size(cell)) and children.move(cell))
        self.moves += has_moved
        return has_moved

    @_speaks
    def notice(self) -> None:
        """Take in what other processes removed, and move over when another epoch took this one's place."""
        epoch, process = self.epoch, self.process
        if epoch is None:
            return
        with self.lock:
            generation = epoch.shared.generation
            try:
                if self._move_over():
                    self._start_anew()
                    return
                for removal in epoch.removals.after(process.seen, generation, self._children):
                    self._end_matching(removal)
            except (OSError, StoreError) as error:  # readers drop what is removed, all the same
                self._complain(error)
            process.seen = max(process.seen, generation)

    def _move_over(self) -> bool:
        """Join the epoch that took the place of ours, if one did."""
        epoch = self.epoch
        successor = None if epoch is None else epoch.successor()
        if successor is None:
            return False
        if self.epoch is not epoch:  # a signal handler was quicker
            successor.close()
            return False
        self._watch(successor)
        if epoch is not None:
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
            process.counting = process.token
        if leased is not None:
            leased.release()

    # What instruments and providers call.

    @_speaks
    def attach(self, epoch: Epoch) -> None:
        """Use ``epoch`` from now on, and move all values there. StoreError when this provider has a store already."""
        if self.epoch is not None:
            msg = f"this provider has a store already; make another one for {epoch.path}"
            raise StoreError(msg)
        with self.lock:
            process = self.process
            self._watch(epoch)
            if not process.token or process.begun != process.token:
                if self._children:
                    self.begin(counting=False)
                    for children in list(self._children.values()):
                        self._declare_now(children)
                return
            held = self._map  # until all have moved, some write there
            slab = self._new_slab()
            if slab is None:
                process.slab = None
                for cell in self._cells():
                    self.waits(cell)
                return
            self._adopt(slab)
            if process.counting == process.token:
                self._claim()
            for cell in self._cells():
                if not self._move(cell):
                    self.waits(cell)
            self._map = None
            del held

    def _cells(self) -> list[Cell]:
        return [cell for children in list(self._children.values()) for cell in list(children.values())]

    @_speaks
    def declare(
        self,
        family: Family,
        cell_type: type[Cell],
        *,
        limit: int,
        budget: int,
        context: object = None,
    ) -> Children:
        """The series of a metric in this process; the same ones for an equal metric.

        Raises :class:`~mpmetrics.errors.ConflictError`, with nothing changed, when it clashes with another metric of
        this process, and ValueError when no record can hold it.
        """
        with self.lock:
            known = self._declared.check(family)
            if known is None:
                family.pack()
                made = Children(
                    self.process, family, cell_type, width=family.width, limit=limit, budget=budget, context=context
                )
                self._times.setdefault(family.name, time.clock_gettime_ns(time.CLOCK_MONOTONIC) - _time_offset())
                if self._children.setdefault(family.name, made) is not made:
                    self._declared.check(family)  # a signal handler was quicker, with another kind perhaps
                self._declared.add(family)
            children = self._children[family.name]
            self._declare_now(children)
            return children

    def _declare_now(self, children: Children) -> None:
        """Have a metric shown before it has any series."""
        self.begin(counting=False)
        if children.stamp != self.process.token:
            self.declare_in(children)

    def find(self, name: str) -> Children | None:
        """The series of the metric of this name that this process has declared, if it has."""
        return self._children.get(name)

    @_speaks
    def remove(self, family: Family, pairs: Sequence[tuple[str, str]], *, is_subset: bool = False) -> None:
        """Remove the series of ``family`` with these labels, or all whose labels include them, in all processes.

        Raises :class:`~mpmetrics.errors.StoreError` when the store cannot take the removal; nothing is removed then.
        """
        epoch = self.epoch
        ordered = tuple(sorted(pairs))
        if epoch is None:
            with self.lock:
                self._end_matching(Removal(0, family.name, ordered, is_subset))
            return
        try:
            epoch.removals.append(family.name, ordered, is_subset=is_subset)
        except OSError as error:
            msg = f"series of {family.name!r} cannot be removed: {error}"
            raise StoreUnavailableError(msg) from error
        self.notice()
        if epoch.removals.size >= SHORTEN_AT:
            try:
                fold(epoch.path)
            except (OSError, StoreError) as error:  # the next one shortens the list
                self._say("fold", f"the removals cannot be shortened: {error}")

    @_speaks
    def forget(self, family: Family, key: Key) -> None:
        """End one series in this process alone."""
        with self.lock:
            self._end(self._children[family.name], key)

    def _end_matching(self, removal: Removal) -> None:
        children = self._children.get(removal.metric)
        if children is None:
            return
        family = children.family
        if not removal.is_subset:
            self._end(children, _key_of(family, removal.pairs))
            return
        for key in list(children):
            if removal.includes(() if key is None else family.pairs(key)):
                self._end(children, key)

    def _end(self, children: Children, key: Key) -> None:
        cell = children.get(key)
        if cell is not None:
            slab = self.process.slab
            if slab is not None and not slab.room_for(0, _END_SIZE):
                self._grow(slab, 0, _END_SIZE)
            children.end(key)

    def lease(self) -> None:
        """Have a slab and an ordinal now rather than at the first write."""
        self.begin(counting=True)

    @property
    def ordinal(self) -> int:
        """Ordinal of this process; before it has one, the lowest that it may have."""
        slab = self.process.slab
        return self._lowest if slab is None or slab.ordinal is None else slab.ordinal

    @property
    def slab_name(self) -> SlabName | None:
        """The slab of this process; None before it counts. Any thread may ask."""
        leased = self._leased
        if leased is None or leased.slab.ordinal is None or self.process.slab is not leased.slab:
            return None
        return SlabName(leased.slab.file, leased.slab.ordinal, leased.identity)

    def private_maps(self) -> Iterable[Map]:
        """Slabs in memory: all that there is without a store, or with one what waits."""
        process = self.process
        if self._map is not None and self.epoch is None and process.token and process.begun == process.token:
            yield self._map
        waiting = {cell: since for cell, since in list(self._waiting.items()) if cell.place is None and not cell.gone}
        if waiting and process.begun == process.token:
            yield waiting_slab(waiting, self._times, self._clock())

    @_speaks
    def close(self) -> None:
        """Give up the store; values written from now on stay in this process and go nowhere."""
        with self.lock:
            self.settle()
            leased, epoch = self._leased, self.epoch
            self.epoch = None
            self.process.watch(None, 0)
            self._is_deferred = True
            if self.process.token:
                self.process.begun = 0
                self._start()
                self.process.counting = self.process.token
            if leased is not None:
                leased.release()
            if epoch is not None:
                epoch.close()

    def _complain(self, error: Exception) -> None:
        self._say("store", f"{error}; values stay in process {os.getpid()} until the store can take them")

    def _say(self, cause: str, message: str) -> None:
        """Have it said in the log, once for each cause."""
        if cause not in self._said:
            self._said.add(cause)
            self._unsaid.append(message)

    def speak(self) -> None:
        """Put into the log what there is to be said, unless this thread has the lock: then it does so later."""
        if self._unsaid and not self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            unsaid, self._unsaid = self._unsaid, []
            for message in unsaid:
                log.warning("%s", message)


def _key_of(family: Family, pairs: Sequence[tuple[str, str]]) -> Key:
    """The label values, in this process, of the series with these labels."""
    values = dict(pairs)
    fixed = [values.pop(name, "") for name in family.labels]
    rest = [text for pair in sorted(values.items()) for text in pair] if family.is_open else []
    return (*fixed, *rest)


def _record_size(cell: Cell) -> int:
    """Bytes that its SERIES record has at most."""
    key = cell._key or ()  # noqa: SLF001 (as above)
    return fmt.RECORD_HEAD.size + 48 + sum(2 + len(text.encode()) for text in key)


def _time_offset() -> int:
    """Nanoseconds by which this process's monotonic clock is ahead of the machine's: that of its time namespace."""
    try:
        with open("/proc/self/timens_offsets", "rb") as lines:
            fields = dict(line.split(maxsplit=1) for line in lines)
        seconds, nanoseconds = map(int, fields[b"monotonic"].split())
    except (OSError, KeyError, ValueError):  # a kernel without such namespaces
        return 0
    return seconds * 10**9 + nanoseconds
