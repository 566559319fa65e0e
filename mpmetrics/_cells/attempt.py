"""One attempt to write a series, in the pure-Python twin: the preparations before the write, and the check after it.

Each preparation (beginning, declaring, growing) is a step of its own. After each step the caller checks everything
again, since code that ran during the step may have changed it.
"""

from __future__ import annotations

import math
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from mpmetrics._cells.encoding import pack_texts
from mpmetrics._cells.offsets import MAX_BODY, RECORD_HEAD, SERIES_HEAD, WORD
from mpmetrics._cells.process import _generation

if TYPE_CHECKING:
    from mpmetrics._cells.children import Children

__all__ = ["Attempt", "Key", "size_of"]

Key = tuple[str, ...] | None


class Attempt:
    """One attempt to write the series of ``key``. With ``counts``, the process also needs an ordinal."""

    __slots__ = (
        "_children",
        "_noticed",
        "counts",
        "created",
        "generation",
        "key",
        "record_size",
        "size",
        "texts",
        "token",
        "waits",
    )

    def __init__(self, children: Children, key: Key, *, counts: bool) -> None:
        self._children = children
        self.key = key
        self.counts = counts
        self.texts = _texts(key)
        """The key as a record holds it; None if it does not fit into a record."""
        self.size = size_of(key)
        length = SERIES_HEAD.size + len(self.texts or b"")
        self.record_size = RECORD_HEAD.size + length + -length % WORD
        self.waits = False
        self.token = 0
        self.generation = 0
        self.created = 0.0
        self._noticed = children.process.seen

    def begin(self) -> None:
        """Note the present token and time, the creation of the series, in whole milliseconds."""
        self.token, clock = self._children.process.token, self._children.process.clock
        self.created = time.time_ns() // 1_000_000 / 1e3 if clock is None else math.floor(clock() * 1e3) / 1e3

    @property
    def has_begun(self) -> bool:
        """Whether the process has a slab, under the token of this attempt."""
        return self.token != 0 and self._children.process.begun == self.token

    def ready_process(self) -> bool:
        """True if the process has begun and has no new removals to apply. Otherwise does that work: check again."""
        process = self._children.process
        self.begin()
        if not self.has_begun or (self.counts and process.counting != self.token):
            process.owner.begin(self.counts)
            return False
        generation = _generation(process)
        if generation in (process.seen, self._noticed):
            return True
        self._noticed = generation
        process.owner.catch_up()
        return False

    def ready_slab(self) -> bool:
        """True if the slab has room for the series, or the series must wait. Otherwise makes room: check again."""
        children = self._children
        process = children.process
        if children.stamp != process.token:
            process.owner.declare_in(children)
            return False
        slab = process.slab
        if slab is None or children.number < 0:
            self.waits = True
        if self.waits or (slab is not None and slab.room_for(children.width, self.record_size)):
            return True
        self.waits = not process.owner.grow(children.width, self.record_size)
        return False

    @property
    def is_past_the_cap(self) -> bool:
        """Whether the metric's cap leaves no room for a series of this key."""
        children = self._children
        if self.key is None:
            return False
        count = len(children) - (None in children)
        return self.texts is None or count >= children.limit or children._bytes + self.size > children.budget

    def is_removed(self, cell: Any) -> bool:
        """Whether another process removed the series while it was written."""
        process = self._children.process
        if self.waits:
            process.owner.move_later(cell)
            return False
        # A remover first stores the generation, and readers read the slabs after that. So either we see the generation
        # here, or they see our record. Acquiring a free lock is a full fence.
        allocate_lock().acquire()
        if _generation(process) != self.generation:
            process.owner.catch_up()
        gone: bool = cell.gone
        return gone


def _texts(key: Key) -> bytes | None:
    """The texts of a key as a record holds them; None if no record can."""
    try:
        packed = pack_texts(key)
    except ValueError:
        return None
    return packed if SERIES_HEAD.size + len(packed) <= MAX_BODY else None


def size_of(key: Key) -> int:
    """Bytes of the key's label values."""
    return sum(len(text.encode()) for text in key or ())
