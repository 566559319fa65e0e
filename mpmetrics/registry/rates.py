"""Rates: exponentially weighted moving averages of a count over 1, 5 and 15 minutes.

Source: the load average of Unix, as in the metrics libraries of the JVM and Go. Every 5 s, the rate of the last 5 s
moves the average by the share 1 - exp(-5 / 60 / minutes). The first tick sets it.
"""

from __future__ import annotations

import math

__all__ = ["TICK", "Rates"]

TICK = 5.0
"""Seconds between ticks."""

_MINUTES = (1, 5, 15)
_SHARES = tuple(1 - math.exp(-TICK / 60 / minutes) for minutes in _MINUTES)


class Rates:
    """Rates of one count, per second. Not thread-safe: it belongs to the thread that ticks it."""

    def __init__(self, counted: float) -> None:
        self._counted = counted
        self._rates: tuple[float, ...] | None = None

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates over 1, 5 and 15 minutes; 0 before the first tick."""
        return self._rates or (0.0,) * len(_MINUTES)

    def tick(self, count: float, ticks: int = 1, *, first: bool = False) -> None:
        """Tick: the count has grown to ``count`` over ``ticks`` ticks; evenly, or with ``first`` in the first of them.

        A count that has fallen, because the metric was removed and made anew, counts from zero.
        """
        added = count - self._counted if count >= self._counted else count
        self._counted = count
        now = added / TICK / (1 if first else ticks)
        for _ in range(ticks):
            if self._rates is None:
                self._rates = (now,) * len(_MINUTES)
            else:
                self._rates = tuple(
                    rate + share * (now - rate) for rate, share in zip(self._rates, _SHARES, strict=True)
                )
            if first:
                now = 0.0
