"""CrashedCallbacks: suspends callbacks that end the collector's process, such as by a crash in C code.

The notes are in memory that the master shares with each collector process that it forks, so they outlive the process.
Only the living collector writes them. A callback that was running at two deaths in a row, without ending in between, is
suspended as long as this object lives, which is until the server's next reload.
"""

from __future__ import annotations

import logging
import mmap
import zlib

__all__ = ["CrashedCallbacks"]

log = logging.getLogger("mpmetrics")

ENOUGH = 2
"""Deaths in a row after which a callback is suspended."""

_ENTRIES = 1024
_NAME, _RUNNING, _DEATHS = range(3)


class CrashedCallbacks:
    """Notes on callbacks, by name. Make it before the fork, and call :meth:`take_over` in each new collector."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, _ENTRIES * 3 * 8)).cast("Q")

    def _entry(self, name: str) -> int:
        """Return the index of the notes on ``name``: its own or the first free ones; -1 if there is no room."""
        number = zlib.crc32(name.encode()) + 1  # zero is a free entry
        start = number % _ENTRIES
        for step in range(_ENTRIES):
            at = (start + step) % _ENTRIES * 3
            if self._words[at + _NAME] == number:
                return at
            if self._words[at + _NAME] == 0:
                self._words[at + _NAME] = number
                return at
        return -1

    def leave(self) -> None:
        """Note that the collector ends in good order, so no callback is the cause."""
        for at in range(0, len(self._words), 3):
            self._words[at + _RUNNING] = 0

    def take_over(self) -> None:
        """In a new collector: count a death for each callback that was running when the last collector ended."""
        for at in range(0, len(self._words), 3):
            if self._words[at + _RUNNING]:
                self._words[at + _DEATHS] += 1
                self._words[at + _RUNNING] = 0

    def is_suspended(self, name: str) -> bool:
        """True if this callback must not run. The first time, the log says so."""
        at = self._entry(name)
        suspended = at >= 0 and self._words[at + _DEATHS] >= ENOUGH
        if suspended and self._words[at + _DEATHS] == ENOUGH:
            self._words[at + _DEATHS] += 1  # logged; a LogOnce would not outlive this process
            log.error(
                "the collector's process ended %d times in a row during %s, which does not run until the server is"
                " reloaded",
                ENOUGH,
                name,
            )
        return suspended

    def began(self, name: str) -> None:
        """Note that the callback is about to run."""
        at = self._entry(name)
        if at >= 0:
            self._words[at + _RUNNING] = 1

    def ended(self, name: str) -> None:
        """Note that the callback has returned or raised."""
        at = self._entry(name)
        if at >= 0:
            self._words[at + _RUNNING] = 0
            self._words[at + _DEATHS] = 0
