"""The waiting room: series whose values are in memory, since the store has no room for them or cannot be used.

Nobody else sees these values, and they are gone with the process. So while there are any, a thread of the process tries
to move them into the store, soon at first and once a second later; it ends when there are none. An orderly end of the
process makes a last attempt. A process without trouble has no such thread.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import sys
import time
from array import array
from typing import TYPE_CHECKING

from mpmetrics.storage import format as fmt
from mpmetrics.storage.slab import anonymous_slab

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpmetrics._cells import Cell, Map

__all__ = ["WaitingRoom", "waiting_slab"]

log = logging.getLogger("mpmetrics")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between attempts: doubled from the first to the longest."""

_LATEST = (1 << 63) - 1
"""The generation of series that no removal has ended: their owner has noticed all."""


class WaitingRoom:
    """Has ``attempt`` made until it answers that nothing waits any more."""

    def __init__(self, attempt: Callable[[], bool]) -> None:
        self._attempt = attempt
        self.reset()

    def reset(self) -> None:
        """In a forked child: the thread is the parent's; the child's first value that waits starts another."""
        self._is_running = False
        self._is_registered = False
        self._is_ending = False

    def open(self) -> None:
        """Something waits: see to it. Neither waits nor raises."""
        if self._is_ending:  # no thread comes to it any more: functions that atexit calls after ours count, too
            self._attempt()
            return
        if self._is_running:
            return
        self._is_running = True
        self._register()
        # Not threading.Thread, whose start waits for the thread: this may be in a signal handler or a finaliser.
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no more threads now, or the interpreter is ending and the last attempt is registered
            self._is_running = False

    def _register(self) -> None:
        if not self._is_registered:
            self._is_registered = True
            with contextlib.suppress(RuntimeError):  # it is already ending
                atexit.register(self._end)
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # its children end without atexit
                util.Finalize(None, self._end, exitpriority=0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._is_running:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                if self._attempt():
                    self._is_running = False
                    if not self._attempt():  # something has come since we looked
                        self._is_running = True
            except Exception:  # whatever it is, the next attempt may do better, and nobody else would see it
                log.exception("moving values that wait into the store failed")

    def _end(self) -> None:
        self._is_ending = True
        self._attempt()


def waiting_slab(cells: Mapping[Cell, float], times: Mapping[str, int], now: float) -> Map:
    """A slab in memory that holds these series as they are now, for a collector of this process to read.

    ``cells`` says of each when (Unix time, s) it was made, and ``times`` of each metric when it was declared (ns).
    """
    slab, words_map = anonymous_slab(now)
    slab.grow(sum(cell._children.width for cell in cells), 0)  # noqa: SLF001 (a cell's own way to its metric)
    words = memoryview(words_map).cast("d")
    numbers: dict[str, int] = {}
    records: list[tuple[int, bytes]] = []
    first = fmt.FIRST_WORD
    for cell, created in cells.items():
        family = cell._children.family  # noqa: SLF001 (as above)
        if family.name not in numbers:
            numbers[family.name] = len(numbers)
            head = fmt.FAMILY_HEAD.pack(numbers[family.name], 0, times[family.name])
            records.append((fmt.FAMILY, head + family.pack()))
        values = cell.values()
        words[first : first + len(values)] = array("d", values)
        body = fmt.SERIES_HEAD.pack(numbers[family.name], len(values), first, created, _LATEST)
        records.append((fmt.SERIES, body + fmt.pack_texts(cell._key)))  # noqa: SLF001 (as above)
        first += len(values)
    slab.grow(0, sum(fmt.RECORD_HEAD.size + len(body) + fmt.WORD for _, body in records))
    for kind, body in records:
        slab.append(kind, body)
    return words_map
