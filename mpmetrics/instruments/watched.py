"""One series of a gauge whose value is what a function returns: the target of that function's callback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mpmetrics.callbacks.callback import Callback, check_callback
from mpmetrics.callbacks.registration import origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpmetrics.callbacks.observer import InstrumentObserver
    from mpmetrics.names.family import Family, Key

__all__ = ["watch"]


def watch(series: Any, f: Callable[[], float]) -> None:
    """Have ``f`` called for the value of ``series``, a gauge's, whenever somebody looks; TypeError unless it can be."""
    check_callback(f, repr(series._name))  # noqa: SLF001 (a cell's own way to its metric)
    if series.gone:
        return  # nothing that is done to it shows
    watched = _Watched(series)
    callbacks = watched.callbacks
    observe = watched.calling(f, gone=lambda: callbacks.remove(callback))
    module, _ = origin(f)
    callback = Callback(watched.family.name, observe, (watched,), is_single=True, scope="worker", module=module)
    callbacks.add(callback, (watched.family.name, watched.key))


class _Watched:
    """The series of a gauge, for as long as it is not removed: a removed one is not made again."""

    max_series = sys.maxsize

    def __init__(self, series: Any) -> None:
        self._series = series
        self._children = series._children  # noqa: SLF001 (as above)
        self.family: Family = self._children.family
        self.key: Key = series._key  # noqa: SLF001 (as above)
        self.callbacks = self._children.context.provider.callbacks

    @property
    def is_removed(self) -> bool:
        """Whether the series was removed, by any process."""
        process = self._children.process
        if process.is_due:
            process.owner.catch_up()
        return self._children.get(self.key) is not self._series

    def calling(self, f: Callable[[], float], gone: Callable[[], None]) -> Callable[[InstrumentObserver], None]:
        """A callback that observes what ``f`` returns, and calls ``gone`` instead once the series was removed."""

        def observe(observer: InstrumentObserver) -> None:
            if self.is_removed:
                gone()
            else:
                observer.observe(f())

        return observe

    def key_of(self, _attributes: Mapping[str, object] | None) -> Key:
        """Label values of the series."""
        return self.key

    def add(self, key: Key, amount: float) -> Key:
        """Move the value."""
        self._series.inc(amount)
        return key

    def resolve(self, key: Key) -> Key:
        """It takes its own values."""
        return key

    def put(self, _key: Key, value: float) -> None:
        """Store what this process observed."""
        self._series.set(value)

    def withdraw(self, _key: Key) -> None:
        """Take the value back."""
        self._series.unset()

    def place(self, _key: Key) -> int | None:
        """First word of the series in this process's slab; None when it is not there."""
        place: int | None = self._series.place
        return place

    def __repr__(self) -> str:
        return f"Gauge({self.family.name!r})"
