"""Conversion of readings to prometheus_client's metric families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpmetrics.collector.reading import Reading

__all__ = ["prometheus_families"]


def prometheus_families(readings: Iterable[Reading]) -> Iterator[Metric]:
    """Yield a family for each reading, with the same samples."""
    for reading in readings:
        kind = "unknown" if reading.bare else reading.type  # prometheus_client adds _total to a counter
        metric = Metric(reading.name, reading.help, kind, reading.unit)
        for sample in reading.samples:
            metric.add_sample(reading.name + sample.suffix, dict(sample.labels), sample.value)
        yield metric
