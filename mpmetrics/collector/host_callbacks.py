"""HostCallbacks: runs the callbacks of scope ``host``. Observed: what callbacks observed in one collection.

Both belong to the collection that runs; one collection runs at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics.callbacks.runner import Runner
from mpmetrics.callbacks.totals import Total, totals
from mpmetrics.collector.reading import Sample
from mpmetrics.collector.rows import OVERFLOW
from mpmetrics.serving.callback_metrics import CallbackMetrics

if TYPE_CHECKING:
    from mpmetrics.callbacks.runner import Watch
    from mpmetrics.collector.reading import Labels
    from mpmetrics.names.family import Family, Key
    from mpmetrics.provider import Provider
    from mpmetrics.storage.shapes import Shape

__all__ = ["HostCallbacks", "Observed"]


@dataclass
class Observed:
    """The values that were observed, by metric and series; and the series in the store that were observed."""

    values: dict[Family, dict[Key, float]] = field(default_factory=dict)
    stored: dict[Family, set[Key]] = field(default_factory=dict)

    def add_stored(self, family: Family, key: Key) -> None:
        """Note that a series in the store was observed."""
        self.stored.setdefault(family, set()).add(key)

    def rows(self, shape: Shape) -> set[int]:
        """Return the rows in the table of a metric whose stored series were observed."""
        table = shape.table
        keys = ((family, key) for family in shape.families for key in self.stored.get(family, ()))
        found = (table.overflow if key is None else table.find(family.pairs(key)) for family, key in keys)
        return {row for row in found if row >= 0}

    def samples(self, shape: Shape) -> list[Sample]:
        """Return samples of the values that were observed of a metric."""
        return [
            Sample("_total" if family.kind == "counter" else "", _labels(family, key), value + 0.0)
            for family in shape.families
            for key, value in self.values.get(family, {}).items()
        ]


def _labels(family: Family, key: Key) -> Labels:
    return OVERFLOW if key is None else family.pairs(key)


class HostCallbacks:
    """Runs the host callbacks of ``provider``. ``watch`` is told which one runs."""

    def __init__(self, provider: Provider, watch: Watch | None = None) -> None:
        self._provider = provider
        self._runner = Runner(watch=watch)
        self._metrics: CallbackMetrics | None = None
        self._counters: dict[tuple[str, Key], float] = {}

    def observe(self, seconds: float, max_age: float) -> Observed:
        """Run them within ``seconds``; use again what they observed less than ``max_age`` seconds ago."""
        callbacks = self._provider.callbacks.of("host")
        has_any = bool(callbacks) or bool(self._provider.callbacks.of("worker"))
        if not has_any and self._metrics is None:
            return Observed()
        if self._metrics is None:
            self._metrics = CallbackMetrics(self._provider)
        self._metrics.collection()
        runs = self._runner.run(callbacks, seconds, max_age)
        observed = Observed()
        counters: dict[tuple[str, Key], float] = {}
        for name, series in totals(runs).items():
            for key, total in series.items():
                family = total.target.family
                if family.temporality == "delta":
                    observed.add_stored(family, key)
                    continue
                if family.kind == "counter":
                    counters[name, key] = total.value
                    if self._falls(name, key, total):
                        continue
                observed.values.setdefault(family, {})[key] = total.value
        self._counters = counters
        self._metrics.count(runs)
        return observed

    def _falls(self, name: str, key: Key, total: Total) -> bool:
        """True if a counter is lower than in the last collection. It is dropped once; the next value counts again."""
        before = self._counters.get((name, key))
        if before is None or total.value >= before:
            return False
        if self._metrics is not None:
            self._metrics.drop(total.callback)
        total.callback.warn("decrease", f"observed {total.value} of {total.target!r}, which was {before}; dropped")
        return True

    def reset(self) -> None:
        """In a forked child: forget all runs, which are the parent's."""
        self._runner.reset()
