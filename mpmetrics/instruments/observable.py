"""Observable instruments: callbacks report their values at each collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.meter_instruments import MeterInstrument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpmetrics.callbacks.callback import Scope
    from mpmetrics.names.family import Key

__all__ = ["Observable", "ObservableCounter", "ObservableGauge", "ObservableUpDownCounter"]


class Observable(MeterInstrument[Any]):
    """An instrument that callbacks observe. A :class:`~mpmetrics.meter.Meter` makes it; arguments as there.

    With scope ``host``, a value belongs to the collection that observed it; only the totals of ``delta`` observations
    are kept in the store. With scope ``worker``, the values are in the words of each worker.
    """

    @property
    def max_series(self) -> int:
        """How many series the metric may have in this process."""
        return self._children.limit

    @property
    def token(self) -> tuple[object, ...]:
        """Equal for two instruments of the same name and attributes, whose own callbacks replace each other."""
        return (self._family.name, self._fixed_key)

    @property
    def scope(self) -> Scope:
        """Where the callbacks run: ``host`` or ``worker``."""
        return "host" if self._family.scope == "host" else "worker"

    def key_of(self, attributes: Mapping[str, object] | None) -> Key:
        """Return the label values of the series with these attributes; TypeError or ValueError if they are invalid."""
        return self._key(attributes)

    def add(self, key: Key, amount: float) -> Key:
        """Add to the stored total of a series; return its key. Past the cap that is the overflow series."""
        cell = self.series(key)
        cell.inc(amount)
        return cell._key  # type: ignore[no-any-return]  # noqa: SLF001 (a cell's own way to its labels)

    def resolve(self, key: Key) -> Key:
        """Return the key of the series that stores this one's value: itself, or past the cap the overflow series."""
        return self.series(key)._key  # type: ignore[no-any-return]  # noqa: SLF001 (as above)

    def put(self, key: Key, value: float) -> None:
        """Store the value that this process observed of a series."""
        self.series(key).set(value)

    def withdraw(self, key: Key) -> None:
        """Remove this process's value of a series that it no longer observes, unless it is a total that must stay."""
        cell = self._children.get(key)
        if cell is not None and self._family.kind != "counter" and self._family.temporality == "cumulative":
            cell.unset()

    def place(self, key: Key) -> int | None:
        """Return the index of the first word of a series in this process's slab; None if it is not in the slab."""
        cell = self._children.get(key)
        return None if cell is None else cell.place


class ObservableCounter(Observable):
    """A total that only grows, observed by callbacks. Exposed as a counter."""


class ObservableUpDownCounter(Observable):
    """A total that goes up and down, observed by callbacks. Exposed as a gauge."""


class ObservableGauge(Observable):
    """A current value, observed by callbacks."""
