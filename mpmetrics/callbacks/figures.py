"""How callbacks fare, as metrics: kept in the store like any other, so that they outlive the process that ran them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.instruments.counter import Counter
from mpmetrics.instruments.gauge import Gauge
from mpmetrics.instruments.metric import Internal
from mpmetrics.instruments.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.callbacks.callback import Callback
    from mpmetrics.callbacks.runner import Run
    from mpmetrics.provider import Provider

__all__ = ["ANNOUNCED", "CallbackFigures", "announce", "withdraw"]

ANNOUNCED = "mpmetrics_callback_served"
"""Metric of the callbacks that living processes have registered; the collector says of each whether it serves it."""


class _Counter(Internal, Counter):
    """A counter of the library's own."""


class _Gauge(Internal, Gauge):
    """A gauge of the library's own."""


class _Summary(Internal, Summary):
    """A summary of the library's own."""


class CallbackFigures:
    """Counts runs of callbacks into ``provider``, by callback."""

    def __init__(self, provider: Provider) -> None:
        label = ["callback"]
        self._seconds = _Summary(
            "mpmetrics_callback_duration_seconds", "Time that callbacks took.", label, provider=provider
        )
        self._errors = _Counter("mpmetrics_callback_errors", "Callbacks that raised.", label, provider=provider)
        self._timeouts = _Counter(
            "mpmetrics_callback_timeouts", "Callbacks not done by their deadline.", label, provider=provider
        )
        self._drops = _Counter(
            "mpmetrics_callback_dropped_observations",
            "Observations that made no sense and were left out.",
            label,
            provider=provider,
        )
        self._suspended = _Counter(
            "mpmetrics_callback_suspensions",
            "Collections without a callback that ended the collector's process each time.",
            label,
            provider=provider,
        )
        self._collections = _Counter(
            "mpmetrics_collections", "Collections since there are callbacks.", provider=provider
        )

    def count(self, runs: Iterable[Run]) -> None:
        """Count these runs, each once; what went wrong is logged once for each callback and cause."""
        for run in runs:
            if not run.is_counted:
                run.is_counted = True
                self._count(run)

    def _count(self, run: Run) -> None:
        callback = run.callback
        self._errors.labels(callback.name).inc(run.error is not None)
        self._timeouts.labels(callback.name).inc(run.timed_out)
        self.drop(callback, run.observations.drops)
        if run.is_suspended:
            self._suspended.labels(callback.name).inc()
        elif run.finished_at is not None:
            self._seconds.labels(callback.name).observe(run.seconds)
        if run.error is not None:
            callback.say(f"error {type(run.error).__name__}", f"raised {run.error!r}", run.error)
        elif run.timed_out:
            callback.say("timeout", "was not done by its deadline; its series are missing")

    def drop(self, callback: Callback, observations: int = 1) -> None:
        """Count observations that were dropped."""
        self._drops.labels(callback.name).inc(observations)

    def collection(self) -> None:
        """Count a collection."""
        self._collections.inc()


def announce(provider: Provider, callback: Callback) -> None:
    """Say to all processes, for as long as this one lives, that ``callback`` is registered and wants to be served."""
    gauge = _announced(provider)
    for instrument in _instruments(callback):
        gauge.labels(instrument, callback.module).set(1)


def withdraw(provider: Provider, callback: Callback) -> None:
    """Take that back, as far as no other callback of the module is registered for these instruments."""
    others = [other for other in provider.callbacks if other.module == callback.module and other.scope == "host"]
    for instrument in _instruments(callback) - {name for other in others for name in _instruments(other)}:
        _announced(provider).labels(instrument, callback.module).unset()


def _announced(provider: Provider) -> _Gauge:
    return _Gauge(
        ANNOUNCED,
        "Whether the callback of an instrument is served here.",
        ["instrument", "module"],
        multiprocess_mode="livemax",
        provider=provider,
    )


def _instruments(callback: Callback) -> set[str]:
    return {target.family.original or target.family.name for target in callback.targets}
