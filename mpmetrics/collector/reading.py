"""The merged values of one metric, as everything outward takes them: renderers, drivers, prometheus_client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpmetrics._cells.merging import Vector
    from mpmetrics.collector.rows import Rows

__all__ = ["Ending", "Grid", "Labels", "Reading", "Sample"]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order they are shown."""


class Sample(NamedTuple):
    """One number: the suffix of its name, its labels, its value."""

    suffix: str
    labels: Labels
    value: float


class Ending(NamedTuple):
    """What the samples of a column of a grid have in common: the suffix of their name, and the last label, if any."""

    suffix: str
    label: tuple[str, str] | None = None


class Grid(NamedTuple):
    """Samples of many series without an object for each: a row for each series, a value for each row and ending.

    A value whose ending is None is no sample, nor is one whose byte in ``mask`` is zero. A mask has a byte for each
    value, or for each row; None stands for that of the rows that are present. Behind the samples of a row comes the
    time at which its series was made, if ``has_created`` and the row has any sample.
    """

    rows: Rows
    endings: tuple[Ending | None, ...]
    values: Vector
    mask: bytes | None = None
    has_created: bool = False

    @property
    def shown(self) -> bytes:
        """The mask, with a byte for each value or for each row."""
        return self.rows.present if self.mask is None else self.mask

    def samples(self) -> list[Sample]:
        """The same as objects."""
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
    """A metric family and its samples; those of one series stand together.

    ``type`` is OpenMetrics': counter, gauge, histogram, summary, info or stateset. ``name`` is without suffixes.
    ``original`` is the name in the Meter API, of a metric that has one: its labels are attributes, by their own names.
    ``adds`` says of a gauge that values of the same labels add up. A ``bare`` counter is shown without ``_total``.
    Samples are given as such, or as a ``grid``, of which they are made when somebody asks for them.
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
