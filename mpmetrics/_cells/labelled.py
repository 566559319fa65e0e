"""The pure-Python twin of the look-up of a series by its label values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpmetrics._cells.children import Children

__all__ = ["Labelled"]


class Labelled:
    """Finds a series by its label values: what instruments with label names are made from.

    ``_children`` are its series. The subclass has ``_resolve(values, named)`` for what takes longer than looking it up.
    """

    __slots__ = ("_children",)

    _children: Children

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Any:
        """The series with these label values, in the order of the label names or by name; made at its first use.

        Values are taken as ``str``, those that are one as the text they hold. The result may be kept: its methods are
        the fast path. ValueError when the number or names of the labels are not the metric's.
        """
        children = self._children
        process = children.process
        generation = process._generation
        if generation is not None and generation[process._at] != process.seen:
            process.owner.catch_up()
        if labelvalues and not labelkwargs:
            try:
                child = children._cells.get(labelvalues)  # type: ignore[arg-type]
            except TypeError:  # a value that cannot be hashed, to be taken as str
                child = None
            if child is not None:
                return child
        return self._resolve(labelvalues, labelkwargs)

    def _resolve(self, values: tuple[object, ...], named: dict[str, object]) -> Any:
        raise NotImplementedError
