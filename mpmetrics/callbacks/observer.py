"""What a callback is given to report with, and what becomes of its reports.

A report that makes no sense is dropped, counted and logged once: a callback's mistake never costs more than itself.
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

    Once closed, which is when the run is past its deadline, late observations count for nothing; but what a late
    ``delta`` observation adds to a stored total still is added: the callback is not going to say it again.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self.taken: list[tuple[Target, Key, float]] = []
        self.drops = 0
        self.is_closed = False

    def take(self, target: object, value: object, attributes: Mapping[str, object] | None) -> None:
        """Take one observation, or drop it."""
        number = _number(value)
        found = self._registered(target)
        if found is None:
            self.drop("target", f"observed {target!r}, which it is not registered for")
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
        """Ours of the targets that is the same metric: two instruments of one name are one metric."""
        family = getattr(target, "family", None)
        return next((known for known in self._callback.targets if known is target or known.family == family), None)

    def _keep(self, target: Target, key: Key, value: float) -> None:
        if target.family.temporality == "delta":
            key = target.add(key, value)
        if not self.is_closed:
            self.taken.append((target, key, value))

    def drop(self, cause: str, message: str) -> None:
        """Count an observation that is of no use, and say why, once."""
        self.drops += 1
        self._callback.warn(cause, f"{message}; dropped")


def _number(value: object) -> float | None:
    if isinstance(value, (str, bytes, bytearray)):
        return None  # float() would read them
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _problem(target: Target, value: float) -> str | None:
    family = target.family
    if family.kind != "gauge" and not math.isfinite(value):
        return "a sum has to be finite"
    if family.kind == "counter" and value < 0:
        return "a counter can only go up"
    return None


class Observer:
    """Reports for the instruments that a callback is registered for."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def take(self, item: object) -> None:
        """What a generator yields: the arguments of ``observe``, as a tuple unless it is one alone."""
        arguments = item if isinstance(item, tuple) else (item,)
        try:
            self.observe(*arguments)  # type: ignore[attr-defined]
        except TypeError:
            self._observations.drop("yield", f"yielded {item!r}, which are not the arguments of observe()")


class InstrumentObserver(Observer):
    """What an instrument's own callback reports with."""

    def __init__(self, observations: Observations, target: Target) -> None:
        super().__init__(observations)
        self._target = target

    def observe(self, value: float, attributes: Mapping[str, object] | None = None) -> None:
        """Report a value for the series with these attributes.

        Twice in one collection: of counters both add up, of a gauge the last one counts. A value that is not a number,
        or not one that the instrument can have, and attributes that make no sense are dropped, logged once and counted.
        """
        self._observations.take(self._target, value, attributes)


class MeterObserver(Observer):
    """What a meter's callback reports with."""

    def observe(self, instrument: object, value: float, attributes: Mapping[str, object] | None = None) -> None:
        """Report a value of ``instrument``; as :meth:`InstrumentObserver.observe`.

        An instrument that the callback is not registered for is dropped, logged once and counted.
        """
        self._observations.take(instrument, value, attributes)


def observer_of(callback: Callback, observations: Observations) -> Observer:
    """The observer that ``callback`` is called with."""
    return InstrumentObserver(observations, callback.targets[0]) if callback.is_single else MeterObserver(observations)
