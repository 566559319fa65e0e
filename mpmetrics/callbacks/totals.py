"""Totals: the observations of one collection put together, by metric and series. A pure function of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.callbacks.callback import Callback, Target
    from mpmetrics.callbacks.runner import Run
    from mpmetrics.names.family import Key

__all__ = ["Total", "totals"]


class Total:
    """The value of a series in one collection, and the callback that observed it last."""

    __slots__ = ("callback", "target", "value")

    def __init__(self, target: Target, callback: Callback, value: float) -> None:
        self.target = target
        self.callback = callback
        self.value = value


def totals(runs: Iterable[Run]) -> dict[str, dict[Key, Total]]:
    """Return the value of each series that ``runs`` observed, by metric: the last one of a gauge, else the sum.

    A metric has at most ``max_series`` series; further ones are its overflow series. Incomplete runs do not count.
    """
    found: dict[str, dict[Key, Total]] = {}
    for run in runs:
        if not run.is_complete:
            continue
        for target, wanted, value in list(run.observations.taken):
            series = found.setdefault(target.family.name, {})
            key = wanted
            if key not in series and len(series) - (None in series) >= target.max_series:
                key = None
            total = series.get(key)
            if total is None:
                series[key] = Total(target, run.callback, value)
            else:
                total.value = value if target.family.kind == "gauge" else total.value + value
                total.callback = run.callback
    return found
