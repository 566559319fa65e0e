"""Words and sums that are kept from one scrape to the next are those that there are now, to the last bit."""

from __future__ import annotations

import math
import struct
from array import array
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from mpmetrics._cells import load, sums, vectors

if TYPE_CHECKING:
    import pytest

WORDS = 3 * vectors.BLOCK + 5
DOUBLES = st.one_of(
    st.integers(0, 5).map(float),
    st.sampled_from([0.0, -0.0, 0.1, 1e300, -1e300, math.inf, -math.inf, math.nan, struct.unpack("d", b"\1" * 8)[0]]),
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, WORDS - 1), DOUBLES, st.integers(0, WORDS)), min_size=1, max_size=12
)


def bits(values: Any) -> bytes:
    """Doubles as bytes."""
    return array("d", values).tobytes()


def run(changes: list[tuple[int, int, float, int]]) -> None:
    """Change one word after another; what is kept must be what a reading and adding anew gives."""
    maps = [memoryview(bytearray(8 * WORDS)).cast("d") for _ in range(4)]
    held: list[Any] = [None] * len(maps)
    all_rows, some = array("q", range(3, WORDS)), array("q", (9, 4, 70))
    memos: list[dict[str, Any]] = [{}, {}]
    for at, slot, value, count in changes:
        maps[at][slot] = value
        for number, words in enumerate(maps):
            # The widest series reaches past the end of what the shorter readings have.
            held[number] = load(words, count if number == 1 else WORDS, array("q", (60, 10)), held[number])
            assert bits(load(words, len(held[number]), array("q"))) == bits(held[number])
        # Processes come and go, and take each other's places.
        columns = held[:at]
        for rows, memo in zip((all_rows, some), memos, strict=True):
            expected = sums(columns, rows, 1)
            found = sums(columns, rows, 1, memo)
            assert [math.isnan(value) for value in expected] == [math.isnan(value) for value in found]
            assert bits(value for value in expected if value == value) == bits(  # noqa: PLR0124
                value for value in found if value == value  # noqa: PLR0124
            )


@given(CHANGES)
def test_what_is_kept_is_what_there_is(changes: list[tuple[int, int, float, int]]) -> None:
    """After any changes: infinities, NaN, zeros of both signs, processes that come, go, and have fewer words."""
    run(changes)


def test_a_change_that_goes_unnoticed_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the comparison of bytes, the pure core's sums are those of before."""
    monkeypatch.setattr(vectors, "_differing", lambda *_: [])
    columns = [array("d", [1.0, 2.0]), array("d", [3.0, 4.0])]
    rows, memo = array("q", (0, 1)), dict[str, Any]()

    assert [4.0, 6.0] == list(vectors.sums(columns, rows, 1, memo))
    assert [4.0, 6.0] == list(vectors.sums([array("d", [9.0, 2.0]), columns[1]], rows, 1, memo))


def test_words_that_did_not_change_are_the_same_object() -> None:
    """The pure core keeps one copy of an idle process's words, and a new one once a single bit of them differs."""
    words = memoryview(bytearray(8 * WORDS)).cast("d")
    first = vectors.load(words, WORDS, array("q"))
    assert first is vectors.load(words, WORDS, array("q"), first)
    words[WORDS - 1] = -0.0
    second = vectors.load(words, WORDS, array("q"), first)

    assert first is not second
    assert -1.0 == math.copysign(1.0, second[WORDS - 1])
    assert 1.0 == math.copysign(1.0, first[WORDS - 1])
