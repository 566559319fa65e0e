"""Histogram: how many values fell into each bucket, and their sum."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.contexts import Timer, timer
from mpmetrics.instruments.instrument import DEFAULT_MAX_SERIES, Instrument
from mpmetrics.instruments.series import DistributionSeries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.provider_base import ProviderBase

__all__ = ["Histogram", "check_bounds"]


class Histogram(Instrument[DistributionSeries]):
    """Counts observations, such as durations or sizes, by buckets.

    ``buckets`` are the upper bounds, which must strictly increase; an infinite one is added if it is missing. The
    default bounds suit durations of web requests in seconds, as in prometheus_client. Other arguments as in
    :class:`~mpmetrics.instruments.instrument.Instrument`. ValueError for bounds that are NaN or do not increase.
    """

    _kind = "histogram"
    _hot = ("observe",)
    DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: None = None,
        *,
        buckets: Iterable[float | str] = DEFAULT_BUCKETS,
        provider: ProviderBase | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        self._bounds = check_bounds(name, buckets)
        super().__init__(
            name,
            documentation,
            labelnames,
            namespace,
            subsystem,
            unit,
            registry,
            provider=provider,
            max_series=max_series,
        )

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        return ("le",)

    def _particulars(self) -> dict[str, Any]:
        return {"bounds": self._bounds}

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount``. ValueError, and nothing changes, if it is NaN."""
        self._only().observe(amount, exemplar)

    def time(self) -> Timer:
        """Return a context manager and decorator that observes the duration of the code in seconds."""
        # As in prometheus_client, labels can also be given to the timer while it runs.
        return timer(self, "observe")


def check_bounds(name: str, buckets: Iterable[float | str]) -> tuple[float, ...]:
    """Return the bounds as numbers, the last one infinite; ValueError as in :class:`Histogram`."""
    try:
        bounds = [float(bound) for bound in buckets]
    except (TypeError, ValueError) as error:
        msg = f"histogram {name!r}: buckets must be numbers: {error}"
        raise ValueError(msg) from error
    if any(map(math.isnan, bounds)):
        msg = f"histogram {name!r}: buckets must not be NaN, but are {bounds}"
        raise ValueError(msg)
    if any(low >= high for low, high in pairwise(bounds)):
        msg = f"histogram {name!r}: buckets must strictly increase, but are {bounds}"
        raise ValueError(msg)
    if not bounds or bounds == [math.inf]:
        msg = f"histogram {name!r} needs at least one finite bucket, not {bounds}"
        raise ValueError(msg)
    return tuple(bounds) if bounds[-1] == math.inf else (*bounds, math.inf)
