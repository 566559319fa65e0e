"""What the callbacks of scope ``host`` observe in one collection. Belongs to whoever collects, one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics.callbacks.figures import CallbackFigures
from mpmetrics.callbacks.runner import Runner
from mpmetrics.callbacks.totals import Total, totals

if TYPE_CHECKING:
    from mpmetrics.callbacks.runner import Watch
    from mpmetrics.provider import Provider
    from mpmetrics.storage.catalog import Family, Key

__all__ = ["HostCallbacks", "Observed"]


@dataclass
class Observed:
    """Values by metric and series, of this collection alone; and the stored series that were observed in it."""

    values: dict[Family, dict[Key, float]] = field(default_factory=dict)
    stored: set[tuple[str, Key]] = field(default_factory=set)


class HostCallbacks:
    """Runs the host callbacks of ``provider``; ``watch`` is told what is running."""

    def __init__(self, provider: Provider, watch: Watch | None = None) -> None:
        self._provider = provider
        self._runner = Runner(watch=watch)
        self._figures: CallbackFigures | None = None
        self._counters: dict[tuple[str, Key], float] = {}

    def observe(self, seconds: float, max_age: float) -> Observed:
        """Run them within ``seconds``; what they observed less than ``max_age`` seconds ago is used again."""
        callbacks = self._provider.callbacks.of("host")
        has_any = bool(callbacks) or bool(self._provider.callbacks.of("worker"))
        if not has_any and self._figures is None:
            return Observed()
        if self._figures is None:
            self._figures = CallbackFigures(self._provider)
        self._figures.collection()
        runs = self._runner.run(callbacks, seconds, max_age)
        observed = Observed()
        counters: dict[tuple[str, Key], float] = {}
        for name, series in totals(runs).items():
            for key, total in series.items():
                family = total.target.family
                if family.temporality == "delta":
                    observed.stored.add((name, key))
                    continue
                if family.kind == "counter":
                    counters[name, key] = total.value
                    if self._falls(name, key, total):
                        continue
                observed.values.setdefault(family, {})[key] = total.value
        self._counters = counters
        self._figures.count(runs)
        # The words are read next: what another thread is going to store of ours has to be there.
        self._provider.memory.guard.settle()
        return observed

    def _falls(self, name: str, key: Key, total: Total) -> bool:
        """Whether a counter is lower than in the last collection: dropped this once, and from then on a new start."""
        before = self._counters.get((name, key))
        if before is None or total.value >= before:
            return False
        if self._figures is not None:
            self._figures.drop(total.callback)
        total.callback.say("decrease", f"observed {total.value} of {total.target!r}, which was {before}; dropped")
        return True

    def reset(self) -> None:
        """In a forked child: what runs, runs in the parent."""
        self._runner.reset()
