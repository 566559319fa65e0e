"""The look-up of a series by its label values."""

from __future__ import annotations

from typing import Any

import pytest


def labelled(owner: Any) -> Any:
    """An instrument with one label, which records the calls of ``_resolve``."""

    class Instrument(owner.twin.Labelled):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._children = owner.metric()
            self.asked: list[Any] = []

        def _resolve(self, values: tuple[object, ...], named: dict[str, object]) -> Any:
            self.asked.append((values, named))
            return self._children.make((*map(str, values), *map(str, named.values())))

    return Instrument()


def test_labels_find_and_make(owner: Any) -> None:
    """labels() finds a series by equal values; the instrument resolves values that are no str, or too many."""
    it = labelled(owner)
    one = it.labels("a")

    assert it.labels("".join("a")) is one is it._children.get(("a",))
    it.asked.clear()
    assert it.labels(1) is it.labels("1")
    assert it.labels(b="a") is one
    assert it.labels([]) is it.labels("[]")
    it.labels("a", "b")
    assert [((1,), {}), ((), {"b": "a"}), (([],), {}), (("a", "b"), {})] == it.asked


@pytest.mark.parametrize("value", ["x" * 1025, "\ud800"])
def test_the_instrument_resolves_odd_label_values(owner: Any, value: str) -> None:
    """The instrument converts label values that are too long or have no UTF-8 form."""
    it = labelled(owner)
    it._resolve = lambda values, _: it.asked.append(values)
    it.labels(value)

    assert [(value,)] == it.asked


def test_labels_apply_removals_first(owner: Any) -> None:
    """A series that another process removed is made anew, not found."""
    generation = owner.watch()
    it = labelled(owner)
    one = it.labels("a")

    def catch_up() -> None:
        owner.process.seen = owner.process.generation
        it._children.end(("a",))

    owner.catch_up = catch_up
    assert it.labels("a") is one
    generation[3] = 1
    assert it.labels("a") is not one
    assert one.gone


def test_a_half_made_instrument_raises_attribute_error(twin: Any) -> None:
    """An instrument whose ``__init__`` did not finish raises AttributeError, like any object."""
    with pytest.raises(AttributeError):
        twin.Labelled().labels("a")
