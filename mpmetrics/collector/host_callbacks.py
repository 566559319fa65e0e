"""What the callbacks of scope ``host`` observe in one collection. Belongs to whoever collects, one at a time."""

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
    """Values by metric and series, of this collection alone; and the stored series that were observed in it."""

    values: dict[Family, dict[Key, float]] = field(default_factory=dict)
    stored: dict[Family, set[Key]] = field(default_factory=dict)

    def add_stored(self, family: Family, key: Key) -> None:
        """Have a series of the store that was observed."""
        self.stored.setdefault(family, set()).add(key)

    def rows(self, shape: Shape) -> set[int]:
        """The rows of a metric's table that were observed of it in the store."""
        table = shape.table
        keys = ((family, key) for family in shape.families for key in self.stored.get(family, ()))
        found = (table.overflow if key is None else table.find(family.pairs(key)) for family, key in keys)
        return {row for row in found if row >= 0}

    def samples(self, shape: Shape) -> list[Sample]:
        """The values that were observed of a metric."""
        return [
            Sample("_total" if family.kind == "counter" else "", _labels(family, key), value + 0.0)
            for family in shape.families
            for key, value in self.values.get(family, {}).items()
        ]


def _labels(family: Family, key: Key) -> Labels:
    return OVERFLOW if key is None else family.pairs(key)


class HostCallbacks:
    """Runs the host callbacks of ``provider``; ``watch`` is told what is running."""

    def __init__(self, provider: Provider, watch: Watch | None = None) -> None:
        self._provider = provider
        self._runner = Runner(watch=watch)
        self._metrics: CallbackMetrics | None = None
        self._counters: dict[tuple[str, Key], float] = {}

    def observe(self, seconds: float, max_age: float) -> Observed:
        """Run them within ``seconds``; what they observed less than ``max_age`` seconds ago is used again."""
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
        """Whether a counter is lower than in the last collection: dropped this once, and from then on a new start."""
        before = self._counters.get((name, key))
        if before is None or total.value >= before:
            return False
        if self._metrics is not None:
            self._metrics.drop(total.callback)
        total.callback.warn("decrease", f"observed {total.value} of {total.target!r}, which was {before}; dropped")
        return True

    def reset(self) -> None:
        """In a forked child: what runs, runs in the parent."""
        self._runner.reset()
