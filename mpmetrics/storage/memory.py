"""The values of one provider in this process: in its slab in the store or, without a store, in a slab in memory.

Each provider has one :class:`Memory`. Its own methods answer instruments, providers and collectors; the methods that it
inherits from :class:`~mpmetrics.storage.owner.SlabOwner` answer cells. Only :meth:`Memory.remove` waits for other
processes.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mpmetrics._cells import Children
from mpmetrics.errors import StoreError, StoreUnavailableError
from mpmetrics.names.declared import Declared
from mpmetrics.storage.fold import SHORTEN_AT, fold
from mpmetrics.storage.owner import SlabOwner, time_offset
from mpmetrics.storage.removals import Removal
from mpmetrics.storage.slab import SlabName
from mpmetrics.storage.waiting import waiting_slab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mpmetrics._cells import Cell, Map
    from mpmetrics.names.family import Family, Key
    from mpmetrics.storage.epoch import Epoch

__all__ = ["Memory"]


class Memory(SlabOwner):
    """The values of one provider in this process. Any thread may call its methods."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._declared = Declared()

    def expect_store(self) -> None:
        """Announce that a store will be attached. Until then, a forked child starts without its parent's values."""
        self._is_deferred = True

    def be_auxiliary(self) -> None:
        """Use an auxiliary ordinal: this process is no worker. Its forked children are workers again."""
        self._auxiliary_pid = os.getpid()
        if self.process.slab is not None:
            self.process.slab.lowest = self._lowest

    def attach(self, epoch: Epoch) -> None:
        """Use ``epoch`` from now on and move all values into it. StoreError when this provider has a store already."""
        if self.epoch is not None:
            msg = f"this provider has a store already; make another one for {epoch.path}"
            raise StoreError(msg)
        with self._log, self._log.lock:
            self._watch(epoch)
            if not self._has_begun:
                for children in list(self._children.values()):
                    self._declare_now(children)
                return
            if not self._replace_slab():
                self.process.slab = None
            for children in list(self._children.values()):
                for cell in children.values():
                    if not self._move(cell):
                        self.move_later(cell)
            self._map = None

    def declare(
        self,
        family: Family,
        cell_type: type[Cell],
        *,
        limit: int,
        budget: int,
        context: object = None,
    ) -> Children:
        """Declare a metric and return its series in this process; an equal metric gets the same ones.

        Raises, with nothing changed, :class:`~mpmetrics.errors.ConflictError` when it clashes with another metric of
        this process and ValueError when it does not fit into a record.
        """
        with self._log, self._log.lock:
            if self._declared.check(family) is None:
                family.pack()
                made = Children(
                    self.process, family, cell_type, width=family.width, limit=limit, budget=budget, context=context
                )
                self._times.setdefault(family.name, time.clock_gettime_ns(time.CLOCK_MONOTONIC) - time_offset())
                if self._children.setdefault(family.name, made) is not made:
                    self._declared.check(family)  # a signal handler has declared it, perhaps as another kind
                self._declared.add(family)
            children = self._children[family.name]
            self._declare_now(children)
            return children

    def _declare_now(self, children: Children) -> None:
        """Write a metric's declaration, so that readers show the metric before it has a series."""
        self.begin(counting=False)
        if children.stamp != self.process.token:
            self.declare_in(children)

    def find(self, name: str) -> Children | None:
        """The series of the metric ``name``; None if this process has not declared it."""
        return self._children.get(name)

    def remove(self, family: Family, pairs: Sequence[tuple[str, str]], *, is_subset: bool = False) -> None:
        """Remove the series of ``family`` with these labels in all processes; a subset: all that have these labels.

        Raises :class:`~mpmetrics.errors.StoreError`, with nothing removed, when the store cannot record the removal.
        """
        epoch = self.epoch
        ordered = tuple(sorted(pairs))
        if epoch is None:
            with self._log, self._log.lock:
                self._apply(Removal(0, family.name, ordered, is_subset))
            return
        try:
            epoch.removals.append(family.name, ordered, is_subset=is_subset)
        except OSError as error:
            msg = f"series of {family.name!r} cannot be removed: {error}"
            raise StoreUnavailableError(msg) from error
        self.catch_up()
        if epoch.removals.size >= SHORTEN_AT:
            try:
                fold(epoch.path)
            except (OSError, StoreError) as error:  # the next removal tries again
                with self._log:
                    self._log.warn("fold", "the removals cannot be shortened: %s", error)

    def forget(self, family: Family, key: Key) -> None:
        """End one series in this process alone."""
        with self._log, self._log.lock:
            self._children[family.name].end(key)

    def lease(self) -> None:
        """Make the slab and claim an ordinal now, not at the first write."""
        self.begin(counting=True)

    @property
    def ordinal(self) -> int:
        """Ordinal of this process; until it has one, the lowest that it may claim."""
        slab = self.process.slab
        return self._lowest if slab is None or slab.ordinal is None else slab.ordinal

    @property
    def slab_name(self) -> SlabName | None:
        """The slab of this process; None before it counts."""
        leased = self._leased
        if leased is None or leased.slab.ordinal is None or self.process.slab is not leased.slab:
            return None
        return SlabName(leased.slab.file, leased.slab.ordinal, leased.identity)

    def private_maps(self) -> Iterable[Map]:
        """Slabs in private memory: without a store the slab, with a store the waiting series."""
        if self._map is not None and self.epoch is None and self._has_begun:
            yield self._map
        waiting = {cell: since for cell, since in list(self._waiting.items()) if cell.place is None and not cell.gone}
        if waiting and self.process.begun == self.process.token:
            yield waiting_slab(waiting, self._times, self._clock())

    def close(self) -> None:
        """Leave the store. Values written from now on stay in this process; no reader sees them."""
        with self._log, self._log.lock:
            self.move_in()
            epoch, self.epoch = self.epoch, None
            self.process.watch(None, 0)
            self._is_deferred = True
            if self.process.token:
                self._start_anew()
            elif self._leased is not None:
                self._leased.release()
            if epoch is not None:
                epoch.close()
