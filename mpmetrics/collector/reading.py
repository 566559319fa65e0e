"""The merged values of one metric, as everything outward takes them: renderers, drivers, prometheus_client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Labels", "Reading", "Sample"]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order they are shown."""


class Sample(NamedTuple):
    """One number: the suffix of its name, its labels, its value."""

    suffix: str
    labels: Labels
    value: float


@dataclass
class Reading:
    """A metric family and its samples; those of one series stand together.

    ``type`` is OpenMetrics': counter, gauge, histogram, summary, info or stateset. ``name`` is without suffixes.
    ``original`` is the name in the Meter API, of a metric that has one: its labels are attributes, by their own names.
    ``adds`` says of a gauge that values of the same labels add up. A ``bare`` counter is shown without ``_total``.
    """

    name: str
    type: str
    help: str
    unit: str = ""
    samples: list[Sample] = field(default_factory=list)
    original: str = ""
    adds: bool = False
    bare: bool = False
