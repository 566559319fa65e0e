"""Asynchronous instruments: their values come from callbacks, which run when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.attributed import Attributed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpmetrics.callbacks.callback import Scope
    from mpmetrics.names.family import Key

__all__ = ["Observable", "ObservableCounter", "ObservableGauge", "ObservableUpDownCounter"]


class Observable(Attributed[Any]):
    """An instrument that callbacks observe; made by a :class:`~mpmetrics.meter.Meter`, arguments as there.

    Of scope ``host``, its values belong to the collection that observed them, except for the totals that ``delta``
    observations move, which are kept in the store. Of scope ``worker``, they are in the words of each worker.
    """

    @property
    def max_series(self) -> int:
        """Series that it may have."""
        return self._children.limit

    @property
    def token(self) -> tuple[object, ...]:
        """What it has in common with an instrument that was made in the same way."""
        return (self._family.name, self._fixed_key)

    @property
    def scope(self) -> Scope:
        """Where its callbacks run: ``host`` or ``worker``."""
        return "host" if self._family.scope == "host" else "worker"

    def key_of(self, attributes: Mapping[str, object] | None) -> Key:
        """Label values of the series with these attributes; TypeError or ValueError when they are none."""
        return self._key(attributes)

    def add(self, key: Key, amount: float) -> Key:
        """Move the stored total of a series; returns which one, which past the cap is the overflow series."""
        cell = self.series(key)
        cell.inc(amount)
        return cell._key  # type: ignore[no-any-return]  # noqa: SLF001 (a cell's own way to its labels)

    def resolve(self, key: Key) -> Key:
        """The series that takes what is observed of this one: itself, or past the cap the overflow series."""
        return self.series(key)._key  # type: ignore[no-any-return]  # noqa: SLF001 (as above)

    def put(self, key: Key, value: float) -> None:
        """Store what this process observed of a series."""
        self.series(key).set(value)

    def withdraw(self, key: Key) -> None:
        """That series is observed here no more: take the value back, unless it is a total that has to stay."""
        cell = self._children.get(key)
        if cell is not None and self._family.kind != "counter" and self._family.temporality == "cumulative":
            cell.unset()

    def place(self, key: Key) -> int | None:
        """First word of a series in this process's slab; None when it is not there."""
        cell = self._children.get(key)
        return None if cell is None else cell.place


class ObservableCounter(Observable):
    """A total that only grows, as callbacks observe it. Exposed as a counter."""


class ObservableUpDownCounter(Observable):
    """A total that goes up and down, as callbacks observe it. Exposed as a gauge."""


class ObservableGauge(Observable):
    """A value of the moment, as callbacks observe it."""
