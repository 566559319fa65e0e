"""Shapes: declarations of one name that can be shown together have the same shape and share a table.

After a reload, old and new code may declare the same name differently. Different labels do not matter; a different
type, mode, buckets or states make another shape.
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
"""Rows without a series that a reader may keep, in addition to one for each present series."""


@dataclass(eq=False)
class Shape:
    """Declarations of one metric whose series are shown together."""

    family: Family
    """The latest of them."""
    table: Table
    declared: int
    """When the first of them in the epoch was made (ns)."""
    latest: int
    removed: int = -1
    """Generation up to which removals have been applied to its rows."""
    rows: int = 0
    """How many rows they have been applied to."""
    families: dict[Family, int] = field(default_factory=dict)
    """The declarations, and when each was first made (ns)."""


class Shapes:
    """All shapes that one reader has met."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[object, ...], Shape]] = {}
        self._gone_at_first: int | None = None
        """Rows that had no series after the first reading: the records of the ended series are still in the files."""
        self._removals: list[Removal] = []
        self._by_metric: dict[str, list[Removal]] = {}

    def declare(self, family: Family, declared: int) -> Table:
        """The table for the series of a declaration."""
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
        """The shape of a declaration; None if no file has it."""
        return self._known.get(family.name, {}).get(family.shape)

    def apply(self, sources: Sequence[Source], removals: Removals | None) -> set[int]:
        """Drop the removed series of ``sources``; returns the generations of the removals that ended them."""
        ended: set[int] = set()
        for shape in self._marked(removals):
            for source in sources:
                ended |= source.sweep(shape.table)
        if self._gone_at_first is None:
            _, self._gone_at_first = self._count_rows()
        return ended

    def _marked(self, removals: Removals | None) -> list[Shape]:
        """Mark the removed rows in the tables; returns the shapes that have such rows."""
        known = [] if removals is None else removals.known
        if known is not self._removals:
            self._removals, self._by_metric = known, {}
            for removal in known:
                before = self._by_metric.setdefault(removal.metric, [])
                if removal.is_subset and not removal.pairs:
                    before.clear()  # it removes all series, so the earlier removals do nothing more
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
        """Whether so many rows have no series that the reader should start over with new tables."""
        present, gone = self._count_rows()
        return gone > max(present, 2 * (self._gone_at_first or 0)) + SPARE_ROWS

    def _count_rows(self) -> tuple[int, int]:
        """How many rows have a series, and how many have none any more."""
        tables = [shape.table for shapes in self._known.values() for shape in shapes.values()]
        present = sum(table.present for table in tables)
        return present, sum(map(len, tables)) - present

    def forget(self) -> None:
        """Start over with empty tables. Snapshots that use the old tables stay valid."""
        self._known, self._gone_at_first = {}, None
