"""What the runs of one collection come to, by metric and series."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.callbacks.callback import Callback, Target
    from mpmetrics.callbacks.runner import Run
    from mpmetrics.names.family import Key

__all__ = ["Total", "totals"]


class Total:
    """The value of a series in one collection, and who observed it last."""

    __slots__ = ("callback", "target", "value")

    def __init__(self, target: Target, callback: Callback, value: float) -> None:
        self.target = target
        self.callback = callback
        self.value = value


def totals(runs: Iterable[Run]) -> dict[str, dict[Key, Total]]:
    """By metric and series what ``runs`` observed, in their order: of a gauge what came last, else the sum.

    A metric has at most its ``max_series`` series; what comes past them is its overflow series.
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
