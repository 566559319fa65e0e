"""The shapes of metrics: declarations of one name that can be shown together share a table, others exclude each other.

After a reload, old and new code declare the same name side by side. Other labels are no matter. With another type,
other buckets, states or mode, one of them is shown: among those that a living process declares, the one whose first
declaration in the epoch is the latest; where no living process declares any, the one that was shown last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics._cells import Table, present

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics._cells import Source
    from mpmetrics.names.family import Family
    from mpmetrics.storage.reader import SlabReader
    from mpmetrics.storage.removals import Removal, Removals

__all__ = ["Shape", "Shapes"]

_STALE_ROWS = 10_000


@dataclass(eq=False)
class Shape:
    """Declarations of one metric whose series are shown together."""

    family: Family
    """The latest of them."""
    table: Table
    declared: int
    """When the first of them was made (ns), in the epoch."""
    latest: int
    living: bool = True
    removed: int = -1
    """Generation up to which removals have been applied to its rows."""
    rows: int = 0
    """Rows that they have been applied to."""
    families: dict[Family, int] = field(default_factory=dict)
    """The declarations, and when each of them was made first."""

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.family.name


class Shapes:
    """All shapes that one reader has met."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[object, ...], Shape]] = {}
        self._shown: dict[str, Shape] = {}
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

    def apply(self, sources: Iterable[Source], removals: Removals | None) -> None:
        """Drop the series of ``sources`` that were removed after they were made."""
        sources = list(sources)
        for shape in self._marked(removals):
            for source in sources:
                source.sweep(shape.table)

    def needed(self, sources: Iterable[Source], removals: Removals) -> set[int]:
        """The same; returns the generations of the removals that have dropped something."""
        sources = list(sources)
        generations: set[int] = set()
        for shape in self._marked(removals):
            for source in sources:
                before = present(shape.table, [source])
                if source.sweep(shape.table) >= 0:
                    after = present(shape.table, [source])
                    rows = (row for row, was in enumerate(before) if was and not after[row])
                    generations.update(self._last_removal(shape, row) for row in rows)
        return generations

    def _last_removal(self, shape: Shape, row: int) -> int:
        labels = shape.table.labels(row) if row != shape.table.overflow else ()
        named = {pair for pair in labels if pair[1]}
        return max(
            removal.generation
            for removal in self._by_metric[shape.name]
            if (removal.includes(labels) if removal.is_subset else named == set(removal.named))
        )

    def _marked(self, removals: Removals | None) -> list[Shape]:
        """The shapes some series of which were removed, with that told to their tables."""
        known = [] if removals is None else removals.read_last
        if known is not self._removals:
            self._removals, self._by_metric = known, {}
            for removal in known:
                self._by_metric.setdefault(removal.metric, []).append(removal)
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
                if len(removal.named) == len(removal.pairs) or not removal.is_subset:
                    shape.table.remove(removal.named, removal.is_subset, removal.generation, first)
                    continue
                for row in range(first, rows):  # rare: those that lack a label
                    labels = shape.table.labels(row)
                    if row != shape.table.overflow and removal.includes(labels):
                        named = tuple(pair for pair in labels if pair[1])
                        shape.table.remove(named, False, removal.generation, row)
        shape.removed, shape.rows = max(shape.removed, removals[-1].generation), rows

    def chosen(self, readers: Iterable[SlabReader]) -> tuple[dict[str, list[Shape]], list[tuple[Shape, str]]]:
        """The shapes by metric, the one that is shown first, and those that are not shown with the reason."""
        rivals = {name: list(shapes.values()) for name, shapes in self._known.items() if len(shapes) > 1}
        if rivals:
            self._find_living(rivals, readers)
        shown: dict[str, list[Shape]] = {}
        hidden: list[tuple[Shape, str]] = []
        for name, shapes in self._known.items():
            ordered = sorted(shapes.values(), key=self._rank, reverse=True)
            self._shown[name] = first = ordered[0]
            shown[name] = ordered
            for other in ordered[1:]:
                why = (
                    f"metric {name!r} as declared at {other.family.origin} is not shown: as declared later, at"
                    f" {first.family.origin}, it has {first.family.difference(other.family)}"
                )
                hidden.append((other, why))
        self._leave_out_clashes(shown, hidden)
        return shown, hidden

    def _find_living(self, rivals: dict[str, list[Shape]], readers: Iterable[SlabReader]) -> None:
        living = {(family.name, family.shape) for reader in readers if reader.is_alive for family in reader.families}
        for name, shapes in rivals.items():
            for shape in shapes:
                shape.living = (name, shape.family.shape) in living

    def _rank(self, shape: Shape) -> tuple[bool, bool, int]:
        is_last_shown = not shape.living and self._shown.get(shape.name) is shape
        return shape.living, is_last_shown, shape.declared

    def _leave_out_clashes(self, shown: dict[str, list[Shape]], hidden: list[tuple[Shape, str]]) -> None:
        """Of two metrics that would expose a sample of one name, have the one shown that was declared later."""
        owners: dict[str, Shape] = {}
        for first in sorted((shapes[0] for shapes in shown.values()), key=lambda shape: shape.declared, reverse=True):
            names = first.family.sample_names
            clashing = next((owners[name] for name in names if name in owners), None)
            if clashing is None:
                owners.update(dict.fromkeys(names, first))
                continue
            del shown[first.name]
            why = (
                f"metric {first.name!r} ({first.family.kind}, declared at {first.family.origin}) is not shown:"
                f" {clashing.name!r} ({clashing.family.kind}, declared at {clashing.family.origin}) exposes samples of"
                " the same name"
            )
            hidden.append((first, why))

    @property
    def is_stale(self) -> bool:
        """Whether most rows are of series that are gone, so that it is better to begin anew."""
        rows = present = 0
        for shapes in self._known.values():
            for shape in shapes.values():
                rows += len(shape.table)
                present += shape.table.present
        return rows > _STALE_ROWS and rows > 2 * present
