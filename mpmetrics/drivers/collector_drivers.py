"""The drivers that a collector's process runs: their check, and what they add to its scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.collector.reading import Reading, Sample
from mpmetrics.drivers.driver import Driver
from mpmetrics.drivers.prometheus import PrometheusDriver
from mpmetrics.names.naming import text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["check_drivers", "sources"]


def check_drivers(drivers: Sequence[Driver]) -> list[Driver]:
    """Return ``drivers`` as a list; TypeError if one is not a driver."""
    for driver in drivers:
        if not isinstance(driver, Driver):
            msg = f"drivers must be of mpmetrics.drivers, such as PrometheusDriver(...), not {driver!r}"
            raise TypeError(msg)
    return list(drivers)


def sources(drivers: Sequence[Driver]) -> list[Callable[[], list[Reading]]]:
    """Return what drivers add to a scrape: what registries' drivers flushed, and self-metrics of runs and failures."""
    flushed = [driver.readings for driver in drivers if isinstance(driver, PrometheusDriver)]
    return [*flushed, lambda: _self_metrics(drivers)] if drivers else []


def _self_metrics(drivers: Sequence[Driver]) -> list[Reading]:
    counts = {
        "runs": ("Flushes and pushes that worked.", [driver.successes for driver in drivers]),
        "failures": ("Flushes and pushes that failed.", [driver.failures for driver in drivers]),
    }
    return [
        Reading(f"mpmetrics_driver_{what}", "counter", help_text, samples=_samples(drivers, values))
        for what, (help_text, values) in counts.items()
    ]


def _samples(drivers: Sequence[Driver], values: Sequence[int]) -> list[Sample]:
    totals: dict[str, int] = {}
    for driver, value in zip(drivers, values, strict=True):
        name = text(repr(driver))
        totals[name] = totals.get(name, 0) + value
    return [Sample("_total", (("driver", name),), float(total)) for name, total in totals.items()]
