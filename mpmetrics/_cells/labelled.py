"""The pure-Python twin of the look-up of a series by its label values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Labelled", "Removals"]


class Removals:
    """Whether other processes removed series that this process may hold.

    One word of the store counts removals; ``seen`` is the count up to which this process has taken them in.
    """

    __slots__ = ("_index", "_words", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self._words: Sequence[int] | None = None
        self._index = 0

    def watch(self, words: Sequence[int] | None, index: int) -> None:
        """From now on the word at ``index`` of ``words``, a view of format ``Q``, counts removals; with None, none."""
        self._words = words
        self._index = index

    @property
    def is_due(self) -> bool:
        """Whether there were removals that this process has not taken in."""
        words = self._words
        return words is not None and words[self._index] != self.seen


class Labelled:
    """Finds a series by its label values: what instruments with label names are made from.

    ``_children`` are its series by label values, and ``_removals`` tells when other processes removed some. The
    subclass has ``_notice_removals()``, and ``_resolve(values, named)`` for what takes longer than looking it up.
    """

    __slots__ = ("_children", "_removals")

    _children: dict[Any, Any]
    _removals: Removals

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Any:
        """The series with these label values, in the order of the label names or by name; made at its first use.

        Values are taken as ``str``, those that are one as the text they hold. The result may be kept: its methods are
        the fast path. ValueError when the number or names of the labels are not the metric's.
        """
        removals = self._removals
        words = removals._words  # noqa: SLF001 (as ``is_due``, without its call)
        if words is not None and words[removals._index] != removals.seen:  # noqa: SLF001
            self._notice_removals()
        if labelvalues and not labelkwargs:
            try:
                child = self._children.get(labelvalues)
            except TypeError:  # a value that cannot be hashed, to be taken as str
                child = None
            if child is not None:
                return child
        return self._resolve(labelvalues, labelkwargs)

    def _notice_removals(self) -> None:
        raise NotImplementedError

    def _resolve(self, values: tuple[object, ...], named: dict[str, object]) -> Any:
        raise NotImplementedError
