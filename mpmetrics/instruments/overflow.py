"""The count of label sets that went to a metric's overflow series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.instruments.base import Internal
from mpmetrics.instruments.counter import Counter

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

__all__ = ["count"]


class _Overflows(Internal, Counter):
    """The library's own counter."""


def count(provider: Provider, metric: str) -> None:
    """Count one use of a label set that ``metric`` has no room for."""
    counter = _Overflows(
        "mpmetrics_series_overflows", "Uses of label sets past a metric's cap.", ["metric"], provider=provider
    )
    counter.labels(metric).inc()
