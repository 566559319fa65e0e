"""The merged values of one metric, as everything outward takes them: renderers, drivers, prometheus_client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpmetrics._cells.vectors import Vector
    from mpmetrics.collector.rows import Rows

__all__ = ["Labels", "Reading", "Sample", "Shape", "Table"]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order they are shown."""


class Sample(NamedTuple):
    """One number: the suffix of its name, its labels, its value."""

    suffix: str
    labels: Labels
    value: float


class Shape(NamedTuple):
    """What the samples of a column of a table have in common: the suffix of their name, and the last label, if any."""

    suffix: str
    label: tuple[str, str] | None = None


class Table(NamedTuple):
    """Samples of many series without an object for each: a row for each series, a value for each row and shape.

    A value whose shape is None, or whose byte in ``mask`` is zero, is no sample. Behind those of a row comes the time
    at which the series was made, if ``has_created`` and the row has any sample.
    """

    rows: Rows
    shapes: tuple[Shape | None, ...]
    values: Vector
    mask: bytes | None = None
    has_created: bool = False

    def samples(self) -> list[Sample]:
        """The same as objects."""
        samples: list[Sample] = []
        position = 0
        for labels, created in zip(self.rows.labels, self.rows.created, strict=True):
            before = len(samples)
            for shape in self.shapes:
                if shape is not None and (self.mask is None or self.mask[position]):
                    whole = labels if shape.label is None else (*labels, shape.label)
                    samples.append(Sample(shape.suffix, whole, self.values[position]))
                position += 1
            if self.has_created and len(samples) > before:
                samples.append(Sample("_created", labels, created))
        return samples


class Reading:
    """A metric family and its samples; those of one series stand together.

    ``type`` is OpenMetrics': counter, gauge, histogram, summary, info or stateset. ``name`` is without suffixes.
    ``original`` is the name in the Meter API, of a metric that has one: its labels are attributes, by their own names.
    ``adds`` says of a gauge that values of the same labels add up. A ``bare`` counter is shown without ``_total``.
    Samples are given as such, or as a ``table``, of which they are made when somebody asks for them.
    """

    __slots__ = ("_samples", "adds", "bare", "help", "name", "original", "table", "type", "unit")

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
        table: Table | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.help = help
        self.unit = unit
        self.original = original
        self.adds = adds
        self.bare = bare
        self.table = table
        self._samples = samples if samples is not None or table is not None else []

    @property
    def samples(self) -> list[Sample]:
        """The samples; setting them drops the table."""
        if self._samples is None:
            self._samples = [] if self.table is None else self.table.samples()
        return self._samples

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        self.table = None
        self._samples = samples

    def __repr__(self) -> str:
        return f"Reading({self.name!r}, {self.type!r}, {self.samples!r})"
