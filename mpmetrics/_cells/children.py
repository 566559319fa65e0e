"""The series of one metric in this process; the pure-Python twin.

:mod:`mpmetrics._cells.attempt` prepares a write. The write itself is one straight line without calls, as in
:mod:`mpmetrics._cells.slab`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from mpmetrics._cells.attempt import Attempt, Key, size_of
from mpmetrics._cells.offsets import END, SERIES, SERIES_HEAD, WORD
from mpmetrics._cells.process import _generation
from mpmetrics._cells.pure import DistributionCell, private_words
from mpmetrics._cells.sketch import LAYOUTS, SketchCell
from mpmetrics._cells.slab import END_SIZE, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics._cells.process import Process
    from mpmetrics._cells.slab import Slab

__all__ = ["Children"]


class Children:
    """The series of one metric in this process, by key; ``None`` is the key of the overflow series.

    A series has ``width`` words. The cap is ``limit`` series whose keys have ``budget`` bytes together; beyond it, the
    overflow series counts. ``context`` is for the owner's use.
    """

    __slots__ = (
        "_bytes",
        "_cells",
        "_changes",
        "bounds",
        "budget",
        "cell_type",
        "context",
        "family",
        "layout",
        "limit",
        "name",
        "number",
        "process",
        "stamp",
        "width",
    )

    def __init__(
        self,
        process: Process,
        family: Any,
        cell_type: type[Any],
        *,
        width: int,
        limit: int,
        budget: int,
        context: Any = None,
    ) -> None:
        self.process = process
        self.family = family
        self.name: str = family.name
        self.cell_type = cell_type
        self.width = width
        self.limit = limit
        self.budget = budget
        self.context = context
        self.number = 0
        """The family's number in the slab; -1: it could not be declared there."""
        self.stamp = 0
        """The process's token when it was declared."""
        self.bounds = DistributionCell.bounds_of(family) if issubclass(cell_type, DistributionCell) else None
        self.layout = LAYOUTS[family.mode] if issubclass(cell_type, SketchCell) else None
        if width != (words := cell_type.words_of(family)):
            msg = f"a series of {self.name!r} has {words} words, not {width}"
            raise ValueError(msg)
        self._cells: dict[Key, Any] = {}
        self._bytes = 0
        self._changes = 0
        """How often a series was made, moved or ended."""

    def get(self, key: Key) -> Any:
        """The series of this key, or None."""
        return self._cells.get(key)

    def __contains__(self, key: Key) -> bool:
        return key in self._cells

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys())

    def keys(self) -> list[Key]:
        """The keys, in the order they came."""
        return list(self._cells)

    def values(self) -> list[Any]:
        """The series."""
        return list(self._cells.values())

    def items(self) -> list[tuple[Key, Any]]:
        """Keys and series."""
        return list(self._cells.items())

    def make(self, key: Key) -> Any:
        """The series of this key, made at its first use; beyond the cap, the overflow series."""
        if key is not None and any(text.__class__ is not str for text in key):
            msg = f"a key is a tuple of str, or None, not {key!r}"
            raise TypeError(msg)
        process = self.process
        cell = self._cells.get(key)
        if cell is not None and process.begun == process.token != 0 and not process.is_due:
            return cell
        attempt = Attempt(self, key, counts=False)
        cell = None
        while True:
            changes = self._changes
            if not attempt.ready_process():
                continue
            found = self._cells.get(key)
            if found is not None:
                return found
            if attempt.is_past_the_cap:
                return process.owner.overflow(self)
            if cell is None or cell.gone:
                cell = self.cell_type.new(self, key)
            if attempt.ready_slab() and self._commit_first_use(cell, attempt, changes) and not attempt.is_removed(cell):
                return cell

    def bind(self, cell: Any) -> None:
        """Give a series words of this process, which has begun anew or is a child of the process that made it."""
        attempt = Attempt(self, cell._key, counts=True)
        while True:
            changes = self._changes
            if not attempt.ready_process():
                continue
            if cell.gone or cell._stamp == self.process.token:
                return
            if attempt.ready_slab() and self._commit_first_use(cell, attempt, changes):
                attempt.is_removed(cell)
                return

    def _commit_first_use(self, cell: Any, attempt: Attempt, changes: int) -> bool:
        """Give the cell words: in the slab or, if it must wait, private ones. False: something changed, check again."""
        if not attempt.waits:
            return self._write(cell, attempt, changes)
        process, token, key = self.process, attempt.token, attempt.key
        before = cell._words, cell._bits, cell._slab, cell._stamp  # kept until the end: freeing them may run code
        words, bits = private_words(self.width)
        is_new, total = cell._words is None, self._bytes + attempt.size
        # From here on nothing can interrupt.
        if (
            self._changes != changes
            or process.token != token
            or process._begun[0] != token
            or cell._stamp != before[3]
            or cell._words is not before[0]
        ):
            return False
        cell._words, cell._bits = words, bits
        cell._at, cell._count = 0, 0
        cell._slab, cell._stamp = None, token
        if is_new:
            self._cells[key] = cell
            self._bytes = total
        self._changes = changes + 1
        return True

    def _write(self, cell: Any, attempt: Attempt, changes: int, *, moves: bool = False) -> bool:
        """Write the series into the slab; with ``moves``, its values, too. False: something changed, check again."""
        process, token, key, slab = self.process, attempt.token, attempt.key, self.process.slab
        if slab is None or attempt.texts is None:
            return False
        flips, committed = slab.flips, slab.committed
        if not slab.room_for(self.width, attempt.record_size):
            return False
        before = cell._words, cell._bits, cell._slab, cell._stamp  # kept until the end: freeing them may run code
        is_new, total = cell._words is None, self._bytes + attempt.size
        # A moved series was made before now: it gets the last applied generation, not a later one.
        generation = attempt.generation = process.seen if moves else _generation(process)
        runs = slab.free.get(self.width) or ()
        first = runs[-1] if runs else slab.next_word
        following = first + self.width
        where = slice(first * WORD, following * WORD)
        values = cell._words[cell._at : cell._at + self.width].cast("B") if moves else b""
        head = SERIES_HEAD.pack(self.number, self.width, first, attempt.created, generation)
        plan = Plan(flips, committed, SERIES, head + attempt.texts)
        known = plan.start, plan.end - plan.start
        counts = attempt.counts
        # From here on nothing can interrupt.
        if (
            slab.committed != plan.start
            or slab.flips != plan.flips
            or self._changes != changes
            or process.slab is not slab
            or process.token != token
            or self.stamp != token
            or process._begun[0] != token
            or (counts and process._counting[0] != token)
            or cell._stamp != before[3]
            or cell._words is not before[0]
        ):
            return False
        if moves:
            slab.data[where] = values
        slab.data[plan.where] = plan.record
        slab.records[first] = known
        if runs:
            del runs[-1]
        else:
            slab.next_word = following
        # The commit. It tells readers: all bytes up to here are whole records, whose words belong to their series.
        slab.bits[plan.word] = slab.committed = plan.end
        cell._words, cell._bits = slab.words, slab.bits
        cell._slab, cell._stamp = slab, token
        cell._at = first
        if not moves:
            cell._count = 0
        if is_new:
            self._cells[key] = cell
            self._bytes = total
        self._changes = changes + 1
        return True

    def move(self, cell: Any) -> bool:
        """Move a series from elsewhere into the slab. False when the slab has no room."""
        attempt = Attempt(self, cell._key, counts=False)
        while True:
            changes, slab = self._changes, self.process.slab
            attempt.begin()
            if not attempt.has_begun or self.stamp != attempt.token or slab is None or self.number < 0:
                return False
            if cell.gone or cell._stamp != attempt.token or cell._slab is slab:
                return True
            if self._write(cell, attempt, changes, moves=True):
                return True
            if not slab.room_for(self.width, attempt.record_size):
                return False

    def end(self, key: Key) -> bool:
        """End a series of this process. False when its END record could not be written."""
        can_grow = True
        while True:
            changes, cell = self._changes, self._cells.get(key)
            if cell is None:
                return True
            # No END for a series of the parent process or of an abandoned slab.
            slab = None if cell.place is None else self.process.slab
            if slab is None or not can_grow:
                if self._detach(cell, changes):
                    return slab is None
            elif not slab.room_for(0, END_SIZE):
                can_grow = self.process.owner.grow(0, END_SIZE)
            elif self._write_end(cell, slab, changes):
                return True

    def _detach(self, cell: Any, changes: int) -> bool:
        """Remove the series from the mapping; its cell writes to private memory then. False: check again."""
        before = cell._words, cell._bits, cell._slab  # kept until the end: freeing them may run code
        words, bits = private_words(self.width)
        key, total = cell._key, self._bytes - size_of(cell._key)
        # From here on nothing can interrupt.
        if self._changes != changes or cell._words is not before[0]:
            return False
        del self._cells[key]
        cell._words, cell._bits = words, bits
        cell._at, cell._count = 0, 0
        cell._slab, cell.gone = None, True
        cell._stamp = self.process._counting[0]
        self._bytes = total
        self._changes = changes + 1
        return True

    def _write_end(self, cell: Any, slab: Slab, changes: int) -> bool:
        """Detach the series and write its END. False: check again."""
        process = self.process
        flips, committed, first = slab.flips, slab.committed, cell._at
        known = slab.records.get(first)
        if known is None or not slab.room_for(0, END_SIZE):
            return False
        before = cell._words, cell._bits, cell._slab  # kept until the end: freeing them may run code
        words, bits = private_words(self.width)
        key, total = cell._key, self._bytes - size_of(cell._key)
        plan = Plan(flips, committed, END, struct.pack("=Q", first))
        where = slice(first * WORD, (first + self.width) * WORD)
        zeros, more = bytes(self.width * WORD), (first,)
        garbage = slab.garbage + known[1] + END_SIZE
        runs = slab.free.setdefault(self.width, [])
        # From here on nothing can interrupt.
        if (
            slab.committed != plan.start
            or slab.flips != plan.flips
            or self._changes != changes
            or process.slab is not slab
            or process._begun[0] != process.token
            or cell._slab is not slab
            or cell._words is not before[0]
        ):
            return False
        slab.data[plan.where] = plan.record
        slab.bits[plan.word] = slab.committed = plan.end
        # Only now: until the END is committed, readers count the words as the series'.
        slab.data[where] = zeros
        slab.garbage = garbage
        del slab.records[first]
        runs += more
        del self._cells[key]
        cell._words, cell._bits = words, bits
        cell._at, cell._count = 0, 0
        cell._slab, cell.gone = None, True
        cell._stamp = process._counting[0]
        self._bytes = total
        self._changes = changes + 1
        return True
