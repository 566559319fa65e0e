"""Info: key-value pairs that describe something. The pairs that any process set last count."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mpmetrics.instruments.instrument import Instrument
from mpmetrics.names.naming import check_label_names, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpmetrics.names.family import Key

__all__ = ["Info", "InfoSeries"]


class InfoSeries:
    """One set of label values of an info metric."""

    def __init__(self, parent: Info, key: tuple[str, ...]) -> None:
        self._parent = parent
        self._key = key

    def info(self, val: Mapping[str, object]) -> None:
        """Set these pairs in place of earlier ones.

        ValueError if a key is no valid label name or is one of the metric's labels, and if a value is None.
        """
        self._parent.say(self._key, val)


class Info(Instrument[InfoSeries]):
    """Key-value pairs, such as a build's version. Exposed as ``name_info`` with the pairs as labels and the value 1.

    The pairs that any process set last count. Arguments as in :class:`~mpmetrics.instruments.instrument.Instrument`.
    """

    _kind = "info"

    def _single(self) -> InfoSeries:
        return InfoSeries(self, ())

    def labels(self, *labelvalues: object, **labelkwargs: object) -> InfoSeries:
        """Return the part of the metric with these label values; as :meth:`Instrument.labels`."""
        return InfoSeries(self, self._key(labelvalues, labelkwargs))

    def info(self, val: Mapping[str, object]) -> None:
        """Set these pairs in place of earlier ones; ValueError as in :meth:`InfoSeries.info`."""
        self._only().info(val)

    def say(self, key: tuple[str, ...], val: Mapping[str, object]) -> None:
        """Set the pairs for the label values ``key``; ValueError as in :meth:`InfoSeries.info`.

        Each set of pairs is a series of its own with the time when it was set, so a reader finds the latest one of all
        processes. The earlier series of this process end.
        """
        names = check_label_names(self._family.name, val, self._family.labels)
        if any(value is None for value in val.values()):
            msg = f"{self!r}: no value may be None, but the pairs are {dict(val)}"
            raise ValueError(msg)
        whole = (*key, *(part for name in sorted(names) for part in (name, self._cut(text(val[name])))))
        children = self._children
        is_new = whole not in children
        if is_new and len(children) - (None in children) >= children.limit:
            self._forget(key, None)  # no room for a new series: end the old one first
        children.make(whole).set(1.0)
        if is_new:
            self._forget(key, whole)

    def remove(self, *labelvalues: object) -> None:
        """Remove all pairs with these label values, in all processes; as :meth:`Instrument.remove`."""
        pairs = list(zip(self._family.labels, self._key(labelvalues, {}), strict=True))
        self._memory.remove(self._family, pairs, is_subset=True)

    def _forget(self, key: tuple[str, ...], latest: Key) -> None:
        """End the series of ``key`` that this process made before ``latest``; all of them if it is None.

        Later ones stay: otherwise two threads that set pairs at the same moment would end each other's series.
        """
        keys = self._children.keys()
        if latest is not None and latest not in keys:
            return
        for other in itertools.takewhile(lambda other: other != latest or latest is None, keys):
            if other is not None and other[: len(key)] == key:
                self._memory.forget(self._family, other)
