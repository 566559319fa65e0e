"""Gauge: the value that was set last, or that a function returns."""

from __future__ import annotations

from mpmetrics.instruments.gauge_function import serve_function
from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Gauge"]


class Gauge(RegistryMetric):
    """A current value. The value that any process set last counts.

    A functional gauge has the value that its function returns at each collection. Each worker that has registered the
    gauge runs the function on a thread of its own. If the function raises or hangs, that worker has no value.
    """

    role = "gauge"
    _storage = {"kind": "gauge", "mode": "mostrecent"}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        super()._open()
        if self._function is not None:
            serve_function(self._series, self._function)

    def update(self, value: float) -> None:
        """Set the value. ValueError for a functional gauge."""
        if self._function is not None:
            msg = f"gauge {self.name!r} has a function that returns its value, so it cannot be set to {value!r}"
            raise ValueError(msg)
        self._series.set(value)

    @property
    def value(self) -> float:
        """The value over all processes, 0 if it was never set. Costs as much as a scrape."""
        return self.snapshot().value or 0.0
