"""Series that are gone, for as long as this process has not let go of them: of their cells and their slots.

Removals are taken in under the append lock. Cells are taken from their slots under the guard, which another thread may
have, or an operation that a signal handler interrupted: then whoever has it does that. Nothing is dropped from the list
before it is done, so an exception out of a signal handler leaves the rest for the next time, and no slot counts as free
for which a cell of this process is left.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics._cells import Segment
from mpmetrics.storage.segments import heap

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells import Guard
    from mpmetrics.storage.bindings import Bindings
    from mpmetrics.storage.private import Cell
    from mpmetrics.storage.segments import Segments

__all__ = ["Departures", "detach"]


class _Departure(NamedTuple):
    """Cells with their widths, slots (first and width), and the generation up to which that is all."""

    cells: list[tuple[Cell, int]]
    slots: list[tuple[int, int]]
    generation: int


class Departures:
    """Lets go of series in the order of their removals; ``segments`` is where the process has its slots, if it has."""

    def __init__(self, guard: Guard, bindings: Bindings, segments: Callable[[], Segments | None]) -> None:
        self._guard = guard
        self._bindings = bindings
        self._segments = segments
        self._left: deque[_Departure] = deque()

    def add(self, slots: list[tuple[int, int]], generation: int) -> None:
        """Under the append lock: the series in these slots are gone, and that is all up to ``generation``.

        To be said again when it was cut short.
        """
        self._left.append(_Departure(self._bindings.cells_of(slots), slots, generation))
        self.finish()
        self._bindings.forget(slots)

    def finish(self) -> bool:
        """Let go of what is left; False when it is left to another thread."""
        segments = self._segments()
        if segments is not None and segments.is_touching:  # and so has the guard
            self._let_go(None)
        elif self._left:
            self._guard.run(self._let_go, None)
        return not self._left

    def _let_go(self, _: None) -> None:
        """Under the guard."""
        segments = self._segments()
        while self._left:
            departure = self._left[0]
            for item in departure.cells:
                detach(item)
            if segments is not None:
                segments.let_go(departure.slots, departure.generation)
            self._left.popleft()


def detach(argument: tuple[Cell, int]) -> None:
    """Under the guard: let a cell of a removed series write to memory of its own, and so to nowhere."""
    cell, width = argument
    cell.place(Segment(heap(width)), 0)
