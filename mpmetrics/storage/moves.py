"""Private values move into the store one at a time, and whoever reads both sides sees each of them on one side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mpmetrics.storage.turns import Turns

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Moves"]


class Moves:
    """``with moves:`` a value moves. ``with moves.reading:`` none does, unless the reading takes too long for it.

    Who moves waits for nothing else within: the append lock is taken before.

    ``count`` is odd while one moves: what was read with it even, and the same before and after, saw none move.
    """

    def __init__(self) -> None:
        self._turns = Turns()
        self.count = 0

    @property
    def reading(self) -> AbstractContextManager[object]:
        """For whoever reads the store and what is private."""
        return self._turns

    def __enter__(self) -> None:
        self._turns.take(sys._getframe(1))  # noqa: SLF001 (whose ``with`` it is)
        self.count += 2 if self.count & 1 else 1  # an exception out of a signal handler may have left it odd

    def __exit__(self, *_: object) -> None:
        self.count += 1
        self._turns.give_back(sys._getframe(1))  # noqa: SLF001 (as above)

    def after_fork_in_child(self) -> None:
        """A thread that had its turn is not here."""
        self._turns.after_fork_in_child()
        self.count = 0
