"""Which metrics this process has declared, which cells stand for which series, and which slots they write to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics._cells import Segment
from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.segments import heap
from mpmetrics.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.storage.catalog import Family, Key
    from mpmetrics.storage.private import Cell

__all__ = ["Bindings", "detach"]


class Bindings:
    """Cells by family and label values, and series by first slot. The slots change under the append lock only."""

    def __init__(self) -> None:
        self.declaring = Turns()
        self.declared = Catalog()
        self.cells: dict[str, dict[Key, Cell]] = {}
        self.slots: dict[int, tuple[str, Key]] = {}

    def declare(self, family: Family) -> None:
        """Have a family; ConflictError when a different one was declared since that was checked."""
        self.cells.setdefault(family.name, {})
        number = -1
        while self.declared.check(family) is None:
            # A signal handler, or a thread that ran out of patience, may have taken the number; then another will do.
            before, number = number, self.declared.next_family
            try:
                self.declared.take(fmt.FAMILY, [number, family.dump()])
            except FormatError:
                if number == before:
                    raise

    def family(self, name: str) -> Family:
        """The declared family of this name."""
        return self.declared.families[self.declared.numbers[name]]

    def after_fork_in_child(self) -> None:
        """A thread that held the lock is not here."""
        self.declaring.after_fork_in_child()

    def release(self, gone: Iterable[tuple[int, int]]) -> list[tuple[Cell, int]]:
        """Forget the series in these slots (first and width); returns their cells, to be detached, with the widths."""
        released = []
        for first, width in gone:
            bound = self.slots.pop(first, None)
            cell = None if bound is None else self.cells[bound[0]].pop(bound[1], None)
            if cell is not None:
                released.append((cell, width))
        return released

    def missing(self, catalog: Catalog) -> list[tuple[int, int]]:
        """First slot and width of the series here that are not in ``catalog``."""
        gone = []
        for first, (name, key) in list(self.slots.items()):
            series = catalog.by_slot.get(first)
            if series is None or (catalog.families[series.family].name, series.key) != (name, key):
                gone.append((first, self.family(name).width))
        return gone


def detach(argument: tuple[Cell, int]) -> None:
    """Under the guard: let a cell of a removed series write to memory of its own, and so to nowhere."""
    cell, width = argument
    cell.place(Segment(heap(width)), 0)
