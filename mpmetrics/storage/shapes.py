"""The shapes of metrics: declarations of one name that can be shown together share a table, others exclude each other.

After a reload, old and new code declare the same name side by side. Other labels are no matter; another type, other
buckets, states or mode make another shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics._cells import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpmetrics._cells import Source
    from mpmetrics.names.family import Family
    from mpmetrics.storage.removals import Removal, Removals

__all__ = ["Shape", "Shapes"]

SPARE_ROWS = 1_000
"""Rows of series that are gone that a reader may have, beside one for each series that is there."""


@dataclass(eq=False)
class Shape:
    """Declarations of one metric whose series are shown together."""

    family: Family
    """The latest of them."""
    table: Table
    declared: int
    """When the first of them was made (ns), in the epoch."""
    latest: int
    removed: int = -1
    """Generation up to which removals have been applied to its rows."""
    rows: int = 0
    """Rows that they have been applied to."""
    families: dict[Family, int] = field(default_factory=dict)
    """The declarations, and when each of them was made first."""


class Shapes:
    """All shapes that one reader has met."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[object, ...], Shape]] = {}
        self._gone_at_first: int | None = None
        """Rows of series that were gone when all was read first: their records are still in the files."""
        self._removals: list[Removal] = []
        self._by_metric: dict[str, list[Removal]] = {}

    def declare(self, family: Family, declared: int) -> Table:
        """The table that the series of a declaration go to."""
        shapes = self._known.setdefault(family.name, {})
        shape = shapes.get(family.shape)
        if shape is None:
            shape = shapes[family.shape] = Shape(family, Table(), declared, declared)
        shape.declared = min(shape.declared, declared)
        if declared >= shape.latest:
            shape.family, shape.latest = family, declared
        shape.families[family] = min(declared, shape.families.get(family, declared))
        return shape.table

    def by_name(self) -> dict[str, list[Shape]]:
        """All shapes, by metric."""
        return {name: list(shapes.values()) for name, shapes in self._known.items()}

    def find(self, family: Family) -> Shape | None:
        """The shape that a declaration is of, if there is one."""
        return self._known.get(family.name, {}).get(family.shape)

    def apply(self, sources: Sequence[Source], removals: Removals | None) -> set[int]:
        """Drop the series of ``sources`` that were removed after they were made.

        Returns the generations of the removals without which they would be shown.
        """
        ended: set[int] = set()
        for shape in self._marked(removals):
            for source in sources:
                ended |= source.sweep(shape.table)
        if self._gone_at_first is None:
            _, self._gone_at_first = self._count_rows()
        return ended

    def _marked(self, removals: Removals | None) -> list[Shape]:
        """The shapes some series of which were removed, with that told to their tables."""
        known = [] if removals is None else removals.known
        if known is not self._removals:
            self._removals, self._by_metric = known, {}
            for removal in known:
                before = self._by_metric.setdefault(removal.metric, [])
                if removal.is_subset and not removal.pairs:
                    before.clear()  # all series are removed: nothing is left of those before to be done
                before.append(removal)
        marked = []
        for metric, found in self._by_metric.items():
            for shape in self._known.get(metric, {}).values():
                self._mark(shape, found)
                marked.append(shape)
        return marked

    def _mark(self, shape: Shape, removals: list[Removal]) -> None:
        rows = len(shape.table)
        for removal in removals:
            first = 0 if removal.generation > shape.removed else shape.rows
            if first < rows:
                shape.table.remove(removal.pairs, removal.is_subset, removal.generation, first)
        shape.removed, shape.rows = max(shape.removed, removals[-1].generation), rows

    @property
    def is_stale(self) -> bool:
        """Whether so many rows are of series that are gone that it is better to begin anew."""
        present, gone = self._count_rows()
        return gone > max(present, 2 * (self._gone_at_first or 0)) + SPARE_ROWS

    def _count_rows(self) -> tuple[int, int]:
        """How many rows are of series that are there, and how many of such that are gone."""
        tables = [shape.table for shapes in self._known.values() for shape in shapes.values()]
        present = sum(table.present for table in tables)
        return present, sum(map(len, tables)) - present

    def forget(self) -> None:
        """Begin anew with tables without rows; what was shown last is shown on."""
        self._known, self._gone_at_first = {}, None
