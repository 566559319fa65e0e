"""Config: how a registry's metrics are shown in Prometheus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from mpmetrics.drivers.driver import check_interval
from mpmetrics.registry import Registry, default_registry

__all__ = ["UNITS", "Config", "Style"]

Style = Literal["native", "gauges"]
Span = Literal["lifetime", "window"]

UNITS = {
    "ns": ("nanoseconds", 1e-9),
    "us": ("microseconds", 1e-6),
    "ms": ("milliseconds", 1e-3),
    "s": ("seconds", 1.0),
    "min": ("minutes", 60.0),
    "h": ("hours", 3600.0),
    "d": ("days", 86400.0),
}
"""The units in which durations can be shown: name, and length in seconds."""


@dataclass(frozen=True)
class Config:
    """The arguments of a :class:`PrometheusDriver`, with defaults.

    ``namespace`` and ``subsystem`` are prefixes of each name. The metrics of ``registry`` are shown. ``flush_interval``
    is in seconds. ``duration_unit`` is ns, us, ms, s, min, h or d, or one of their names such as ``"milliseconds"``.
    ``style`` is ``"native"``, with the types of Prometheus, or ``"gauges"``, with the names of go-metrics-plus.
    ``percentiles`` are over the ``"lifetime"`` of the values or over the registry's sliding ``"window"``.

    Raises TypeError for an invalid registry, namespace or subsystem, and ValueError for other invalid values.
    """

    namespace: str = ""
    subsystem: str = ""
    registry: Registry = field(default_factory=lambda: default_registry)
    flush_interval: float = 5.0
    duration_unit: str = "s"
    style: Style = "native"
    percentiles: Span = "lifetime"

    def __post_init__(self) -> None:
        if not isinstance(self.registry, Registry):
            msg = f"registry must be a Registry, such as mpmetrics.registry.default_registry, not {self.registry!r}"
            raise TypeError(msg)
        check_interval("flush_interval", self.flush_interval)
        for what in ("namespace", "subsystem"):
            value = getattr(self, what)
            if not isinstance(value, str):
                msg = f"{what} must be a str, not {value!r}"
                raise TypeError(msg)
        if self.style not in get_args(Style):
            msg = f"style must be one of {', '.join(get_args(Style))}, not {self.style!r}"
            raise ValueError(msg)
        if self.percentiles not in get_args(Span):
            msg = f"percentiles must be one of {', '.join(get_args(Span))}, not {self.percentiles!r}"
            raise ValueError(msg)
        if self.duration_unit not in UNITS and self.duration_unit not in dict(UNITS.values()):
            msg = f"duration_unit must be one of {', '.join(UNITS)}, not {self.duration_unit!r}"
            raise ValueError(msg)

    @property
    def unit(self) -> tuple[str, float]:
        """Name of the unit of durations, and its length in seconds."""
        if self.duration_unit in UNITS:
            return UNITS[self.duration_unit]
        return self.duration_unit, dict(UNITS.values())[self.duration_unit]
