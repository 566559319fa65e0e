"""Timer: the distribution of durations, and the rate at which they come."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar, overload

from mpmetrics.instruments.contexts import Timer as TimedContext
from mpmetrics.instruments.contexts import timer
from mpmetrics.registry.histogram import Distributed
from mpmetrics.registry.meter import Rated

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer"]

Result = TypeVar("Result")


class Timer(Distributed, Rated):
    """Counts durations in seconds by buckets on a log scale, with rates.

    A percentile is at most 1 % off from 1 ns to 1 day. A shorter duration counts as 1 ns, a longer one as 1 day or as
    the longest. It takes 13 KiB in each process that uses it, however many values it has. Source of the buckets:
    DDSketch, https://www.vldb.org/pvldb/vol12/p2195-masson.pdf.
    """

    role = "timer"
    _storage = {"kind": "sketch", "mode": "duration"}  # noqa: RUF012 (read only)

    def update(self, duration: float | timedelta) -> None:
        """Count a duration, in seconds or as a timedelta.

        ValueError, and nothing changes, if it is negative or not finite.
        """
        self._merged.before_mark()
        self._series.update(duration.total_seconds() if isinstance(duration, timedelta) else duration)

    def update_since(self, start: float | datetime) -> None:
        """Count the time since ``start``: a datetime, or a number from time.monotonic, time.perf_counter or time.time.

        A number belongs to the clock whose present value is nearer to it. A naive datetime is local time.
        """
        if isinstance(start, datetime):
            self.update(max(0.0, (datetime.now(UTC) - start.astimezone(UTC)).total_seconds()))
            return
        monotonic, wall = time.monotonic() - start, time.time() - start
        self.update(max(0.0, min(monotonic, wall, key=abs)))

    @overload
    def time(self) -> TimedContext: ...
    @overload
    def time(self, f: Callable[[], Result]) -> Result: ...
    def time(self, f: Callable[[], Result] | None = None) -> Result | TimedContext:
        """Call ``f`` and count its duration; without ``f``, return a context manager and decorator that does so."""
        context = timer(self, "update")
        if f is None:
            return context
        with context:
            return f()
