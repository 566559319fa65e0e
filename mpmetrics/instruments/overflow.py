"""The count of label sets that went to a metric's overflow series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.instruments.base import Internal
from mpmetrics.instruments.counter import Counter

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

__all__ = ["OverflowCount"]

_NAME = "mpmetrics_series_overflows"


class _Overflows(Internal, Counter):
    """The library's own counter."""


class OverflowCount:
    """Counts uses of label sets that a metric of ``provider`` has no room for; the counter comes with the first one."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._counter: Counter | None = None

    def __call__(self, metric: str) -> None:
        """Count one use for the metric of this name."""
        if metric == _NAME:
            return  # it would count itself for ever
        if self._counter is None:
            help_text = "Uses of label sets past a metric's cap."
            self._counter = _Overflows(_NAME, help_text, ["metric"], provider=self._provider)
        self._counter.labels(metric).inc()
