"""Observers: a callback receives one and reports its values with it. Observations: the valid reports of one run.

An invalid report is dropped, counted and logged once for each cause. The other reports of the callback count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpmetrics.callbacks.callback import Callback, Target
    from mpmetrics.names.family import Key

__all__ = ["InstrumentObserver", "MeterObserver", "Observations", "Observer", "observer_of"]


class Observations:
    """What one run of a callback observed.

    A run that is past its deadline is closed: later observations are ignored. A late ``delta`` is still added to its
    stored total, because the callback will not report it again.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self.taken: list[tuple[Target, Key, float]] = []
        self.drops = 0
        self.is_closed = False

    def take(self, target: object, value: object, attributes: Mapping[str, object] | None) -> None:
        """Take one observation, or drop it if it is invalid."""
        number = _number(value)
        found = self._registered(target)
        if found is None:
            self.drop("target", f"observed {target!r}, for which it is not registered")
        elif number is None:
            self.drop("number", f"observed {value!r} of {found!r}, which is not a number")
        elif (problem := _problem(found, number)) is not None:
            self.drop("value", f"observed {value!r} of {found!r}, but {problem}")
        else:
            try:
                key = found.key_of(attributes)
            except (TypeError, ValueError) as error:
                self.drop("attributes", str(error))
            else:
                self._keep(found, key, number)

    def _registered(self, target: object) -> Target | None:
        """Return the target that is the same metric as ``target``: two instruments of one name are one metric."""
        family = getattr(target, "family", None)
        return next((known for known in self._callback.targets if known is target or known.family == family), None)

    def _keep(self, target: Target, key: Key, value: float) -> None:
        if target.family.temporality == "delta":
            key = target.add(key, value)
        if not self.is_closed:
            self.taken.append((target, key, value))

    def drop(self, cause: str, message: str) -> None:
        """Count an invalid observation, and log why, once for each cause."""
        self.drops += 1
        self._callback.warn(cause, f"{message}; dropped")


def _number(value: object) -> float | None:
    if isinstance(value, (str, bytes, bytearray)):
        return None  # float() would parse them
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _problem(target: Target, value: float) -> str | None:
    family = target.family
    if family.kind != "gauge" and not math.isfinite(value):
        return "a total must be finite"
    if family.kind == "counter" and value < 0:
        return "a counter can only go up"
    return None


class Observer:
    """Base class of what a callback reports with."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def take(self, item: object) -> None:
        """Take what a generator yields: the arguments of ``observe`` as a tuple, or the only argument."""
        arguments = item if isinstance(item, tuple) else (item,)
        try:
            self.observe(*arguments)  # type: ignore[attr-defined]
        except TypeError:
            self._observations.drop("yield", f"yielded {item!r}, which are not arguments of observe()")


class InstrumentObserver(Observer):
    """What the callback of one instrument reports with."""

    def __init__(self, observations: Observations, target: Target) -> None:
        super().__init__(observations)
        self._target = target

    def observe(self, value: float, attributes: Mapping[str, object] | None = None) -> None:
        """Report a value of the series with these attributes.

        If a series is reported twice in one collection, the values of a total add up and the last value of a gauge
        counts. A value that is no number or that the instrument cannot have, and invalid attributes, are dropped,
        logged once and counted.
        """
        self._observations.take(self._target, value, attributes)


class MeterObserver(Observer):
    """What the callback of a meter reports with."""

    def observe(self, instrument: object, value: float, attributes: Mapping[str, object] | None = None) -> None:
        """Report a value of ``instrument``; as :meth:`InstrumentObserver.observe`.

        An instrument for which the callback is not registered is dropped, logged once and counted.
        """
        self._observations.take(instrument, value, attributes)


def observer_of(callback: Callback, observations: Observations) -> Observer:
    """Return the observer that ``callback`` is called with."""
    return InstrumentObserver(observations, callback.targets[0]) if callback.is_single else MeterObserver(observations)
