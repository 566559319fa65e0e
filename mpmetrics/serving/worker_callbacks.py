"""WorkerCallbacks: runs the callbacks of scope ``worker`` and stores what they observe in this process's own words.

The words are merged like any others. So when a worker is killed, its totals stay and its live gauges disappear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.callbacks.runner import Run, Runner
from mpmetrics.callbacks.totals import Total, totals
from mpmetrics.serving.callback_metrics import CallbackMetrics
from mpmetrics.turns import Turns

if TYPE_CHECKING:
    from mpmetrics.callbacks.callback import Callback, Target
    from mpmetrics.names.family import Key
    from mpmetrics.provider_base import ProviderBase

    ShownSeries = dict[tuple[str, Key], Target]

__all__ = ["WorkerCallbacks"]


class WorkerCallbacks:
    """Runs the worker callbacks of ``provider`` in this process, one run at a time. Any thread may call the methods."""

    def __init__(self, provider: ProviderBase) -> None:
        self._provider = provider
        self._runner = Runner()
        self._metrics: CallbackMetrics | None = None
        self._turns = Turns(patience=5.0)
        self._is_running = False
        self._observed: dict[Callback, ShownSeries] = {}
        self._missed: set[Callback] = set()
        self._counters: dict[tuple[str, Key], tuple[float, float]] = {}
        """By series: the value that was observed last, and the total of the times before its last reset."""

    def refresh(self, seconds: float, max_age: float = 0.0) -> ShownSeries:
        """Run them within ``seconds``; return the series to show in this collection, by metric and label values.

        The series of a callback that was too late are shown once more with their last values. A gauge that is no longer
        observed loses its value. A counter keeps its total, because a sum over workers must not fall.
        """
        with self._turns:
            if self._is_running:  # a signal handler or finaliser has interrupted this method, or a run is stuck
                return self._shown()
            self._is_running = True
            try:
                return self._refresh(seconds, max_age)
            finally:
                self._is_running = False

    def _shown(self) -> ShownSeries:
        return {name: target for observed in self._observed.values() for name, target in observed.items()}

    def _refresh(self, seconds: float, max_age: float) -> ShownSeries:
        runs = self._runner.run(self._provider.callbacks.of("worker"), seconds, max_age)
        if not runs and not self._observed:
            return {}
        if self._metrics is None:
            self._metrics = CallbackMetrics(self._provider)
        now = self._store(runs, self._metrics)
        self._metrics.count(runs)
        before = self._shown()
        self._observed = {run.callback: self._of(run, now) for run in runs}
        self._missed = {run.callback for run in runs if not run.is_complete}
        shown = self._shown()
        for (name, key), target in before.items():
            if (name, key) not in shown:
                target.withdraw(key)
        return shown

    def _store(self, runs: list[Run], metrics: CallbackMetrics) -> ShownSeries:
        """Store what was observed in this process's words; return the series, by metric and label values."""
        now: ShownSeries = {}
        for name, wanted in totals(runs).items():
            series: dict[Key, Total] = {}
            for key, total in wanted.items():
                # This process may have room for fewer series than were observed: the others add up in the overflow one.
                real = total.target.resolve(key)
                held = series.setdefault(real, total)
                if held is not total:
                    held.value += total.value
            for key, total in series.items():
                target, family = total.target, total.target.family
                if family.temporality != "delta":  # the observer has added a delta to its total already
                    value = total.value
                    if family.kind == "counter":
                        grown = self._grown(name, key, total, metrics)
                        if grown is None:
                            continue
                        value = grown
                    target.put(key, value)
                now[name, key] = target
        return now

    def _grown(self, name: str, key: Key, total: Total, metrics: CallbackMetrics) -> float | None:
        """Return the total of a counter in this process, over all resets; None if the observation is dropped.

        An observation that is lower than the last one is dropped and taken for a reset: later ones are added to the
        total before it, because the sum over workers must not fall.
        """
        last, before = self._counters.get((name, key), (0.0, 0.0))
        if total.value < last:
            self._counters[name, key] = (total.value, before + last - total.value)
            metrics.drop(total.callback)
            total.callback.warn("decrease", f"observed {total.value} of {total.target!r}, which was {last}; dropped")
            return None
        self._counters[name, key] = (total.value, before)
        return before + total.value

    def _of(self, run: Run, now: ShownSeries) -> ShownSeries:
        """Return the series of one callback to show: those it observed; if it was late, once those of its last run."""
        if not run.is_complete:
            return {} if run.callback in self._missed else self._observed.get(run.callback, {})
        names = {(target.family.name, key) for target, key, _ in run.observations.taken}
        own = {name: target for name, target in now.items() if name in names}
        targets = {target.family.name for target in run.callback.targets}
        if overflow := {name: target for name, target in now.items() if name[1] is None and name[0] in targets}:
            own.update(overflow)
        return own

    def reset(self) -> None:
        """In a forked child: forget all runs, which are the parent's."""
        self._turns.after_fork_in_child()
        self._is_running = False
        self._runner.reset()
        self._observed = {}
        self._missed = set()
        self._counters = {}
