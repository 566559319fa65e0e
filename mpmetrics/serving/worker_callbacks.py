"""The callbacks that run in every worker: what they observe goes into the worker's own words, to be merged as ever.

So a worker that is killed leaves its totals behind, and its gauges go with it, without anybody's help.
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

    Observed = dict[tuple[str, Key], Target]

__all__ = ["WorkerCallbacks"]


class WorkerCallbacks:
    """Runs the worker callbacks of ``provider`` in this process. Any thread may ask for it; one run at a time."""

    def __init__(self, provider: ProviderBase) -> None:
        self._provider = provider
        self._runner = Runner()
        self._metrics: CallbackMetrics | None = None
        self._turns = Turns(patience=5.0)
        self._is_running = False
        self._observed: dict[Callback, Observed] = {}
        self._missed: set[Callback] = set()
        self._counters: dict[tuple[str, Key], tuple[float, float]] = {}
        """By series what was observed last, and what came before that start."""

    def refresh(self, seconds: float, max_age: float = 0.0) -> Observed:
        """Run them within ``seconds``; returns the series that show in this collection, by metric and label values.

        The series of a callback that was not done in time show once more with their last values. Gauges that are
        observed no more are taken back. Counters keep the total they had: it was true, and a sum must not fall.
        """
        with self._turns:
            if self._is_running:  # a signal handler or a finaliser interrupted this very method, or it is stuck
                return self._shown()
            self._is_running = True
            try:
                return self._refresh(seconds, max_age)
            finally:
                self._is_running = False

    def _shown(self) -> Observed:
        return {name: target for observed in self._observed.values() for name, target in observed.items()}

    def _refresh(self, seconds: float, max_age: float) -> Observed:
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

    def _store(self, runs: list[Run], metrics: CallbackMetrics) -> Observed:
        """Put what was observed into this process's words; returns the series, by metric and label values."""
        now: Observed = {}
        for name, wanted in totals(runs).items():
            series: dict[Key, Total] = {}
            for key, total in wanted.items():
                # The store may have fewer free series than this collection has: the rest add up in one.
                real = total.target.resolve(key)
                held = series.setdefault(real, total)
                if held is not total:
                    held.value += total.value
            for key, total in series.items():
                target, family = total.target, total.target.family
                if family.temporality != "delta":  # which has moved its total already
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
        """What a counter has come to in this process, over all starts anew; None for an observation to be dropped.

        One that is lower than the last is dropped, and from then on a new start: it goes on from where it was, since
        the sum over all workers must not fall.
        """
        last, before = self._counters.get((name, key), (0.0, 0.0))
        if total.value < last:
            self._counters[name, key] = (total.value, before + last - total.value)
            metrics.drop(total.callback)
            total.callback.warn("decrease", f"observed {total.value} of {total.target!r}, which was {last}; dropped")
            return None
        self._counters[name, key] = (total.value, before)
        return before + total.value

    def _of(self, run: Run, now: Observed) -> Observed:
        """The series of one callback that show: what it observed, or for once what it did the last time."""
        if not run.is_complete:
            return {} if run.callback in self._missed else self._observed.get(run.callback, {})
        names = {(target.family.name, key) for target, key, _ in run.observations.taken}
        own = {name: target for name, target in now.items() if name in names}
        targets = {target.family.name for target in run.callback.targets}
        if overflow := {name: target for name, target in now.items() if name[1] is None and name[0] in targets}:
            own.update(overflow)
        return own

    def reset(self) -> None:
        """In a forked child: nothing has run here."""
        self._turns.after_fork_in_child()
        self._is_running = False
        self._runner.reset()
        self._observed = {}
        self._missed = set()
        self._counters = {}
