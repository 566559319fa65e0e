"""Reading: the merged values of one metric, which renderers, drivers and prometheus_client's families are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpmetrics._cells.merging import Vector
    from mpmetrics.collector.rows import Rows

__all__ = ["Ending", "Grid", "Labels", "Reading", "Sample"]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order in which they are shown."""


class Sample(NamedTuple):
    """One number: the suffix of its name, its labels, its value."""

    suffix: str
    labels: Labels
    value: float


class Ending(NamedTuple):
    """What the samples of one column of a grid share: the suffix of their name, and their last label, if any."""

    suffix: str
    label: tuple[str, str] | None = None


class Grid(NamedTuple):
    """Samples of many series without an object for each: a row for each series, a column for each ending.

    ``values`` has one value for each row and ending, row by row. A value is a sample unless its ending is None or its
    byte in ``mask`` is zero. A mask has a byte for each value or for each row; None means the present rows. With
    ``has_created``, the creation time of the series follows the samples of each row that has samples.
    """

    rows: Rows
    endings: tuple[Ending | None, ...]
    values: Vector
    mask: bytes | None = None
    has_created: bool = False

    @property
    def shown(self) -> bytes:
        """The mask, never None: a byte for each value or for each row."""
        return self.rows.present if self.mask is None else self.mask

    def samples(self) -> list[Sample]:
        """Return the samples as objects."""
        samples: list[Sample] = []
        rows, width, shown = self.rows, len(self.endings), self.shown
        mask = shown if len(shown) == len(rows) * width else rows.spread(width, shown)
        for row in range(len(rows)):
            start = row * width
            endings = [(at, ending) for at, ending in enumerate(self.endings, start) if ending is not None and mask[at]]
            if not endings:
                continue
            labels = rows.labels(row)
            for at, ending in endings:
                whole = labels if ending.label is None else (*labels, ending.label)
                samples.append(Sample(ending.suffix, whole, self.values[at]))
            if self.has_created:
                samples.append(Sample("_created", labels, rows.created[row]))
        return samples


class Reading:
    """A metric family and its samples; the samples of one series are adjacent.

    ``type`` is that of OpenMetrics: counter, gauge, histogram, summary, info or stateset. ``name`` has no suffixes.
    ``original`` is the name in the Meter API, if the metric has one; its labels are then attributes with their original
    names. ``adds``: if two series of this gauge become equal, their values add up. A ``bare`` counter is shown without
    ``_total``. Samples are given as objects or as a ``grid``; the objects of a grid are made when they are first used.
    """

    __slots__ = ("_samples", "adds", "bare", "grid", "help", "name", "original", "type", "unit")

    def __init__(
        self,
        name: str,
        type: str,
        help: str,
        unit: str = "",
        samples: list[Sample] | None = None,
        *,
        original: str = "",
        adds: bool = False,
        bare: bool = False,
        grid: Grid | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.help = help
        self.unit = unit
        self.original = original
        self.adds = adds
        self.bare = bare
        self.grid = grid
        self._samples = samples if samples is not None or grid is not None else []

    @property
    def samples(self) -> list[Sample]:
        """The samples; setting them drops the grid."""
        if self._samples is None:
            self._samples = [] if self.grid is None else self.grid.samples()
        return self._samples

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        self.grid = None
        self._samples = samples

    def __repr__(self) -> str:
        return f"Reading({self.name!r}, {self.type!r}, {self.samples!r})"
