"""The look-up of a series by its label values; the pure-Python twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpmetrics._cells.children import Children

__all__ = ["Labelled"]


class Labelled:
    """Finds a series by its label values: the base class of instruments with labels.

    ``_children`` are its series. A subclass has ``_resolve(values, named)``, called when the look-up finds nothing.
    """

    __slots__ = ("_children",)

    _children: Children

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Any:
        """The series with these label values, by position or by name; made at its first use.

        Values are converted with ``str``. Keep the result where you can: its methods are the fast path. ValueError
        when the number or the names of the labels are not the metric's.
        """
        children = self._children
        process = children.process
        generation = process._generation
        if generation is not None and generation[process._at] != process.seen:
            process.owner.catch_up()
        if labelvalues and not labelkwargs:
            try:
                child = children._cells.get(labelvalues)  # type: ignore[arg-type]
            except TypeError:  # a value without a hash; _resolve converts it to str
                child = None
            if child is not None:
                return child
        return self._resolve(labelvalues, labelkwargs)

    def _resolve(self, values: tuple[object, ...], named: dict[str, object]) -> Any:
        raise NotImplementedError
