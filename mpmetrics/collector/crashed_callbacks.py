"""Which callbacks were running when a collector's process ended: its successor does not let them end it again.

The notes are in memory that the parent shares with each collector it forks, so they outlive any death. Only the living
collector writes them. A callback that was running at two deaths in a row, without having come to an end in between, is
suspended for as long as these notes last.
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
    """Notes on callbacks, by their names. Make them before the fork, and call :meth:`take_over` in each collector."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, _ENTRIES * 3 * 8)).cast("Q")

    def _entry(self, name: str) -> int:
        """Index of the notes on ``name``: its own ones, or the first that are free; -1 when there is no room."""
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
        """The collector ends because it was told to: no callback has anything to do with that."""
        for at in range(0, len(self._words), 3):
            self._words[at + _RUNNING] = 0

    def take_over(self) -> None:
        """In a new collector: what is noted as running was running when the last one ended."""
        for at in range(0, len(self._words), 3):
            if self._words[at + _RUNNING]:
                self._words[at + _DEATHS] += 1
                self._words[at + _RUNNING] = 0

    def is_suspended(self, name: str) -> bool:
        """Whether this callback is not to be run."""
        at = self._entry(name)
        suspended = at >= 0 and self._words[at + _DEATHS] >= ENOUGH
        if suspended and self._words[at + _DEATHS] == ENOUGH:
            self._words[at + _DEATHS] += 1  # said
            log.error(
                "the collector's process ended %d times in a row during %s, which is left out until the server is"
                " reloaded",
                ENOUGH,
                name,
            )
        return suspended

    def began(self, name: str) -> None:
        """It is about to run."""
        at = self._entry(name)
        if at >= 0:
            self._words[at + _RUNNING] = 1

    def ended(self, name: str) -> None:
        """It has returned or raised."""
        at = self._entry(name)
        if at >= 0:
            self._words[at + _RUNNING] = 0
            self._words[at + _DEATHS] = 0
