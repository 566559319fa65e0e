"""One series of a gauge whose value is what a function returns: the target of that function's callback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpmetrics.callbacks.observer import InstrumentObserver
    from mpmetrics.instruments.series import GaugeSeries
    from mpmetrics.storage.catalog import Family, Key
    from mpmetrics.storage.memory import Memory

__all__ = ["Watched"]


class Watched:
    """The series ``key`` of a gauge, for as long as it is among ``children``: a removed one is not made again."""

    max_series = sys.maxsize

    def __init__(
        self, family: Family, memory: Memory, children: Mapping[Key, object], key: Key, series: GaugeSeries
    ) -> None:
        self.family = family
        self._memory = memory
        self._children = children
        self._key = key
        self._series = series

    def calling(self, f: Callable[[], float], gone: Callable[[], None]) -> Callable[[InstrumentObserver], None]:
        """A callback that observes what ``f`` returns, and calls ``gone`` instead once the series was removed."""

        def observe(observer: InstrumentObserver) -> None:
            self._memory.sync()
            if self._children.get(self._key) is self._series:
                observer.observe(f())
            else:
                gone()

        return observe

    def key_of(self, _attributes: Mapping[str, object] | None) -> Key:
        """Label values of the series."""
        return self._key

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

    def slot(self, key: Key) -> int | None:
        """First slot of the series in the store, None when it is not there."""
        directory = self._memory.directory
        return None if directory is None else directory.first_slot(self.family.name, key)

    def __repr__(self) -> str:
        return f"Gauge({self.family.name!r})"
