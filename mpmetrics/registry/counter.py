"""Counter: what was added, less what was taken away."""

from __future__ import annotations

from typing import Any

from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric
from mpmetrics.names.family import Family
from mpmetrics.registry.merged_metrics import decrease_name
from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Counter"]


class Counter(RegistryMetric):
    """Counts up and down. What went up and what went down are kept apart, so neither ever falls."""

    role = "counter"
    _storage = {"kind": "counter"}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        super()._open()
        family = Family(name=decrease_name(self._family.name), help="", role="decrease", kind="counter")
        self._decrease: Metric[Any] = Metric(family, self._provider, DEFAULT_MAX_SERIES)

    def remove(self) -> None:
        """As in the base class."""
        super().remove()
        self._memory.remove(self._decrease.family, self.labels)

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``; a negative one is taken away. ValueError for NaN."""
        if amount < 0:
            self.dec(-amount)
        else:
            self._series.inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Take ``amount`` away; a negative one is added. ValueError for NaN."""
        if amount < 0:
            self._series.inc(-amount)
            return
        if self.is_registered():
            is_overflow = self._children.get(None) is self._series
            self._decrease.series(None if is_overflow else self._key()).inc(amount)

    def clear(self) -> None:
        """Take away the count as it is at this moment; what others add meanwhile stays."""
        count = self.count
        if count:
            self.dec(count)

    @property
    def count(self) -> float:
        """The count, over all processes."""
        return self.snapshot().count
