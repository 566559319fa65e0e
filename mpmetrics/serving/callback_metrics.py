"""Self-metrics of callbacks: durations, errors, timeouts, and whether the collector runs each of them.

They are ordinary metrics in the store, so they outlive the process that ran the callbacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric
from mpmetrics.names.family import Family

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.callbacks.callback import Callback
    from mpmetrics.callbacks.runner import Run
    from mpmetrics.provider_base import ProviderBase

__all__ = ["ANNOUNCED", "CallbackMetrics", "announce", "withdraw"]

ANNOUNCED = "mpmetrics_callback_served"
"""The gauge that announces host callbacks of living processes; the collector replaces its values: 1 if it runs one."""


class CallbackMetrics:
    """Counts runs of callbacks, by callback, in ``provider``."""

    def __init__(self, provider: ProviderBase) -> None:
        def make(kind: str, name: str, documentation: str, *labels: str) -> Metric[Any]:
            return Metric(Family(name, kind, documentation, "", labels), provider, DEFAULT_MAX_SERIES)

        self._seconds = make("summary", "mpmetrics_callback_duration_seconds", "Time that callbacks took.", "callback")
        self._errors = make("counter", "mpmetrics_callback_errors", "Callbacks that raised.", "callback")
        self._timeouts = make(
            "counter", "mpmetrics_callback_timeouts", "Callbacks not done by their deadline.", "callback"
        )
        self._drops = make(
            "counter",
            "mpmetrics_callback_dropped_observations",
            "Observations that were invalid and left out.",
            "callback",
        )
        self._suspended = make(
            "counter",
            "mpmetrics_callback_suspensions",
            "Collections without a callback that ended the collector's process each time.",
            "callback",
        )
        self._collections = make("counter", "mpmetrics_collections", "Collections since there are callbacks.")

    def count(self, runs: Iterable[Run]) -> None:
        """Count these runs, each once; log what went wrong, once for each callback and cause."""
        for run in runs:
            if not run.is_counted:
                run.is_counted = True
                self._count(run)

    def _count(self, run: Run) -> None:
        callback = run.callback
        key = (callback.name,)
        self._errors.series(key).inc(run.error is not None)
        self._timeouts.series(key).inc(run.timed_out)
        self.drop(callback, run.observations.drops)
        if run.is_suspended:
            self._suspended.series(key).inc()
        elif run.finished_at is not None:
            self._seconds.series(key).observe(run.seconds)
        if run.error is not None:
            callback.warn(f"error {type(run.error).__name__}", f"raised {run.error!r}", run.error)
        elif run.timed_out:
            callback.warn("timeout", "did not return by its deadline, so its series are missing")

    def drop(self, callback: Callback, observations: int = 1) -> None:
        """Count observations that were dropped."""
        self._drops.series((callback.name,)).inc(observations)

    def collection(self) -> None:
        """Count a collection."""
        self._collections.series(()).inc()


def announce(provider: ProviderBase, callback: Callback) -> None:
    """Announce to collectors that ``callback`` is registered and must run there, as long as this process lives."""
    gauge = _announced(provider)
    for instrument in _instruments(callback):
        gauge.series((instrument, callback.module)).set(1)


def withdraw(provider: ProviderBase, callback: Callback) -> None:
    """Undo :func:`announce`, for the instruments that no other callback of the same module observes."""
    others = [other for other in provider.callbacks if other.module == callback.module and other.scope == "host"]
    for instrument in _instruments(callback) - {name for other in others for name in _instruments(other)}:
        _announced(provider).series((instrument, callback.module)).unset()


def _announced(provider: ProviderBase) -> Metric[Any]:
    documentation, labels = "Whether the callback of an instrument is served here.", ("instrument", "module")
    family = Family(ANNOUNCED, "gauge", documentation, "", labels, mode="livemax")
    return Metric(family, provider, DEFAULT_MAX_SERIES)


def _instruments(callback: Callback) -> set[str]:
    return {target.family.original or target.family.name for target in callback.targets}
