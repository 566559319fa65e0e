"""Info: key-value pairs that describe something; what any process said last counts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mpmetrics.instruments.base import Instrument
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

    def _single(self) -> InfoSeries:
        return InfoSeries(self, ())

    def labels(self, *labelvalues: object, **labelkwargs: object) -> InfoSeries:
        """What can be said about these label values; as :meth:`Instrument.labels`."""
        return InfoSeries(self, self._key(labelvalues, labelkwargs))

    def info(self, val: Mapping[str, object]) -> None:
        """Say that these pairs hold now, in place of earlier ones; ValueError as in :meth:`InfoSeries.info`."""
        self._only().info(val)

    def say(self, key: tuple[str, ...], val: Mapping[str, object]) -> None:
        """Say that these pairs hold now for the label values ``key``; ValueError as in :meth:`InfoSeries.info`.

        Each thing that is said has a series of its own, whose time tells what was said last by any process. What this
        process said before is forgotten here.
        """
        names = check_label_names(self._family.name, val, self._family.labels)
        if any(value is None for value in val.values()):
            msg = f"{self!r}: a value cannot be None: {dict(val)}"
            raise ValueError(msg)
        whole = (*key, *(part for name in sorted(names) for part in (name, self._cut(text(val[name])))))
        children = self._children
        is_new = whole not in children
        if is_new and len(children) - (None in children) >= children.limit:
            self._forget(key, None)  # full: what is to be replaced makes room
        children.make(whole).set(1.0)
        if is_new:
            self._forget(key, whole)

    def remove(self, *labelvalues: object) -> None:
        """Remove what was said about these label values, in all processes; as :meth:`Instrument.remove`."""
        pairs = list(zip(self._family.labels, self._key(labelvalues, {}), strict=True))
        self._memory.remove(self._family, pairs, is_subset=True)

    def _forget(self, key: tuple[str, ...], latest: Key) -> None:
        """Forget what this process said about ``key`` before ``latest``; all of it for None.

        Not what came after: two threads that say something at the same moment would forget each other's.
        """
        keys = self._children.keys()
        if latest is not None and latest not in keys:
            return
        for other in itertools.takewhile(lambda other: other != latest or latest is None, keys):
            if other is not None and other[: len(key)] == key:
                self._memory.forget(self._family, other)
