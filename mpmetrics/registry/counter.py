"""Counter: the sum of what was added, less what was subtracted."""

from __future__ import annotations

from typing import Any

from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric
from mpmetrics.names.family import Family
from mpmetrics.registry.merged_metrics import decrease_name
from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Counter"]


class Counter(RegistryMetric):
    """Counts up and down. The store has one total of increments and one of decrements, and neither ever falls."""

    role = "counter"
    _storage = {"kind": "counter"}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        super()._open()
        family = Family(name=decrease_name(self._family.name), help="", role="decrease", kind="counter")
        self._decrease: Metric[Any] = Metric(family, self._provider, DEFAULT_MAX_SERIES)

    def remove(self) -> None:
        """Remove both totals, as in the base class."""
        super().remove()
        self._memory.remove(self._decrease.family, self.labels)

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``, which may be negative. ValueError for NaN."""
        if amount < 0:
            self.dec(-amount)
        else:
            self._series.inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``, which may be negative. ValueError for NaN."""
        if amount < 0:
            self._series.inc(-amount)
            return
        if self.is_registered():
            is_overflow = self._children.get(None) is self._series
            self._decrease.series(None if is_overflow else self._key()).inc(amount)

    def clear(self) -> None:
        """Subtract the current count of all processes. What other processes add meanwhile stays."""
        count = self.count
        if count:
            self.dec(count)

    @property
    def count(self) -> float:
        """The count over all processes. Costs as much as a scrape."""
        return self.snapshot().count
