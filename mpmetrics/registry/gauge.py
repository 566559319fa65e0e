"""Gauge: a value that was set last, or what a function returns."""

from __future__ import annotations

from mpmetrics.instruments.gauge_function import serve_function
from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Gauge"]


class Gauge(RegistryMetric):
    """A value; that of the process which set it last counts.

    A functional one has the value that its function returns when somebody looks. Each worker that has registered it
    runs the function on a thread of its own; one that raises or hangs has no value then.
    """

    role = "gauge"
    _storage = {"kind": "gauge", "mode": "mostrecent"}  # noqa: RUF012 (read only)

    def _open(self) -> None:
        super()._open()
        if self._function is not None:
            serve_function(self._series, self._function)

    def update(self, value: float) -> None:
        """Set the value. ValueError for a functional gauge, whose function alone has a say."""
        if self._function is not None:
            msg = f"gauge {self.name!r} has a function that tells its value: it cannot be set to {value!r}"
            raise ValueError(msg)
        self._series.set(value)

    @property
    def value(self) -> float:
        """The value; 0 when there is none yet."""
        return self.snapshot().value or 0.0
