"""Counter: what was added, less what was taken away."""

from __future__ import annotations

from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Counter"]


class Counter(RegistryMetric):
    """Counts up and down. What went up and what went down are kept apart, so neither ever falls."""

    role = "counter"
    _storage = {"kind": "counter", "labels": ("direction",)}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        self._series = self._bind(self._key("up"))
        self._down = None

    def is_registered(self) -> bool:
        """Whether it was not unregistered, by any process."""
        self._notice_removals()
        return self._children.get(self._key("up")) is self._series

    def series_keys(self) -> list[tuple[str, ...]]:
        """Label values of its series in the store."""
        return [self._key("up"), self._key("down")]

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
        if self._down is None and self.is_registered():
            self._down = self._bind(self._key("down"))
        if self._down is not None:
            self._down.inc(amount)

    def clear(self) -> None:
        """Take away the count as it is at this moment; what others add meanwhile stays."""
        count = self.count
        if count:
            self.dec(count)

    @property
    def count(self) -> float:
        """The count, over all processes."""
        return self.snapshot().count
