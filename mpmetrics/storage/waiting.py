"""The waiting room: series whose values are in private memory because the store has no room or cannot be used.

No other process sees these values, and they die with their process. So while any wait, a thread tries to move them into
the store: after 50 ms, then at growing intervals of up to a second. A process that exits normally makes a last attempt.
A process in which nothing waits has no such thread.
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
"""Seconds between attempts; each pause doubles the one before, up to the longest."""

_LATEST = (1 << 63) - 1
"""A generation above all removals: the owner has ended the removed series itself."""


class WaitingRoom:
    """Calls ``attempt`` again and again until it returns True: nothing waits any more."""

    def __init__(self, attempt: Callable[[], bool]) -> None:
        self._attempt = attempt
        self.reset()

    def reset(self) -> None:
        """Forget the thread. In a forked child it does not exist; the child's first waiting value starts another."""
        self._is_running = False
        self._is_registered = False
        self._is_ending = False

    def open(self) -> None:
        """Start the attempts: a value waits. Does not block or raise."""
        if self._is_ending:  # too late for a thread; functions that atexit calls after ours may still count
            self._attempt()
            return
        if self._is_running:
            return
        self._is_running = True
        self._register()
        # Not threading.Thread: its start() waits for the thread, and a signal handler or finaliser may call us.
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no thread available, or the interpreter is ending and _end() makes the last attempt
            self._is_running = False

    def _register(self) -> None:
        if not self._is_registered:
            self._is_registered = True
            with contextlib.suppress(RuntimeError):  # it is already ending
                atexit.register(self._end)
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # multiprocessing's children exit without atexit
                util.Finalize(None, self._end, exitpriority=0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._is_running:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                if self._attempt():
                    self._is_running = False
                    if not self._attempt():  # a value began to wait after the first attempt
                        self._is_running = True
            except Exception:  # the next attempt may succeed; without this line no one would see the error
                log.exception("moving waiting values into the store failed")

    def _end(self) -> None:
        self._is_ending = True
        self._attempt()


def waiting_slab(cells: Mapping[Cell, float], times: Mapping[str, int], now: float) -> Map:
    """A slab in memory with a copy of these series, for a collector in this process to read.

    ``cells`` maps each series to its creation (Unix time, s), ``times`` each metric to its declaration (ns).
    """
    slab, words_map = anonymous_slab(now)
    slab.grow(sum(cell._children.width for cell in cells), 0)  # noqa: SLF001 (cells have no public attribute for it)
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
