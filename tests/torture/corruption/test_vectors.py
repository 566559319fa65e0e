"""The functions of vectors, with places and widths that no sound store has: refused, or read as far as there are words.

With the compiled twin this is what `make asan` is for.
"""

from __future__ import annotations

import math
import struct
from array import array
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpmetrics import _cells
from mpmetrics._cells import vectors as pure

if TYPE_CHECKING:
    from collections.abc import Callable

words = st.lists(st.floats(), max_size=40).map(lambda values: array("d", values))
vectors = st.lists(words, max_size=4)
near = st.lists(st.integers(0, 48), max_size=6)
far = st.one_of(near, st.lists(st.sampled_from([-1, 39, 1 << 20, 1 << 47, 1 << 48, (1 << 63) - 1]), max_size=6))
widths = st.one_of(st.integers(0, 8), st.sampled_from([-1, 64, 1 << 60, (1 << 63) - 1]))

REFUSALS = (ValueError, MemoryError, OverflowError)


def bits(values: Any) -> list[bytes]:
    """Values as bytes: NaN is NaN, whatever its sign."""
    return [struct.pack("d", math.nan if math.isnan(value) else value) for value in values]


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or None when it refuses."""
    try:
        return function(*arguments)
    except REFUSALS:
        return None


@settings(max_examples=400, deadline=None)
@given(vectors, far, widths)
def test_any_places_and_widths(values: list[array[float]], firsts: list[int], width: int) -> None:
    """No reading past the end, no product that overflows: a result of the right size, or a refusal."""
    where = array("q", firsts)
    if _cells.TWIN == "pure" and (not 0 < width <= 64 or any(first < 0 for first in firsts)):
        return  # its callers see to it; a negative index counts from the end there, and a range has no bound
    found = tried(_cells.sums, values, where, width)
    assert found is None or len(firsts) * width == len(found)
    for function, of_each in ((_cells.recents, 2),):
        found = tried(function, values, where)
        assert found is None or of_each * len(firsts) == len(found)
    found = tried(_cells.extremes, values, where, True)
    assert found is None or len(firsts) == len(found[0]) == len(found[1])
    found = tried(_cells.distributions, values, 1, where, width)
    assert found is None or len(firsts) * (width + 2) == len(found)
    places = array("q", range(len(values)))
    found = tried(_cells.levels, values, places, width, where)
    assert found is None or len(firsts) * width == len(found[0]) == len(found[1])


@settings(max_examples=300, deadline=None)
@given(words, st.integers(-2, 60), far)
def test_any_spans(source: array[float], count: int, spans: list[int]) -> None:
    """Words that are said to belong together, wherever they are said to be: what is there is read as it is."""
    view = memoryview(bytearray(source.tobytes())).cast("d") if source else memoryview(bytearray(8)).cast("d")[:0]
    pairs = array("q", spans[: len(spans) // 2 * 2])
    found = tried(_cells.load, view, max(0, count), pairs)
    if found is None:
        assert any(not 0 <= number < 1 << 48 for number in pairs)
    else:
        assert bits(source[: max(0, count)]) == bits(found)


@pytest.mark.skipif(_cells.TWIN == "pure", reason="one twin alone is in use")
@settings(max_examples=200, deadline=None)
@given(vectors, near, st.integers(1, 6))
def test_both_twins_say_the_same_of_damaged_words(values: list[array[float]], firsts: list[int], width: int) -> None:
    """Half counts, infinities and NaN where counts should be: which sum counts is the same for both."""
    values = [array("d", [*vector, *[0.0] * (60 - len(vector))]) for vector in values]
    where = array("q", firsts)
    assert bits(pure.distributions(values, 1, where, width)) == bits(_cells.distributions(values, 1, where, width))
    assert bits(pure.sums(values, where, width)) == bits(_cells.sums(values, where, width))
    assert bits(pure.recents(values, where)) == bits(_cells.recents(values, where))
