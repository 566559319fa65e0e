"""Finding a series by its label values."""

from __future__ import annotations

from typing import Any

import pytest


def labelled(owner: Any) -> Any:
    """An instrument with the one label that its metric has, which says when it is asked for more."""

    class Instrument(owner.twin.Labelled):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._children = owner.metric()
            self.asked: list[Any] = []

        def _resolve(self, values: tuple[object, ...], named: dict[str, object]) -> Any:
            self.asked.append((values, named))
            return self._children.make((*map(str, values), *map(str, named.values())))

    return Instrument()


def test_labels_find_and_make(owner: Any) -> None:
    """A series by its values, whichever objects hold them; what is no str, or too many, the instrument resolves."""
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
def test_odd_label_values_are_for_the_instrument(owner: Any, value: str) -> None:
    """Those that are too long, and those that UTF-8 cannot carry, it takes in another form."""
    it = labelled(owner)
    it._resolve = lambda values, _: it.asked.append(values)
    it.labels(value)

    assert [(value,)] == it.asked


def test_labels_notice_removals_first(owner: Any) -> None:
    """A series that another process removed is not found any more, but made anew."""
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


def test_an_instrument_that_was_not_made_to_its_end(twin: Any) -> None:
    """AttributeError, as of any object."""
    with pytest.raises(AttributeError):
        twin.Labelled().labels("a")
