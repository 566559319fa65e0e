"""A gauge's series whose value a function returns: its function runs as a worker callback at each collection."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mpmetrics.callbacks.callback import Callback, check_callback
from mpmetrics.callbacks.registration import origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpmetrics.callbacks.observer import InstrumentObserver
    from mpmetrics.names.family import Family, Key

__all__ = ["serve_function"]


def serve_function(series: Any, f: Callable[[], float]) -> None:
    """Make ``f()`` the value of the gauge's series ``series`` at each collection. TypeError unless it can be called."""
    check_callback(f, repr(series._name))  # noqa: SLF001 (a cell's own way to its metric)
    if series.gone:
        return  # the series was removed, so no value of it shows
    gauge = _FunctionGauge(series)
    callbacks = gauge.callbacks
    observe = gauge.calling(f, gone=lambda: callbacks.remove(callback))
    module, _ = origin(f)
    callback = Callback(gauge.family.name, observe, (gauge,), is_single=True, scope="worker", module=module)
    callbacks.add(callback, (gauge.family.name, gauge.key))


class _FunctionGauge:
    """The target of the callback: one series, until it is removed. A removed series is not made again."""

    max_series = sys.maxsize

    def __init__(self, series: Any) -> None:
        self._series = series
        self._children = series._children  # noqa: SLF001 (as above)
        self.family: Family = self._children.family
        self.key: Key = series._key  # noqa: SLF001 (as above)
        self.callbacks = self._children.context.provider.callbacks

    @property
    def is_removed(self) -> bool:
        """True if any process has removed the series."""
        process = self._children.process
        if process.is_due:
            process.owner.catch_up()
        return self._children.get(self.key) is not self._series

    def calling(self, f: Callable[[], float], gone: Callable[[], None]) -> Callable[[InstrumentObserver], None]:
        """Return a callback that observes what ``f`` returns; once the series is removed, it calls ``gone`` instead."""

        def observe(observer: InstrumentObserver) -> None:
            if self.is_removed:
                gone()
            else:
                observer.observe(f())

        return observe

    def key_of(self, _attributes: Mapping[str, object] | None) -> Key:
        """Return the label values of the series."""
        return self.key

    def add(self, key: Key, amount: float) -> Key:
        """Add to the value."""
        self._series.inc(amount)
        return key

    def resolve(self, key: Key) -> Key:
        """Return ``key``: the series stores its own values."""
        return key

    def put(self, _key: Key, value: float) -> None:
        """Store the value that this process observed."""
        self._series.set(value)

    def withdraw(self, _key: Key) -> None:
        """Remove this process's value."""
        self._series.unset()

    def place(self, _key: Key) -> int | None:
        """Return the index of the first word of the series in this process's slab; None if it is not in the slab."""
        place: int | None = self._series.place
        return place

    def __repr__(self) -> str:
        return f"Gauge({self.family.name!r})"
