"""Info: key-value pairs that describe something; what any process said last counts."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from mpmetrics._cells import RecentCell
from mpmetrics.errors import StoreError
from mpmetrics.instruments.base import Instrument
from mpmetrics.names.naming import check_label_names, text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mpmetrics._cells import Guard, Segment
    from mpmetrics.storage.catalog import Key

__all__ = ["Info", "InfoSeries"]


class InfoSeries:
    """One set of label values of an info metric."""

    def __init__(self, parent: Info, key: tuple[str, ...]) -> None:
        self._parent = parent
        self._key = key

    def info(self, val: Mapping[str, object]) -> None:
        """Say that these pairs hold now, in place of earlier ones.

        ValueError for a key that is no label name or is one of the metric's labels, and for a value of None.
        """
        self._parent.say(self._key, val)


class Info(Instrument[InfoSeries]):
    """Key-value pairs, such as a build's version. Exposed as ``name_info`` with the pairs as labels and the value 1.

    Over processes, what was said last counts, whoever said it. Arguments as in
    :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "info"

    def _make(self, guard: Guard, segment: Segment, index: int) -> RecentCell:
        return RecentCell(guard, segment, index)

    def _bind(self, key: Key) -> InfoSeries:
        return InfoSeries(self, key or ())

    def labels(self, *labelvalues: object, **labelkwargs: object) -> InfoSeries:
        """What can be said about these label values; as :meth:`Instrument.labels`."""
        return InfoSeries(self, self._key(labelvalues, labelkwargs))

    def info(self, val: Mapping[str, object]) -> None:
        """Say that these pairs hold now, in place of earlier ones; ValueError as in :meth:`InfoSeries.info`."""
        self._only().info(val)

    def say(self, key: tuple[str, ...], val: Mapping[str, object]) -> None:
        """Say that these pairs hold now for the label values ``key``; ValueError as in :meth:`InfoSeries.info`."""
        names = check_label_names(self._family.name, val, self._family.labels)
        if any(value is None for value in val.values()):
            msg = f"{self!r}: a value cannot be None: {dict(val)}"
            raise ValueError(msg)
        # The pairs are part of the series' key: one series for each thing that was said and not yet replaced.
        pairs = [part for name in sorted(names) for part in (name, text(val[name]))]
        self._memory.sync()
        whole = (*key, *pairs)
        is_new = whole not in self._children
        cell = self._memory.bind(self._family, whole, self._make, self._max_series)
        if cell is None:  # full: what is to be replaced makes room
            with contextlib.suppress(StoreError):
                self._forget(key, None)
            cell = self._memory.bind(self._family, whole, self._make, self._max_series)
        if cell is None:
            cell = self._bind_overflow()
        cell.set(1.0)  # type: ignore[union-attr]
        if is_new:
            with contextlib.suppress(StoreError):  # what was said before stays until later; the latest is what shows
                self._forget(key, whole)

    def remove(self, *labelvalues: object) -> None:
        """Remove what was said about these label values, in all processes; as :meth:`Instrument.remove`."""
        self._forget(self._key(labelvalues, {}), None)

    def _forget(self, key: tuple[str, ...], latest: Key) -> None:
        """Remove what was said about ``key`` before ``latest``; all of it for None.

        Not what came after: two processes that say something at the same moment would remove each other's.
        """
        size = len(key)

        def choose(keys: Collection[Key]) -> list[Key]:
            if latest is not None and latest not in keys:
                return []  # somebody has said something later
            before = itertools.takewhile(lambda other: other != latest, keys) if latest is not None else keys
            return [other for other in before if other is not None and other[:size] == key]

        self._memory.remove(self._family, choose)
