"""Which metrics this process has declared, which cells stand for which series, and which slots they write to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.storage.catalog import Family, Key
    from mpmetrics.storage.private import Cell

__all__ = ["Bindings"]


class Bindings:
    """Cells by family and label values, and series by first slot. The slots change under the append lock only."""

    def __init__(self) -> None:
        self.declaring = Turns()
        self.declared = Catalog()
        self.cells: dict[str, dict[Key, Cell]] = {}
        self.slots: dict[int, tuple[str, Key]] = {}

    def declare(self, family: Family) -> None:
        """Have a family; ConflictError when a different one was declared since that was checked.

        To be done again where an exception out of a signal handler cut it short.
        """
        self.cells.setdefault(family.name, {})
        number = self.declared.next_family
        while (known := self.declared.check(family)) is None:
            # A signal handler, or a thread that ran out of patience, may have taken the number, or left it half taken;
            # then another will do.
            while number in self.declared.families:
                number += 1
            try:
                self.declared.take(fmt.FAMILY, [number, family.dump()])
            except FormatError:
                if number not in self.declared.families and self.declared.check(family) is None:
                    raise
        self.declared.complete(known, family)

    def family(self, name: str) -> Family:
        """The declared family of this name."""
        return self.declared.families[self.declared.numbers[name]]

    def families(self) -> list[Family]:
        """All declared families. By their names: an exception out of a signal handler may have left one without."""
        return [self.declared.families[number] for number in list(self.declared.numbers.values())]

    def after_fork_in_child(self) -> None:
        """A thread that held the lock is not here."""
        self.declaring.after_fork_in_child()

    def cells_of(self, gone: Iterable[tuple[int, int]]) -> list[tuple[Cell, int]]:
        """The cells of the series in these slots (first and width), with the widths."""
        bound = [(*self.slots[first], width) for first, width in gone if first in self.slots]
        return [(self.cells[name][key], width) for name, key, width in bound if key in self.cells[name]]

    def forget(self, gone: Iterable[tuple[int, int]]) -> None:
        """Have no cells for the series in these slots any more."""
        for first, _ in gone:
            if first in self.slots:
                name, key = self.slots[first]
                self.cells[name].pop(key, None)
                del self.slots[first]  # last: for as long as it is there, an interrupted removal is done again

    def missing(self, catalog: Catalog) -> list[tuple[int, int]]:
        """First slot and width of the series here that are not in ``catalog``."""
        gone = []
        for first, (name, key) in list(self.slots.items()):
            series = catalog.by_slot.get(first)
            if series is None or (catalog.families[series.family].name, series.key) != (name, key):
                gone.append((first, self.family(name).width))
        return gone
