"""Both twins read the same slabs as the same rows, and merge them to the same numbers and bytes."""

from __future__ import annotations

import itertools
import math
import os
import random
import struct
import sys
import time
from array import array
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpmetrics._cells import index, merging, rows, source, text
from mpmetrics._cells.sketch import RECORD
from mpmetrics.storage import format as fmt
from mpmetrics.storage.format import encode_record, pack_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PURE = SimpleNamespace(**{name: getattr(each, name) for each in (merging, rows, text) for name in each.__all__})
PURE.Table, PURE.Texts, PURE.Source = index.Table, index.Texts, source.Source
TWINS: dict[str, Any] = {"pure": PURE}
try:
    from mpmetrics._cells import compiled

    TWINS["compiled"] = compiled
except ImportError:  # without the extension, only the tests of one twin run
    compiled = None  # type: ignore[assignment]

both = pytest.mark.skipif(compiled is None, reason="the extension was not built")
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LARGE = (1.7976931348623157e308, 0.6 * 2.0**970)
"""Whose exact sum is a number, and whose sum by parts is not."""

DOUBLES = st.one_of(
    st.floats(width=64),
    st.integers(-(2**60), 2**60).map(float),
    st.integers(-(10**9), 10**9).map(lambda number: number / 1000),
    st.sampled_from(
        [0.0, -0.0, 1e15, 1e16, 1e-4, 9.9e-5, 0.1 + 0.2, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan, *LARGE]
    ),
)
TEXTS = st.sampled_from(["", "a", "b", "aa", 'quote " and \\', "two\nlines", "ü", "x" * 300])


@pytest.fixture(params=list(TWINS))
def twin(request: pytest.FixtureRequest) -> Any:
    """Each twin."""
    return TWINS[request.param]


def opened(
    twin: Any,
    written: Sequence[Any],
    retired: Sequence[bool],
    slabs: Any,
    *,
    size: int = fmt.SLAB_SIZE,
    **how: Any,
) -> tuple[Any, list[Any]]:
    """A table, and sources that have read the slabs into it."""
    table = twin.Table()
    sources = [twin.Source(slab.map, retired=is_retired) for slab, is_retired in zip(written, retired, strict=True)]
    for one in sources:
        one.limit(size)
        slabs.read(one, table, **how)
        one.load()
        slabs.read(one, table, **how)
    return table, sources


def in_both(written: Sequence[Any], retired: Sequence[bool], slabs: Any, **how: Any) -> list[Any]:
    """For each twin: the twin, its table, its sources."""
    return [(twin, *opened(twin, written, retired, slabs, **how)) for twin in (PURE, compiled)]


# Rows.

KEYS = st.lists(TEXTS, min_size=2, max_size=2)
MORE = st.lists(st.tuples(st.sampled_from(["x", "y", "z", "k"]), TEXTS), max_size=3)


@both
@unhurried
@given(st.lists(st.tuples(st.integers(0, 3), st.none() | KEYS, MORE), max_size=12))
def test_equal_label_sets_are_one_row(
    slabs: Any, series: list[tuple[int, list[str] | None, list[tuple[str, str]]]]
) -> None:
    """Equal label sets are one row in both twins: any order, empty values, open families, the overflow series."""
    families = ((("k", "l"), False), (("l", "k"), False), (("k", "l"), True), (("y", "x"), False))
    slab = slabs.Written()
    for number in range(len(families)):
        slab.family(number)
    expected: list[frozenset[tuple[str, str]] | None] = []
    for number, key, more in series:
        labels, is_open = families[number]
        whole = key if key is None or not is_open else [*key, *(text for pair in more for text in pair)]
        slab.series(number, whole)
        pairs = None if key is None else [*zip(labels, key, strict=True), *(more if is_open else ())]
        essence = None if pairs is None else tuple(sorted(pair for pair in pairs if pair[1]))
        if essence not in expected:
            expected.append(essence)  # type: ignore[arg-type]

    found = []
    for twin in (PURE, compiled):
        table, one = twin.Table(), twin.Source(slab.map)
        while (record := one.parse()) is not None:
            one.family(record.number, table, 1, *families[record.number])
        one.load()
        rows = [table.labels(row) for row in range(len(table))]
        found.append((rows, table.overflow, table.families, list(table.texts("t", None)), table.present, one.damaged))
        for row, labels in enumerate(rows):
            assert (-1 if row == table.overflow else row) == table.find(reversed(labels))
        assert -1 == table.find((("k", "nobody"),))

    assert found[0] == found[1]
    rows, overflow, *_, damaged = found[0]
    assert 0 == damaged
    essences = [
        None if row == overflow else tuple(sorted(pair for pair in labels if pair[1]))
        for row, labels in enumerate(rows)
    ]
    assert expected == essences


def test_a_row_has_the_labels_of_its_first_series(slabs: Any, twin: Any) -> None:
    """A row has its labels in the order of the first family, empty ones included."""
    slab = slabs.Written()
    slab.family(0)
    slab.family(1)
    slab.series(0, ("", "w"))
    slab.series(1, ("w", ""))
    table, one = twin.Table(), twin.Source(slab.map)
    for labels in (("a", "b"), ("b", "c")):
        one.family(one.parse().number, table, 1, labels, False)
    assert one.parse() is None

    assert [(("a", ""), ("b", "w"))] == [table.labels(row) for row in range(len(table))]
    assert [b'a="",b="w"'] == list(table.texts("t", None))
    assert 2 == one.series


def test_texts_are_made_once(slabs: Any, twin: Any) -> None:
    """A row's text is made once, when it is needed; the function that makes it may itself ask for texts."""
    slab = slabs.Written()
    slab.family(0)
    slab.series(0, ("a",))
    table, (one,) = opened(twin, [slab], [False], slabs)
    asked: list[Any] = []

    def make(labels: Any) -> bytes:
        asked.append(labels)
        if len(asked) == 1:
            table.texts("key", make)
        return b"text %d" % len(asked)

    first = table.texts("key", make)
    assert [b"text 2"] == list(first)
    slab.series(0, ("b",))
    slab.series(0, ("c",))
    slabs.read(one, table)

    assert [b"text 2", b"text 3", b"text 4"] == list(table.texts("key", make))
    assert 4 == len(asked)
    assert list(first) == list(table.texts("key", make))
    assert table.texts("key", make).are_distinct(b"\1\1\1")
    same = table.texts("same", lambda labels: b"" if labels[0][1] == "b" else b"x")
    assert [True, False, True] == [same.are_distinct(mask) for mask in (b"\1\1\0", b"\1\1\1", b"\0\0\1")]
    with pytest.raises(ZeroDivisionError):
        table.texts("other", lambda _: b"%d" % (1 // 0))


def test_a_missing_row_is_an_index_error(twin: Any) -> None:
    """Numbers below 0, or of no row, raise IndexError."""
    table = twin.Table()
    for row in (-1, 0, 1):
        with pytest.raises(IndexError):
            table.labels(row)
    assert -1 == table.overflow == table.find(())


# Records.


def test_records_of_every_length(slabs: Any, twin: Any) -> None:
    """Records with keys of every length have zlib's checksum, are padded, and are read."""
    slab = slabs.Written()
    slab.family(0, b"packed")
    for size in range(100):
        slab.series(0, ("n" * size,))
    slab.append(encode_record(77, b"of a later release"))
    slab.series(0, ("end",))
    table, (one,) = opened(twin, [slab], [False], slabs)

    assert (101, 0, 101) == (len(table), one.damaged, one.series)


def test_parse_returns_each_family(slabs: Any, twin: Any) -> None:
    """parse() returns number, time and fields of each family; series of an ignored family are no damage."""
    slab = slabs.Written()
    slab.family(5, b"packed")
    slab.series(5, ("a",))
    one = twin.Source(slab.map)
    record = one.parse()

    assert (5, 7, b"packed") == (record.number, record.declared, record.packed)
    one.family(5, None, 0, (), False)
    assert one.parse() is None
    assert (0, 0) == (one.damaged, one.series)
    with pytest.raises(ValueError, match="has not returned family"):
        one.family(5, twin.Table(), 1, (), False)


def bad_records() -> Iterator[tuple[str, bytes]]:
    """Complete but invalid records, for a slab with family 0 of width 2 with one label."""

    def series(number: int, words: int, first: int, texts: bytes, created: float = 1.0) -> bytes:
        return encode_record(fmt.SERIES, struct.pack("=IIQdQ", number, words, first, created, 0) + texts)

    good = pack_texts(["v"])
    yield "an unknown family", series(1, 2, 600, good)
    yield "another width", series(0, 3, 600, good)
    yield "no words", series(0, 0, 600, good)
    yield "words in the head", series(0, 2, 511, good)
    yield "words past the end", series(0, 2, 1023, good)
    yield "words far past the end", series(0, 2, 2**63 + 5, good)
    yield "words of another", series(0, 2, 513, good)
    yield "no time", series(0, 2, 600, good, math.nan)
    yield "two labels", series(0, 2, 600, pack_texts(["v", "w"]))
    yield "no label", series(0, 2, 600, pack_texts([]))
    yield "no texts", series(0, 2, 600, b"")
    yield "texts that end early", series(0, 2, 600, good[:-1])
    yield "texts that go on", series(0, 2, 600, good + b"x")
    yield "overflow that goes on", series(0, 2, 600, b"\xff\xff\0")
    yield "no UTF-8", series(0, 2, 600, struct.pack("=HH", 1, 2) + b"\xed\xa0")
    yield "a short head", encode_record(fmt.SERIES, b"short")
    yield "a family twice", encode_record(fmt.FAMILY, struct.pack("=IIQ", 0, 0, 1))
    yield "a family past the limit", encode_record(fmt.FAMILY, struct.pack("=IIQ", 1 << 20, 0, 1))
    yield "a short family", encode_record(fmt.FAMILY, b"short")
    yield "a short end", encode_record(fmt.END, b"short")
    yield "a short identity", encode_record(fmt.FOLDED, b"short")
    yield "a wrong sum", good_sum(series(0, 2, 600, good))
    yield "zeros", bytes(64)
    yield "an endless record", struct.pack("=IIII", fmt.RECORD_MAGIC, 2**32 - 1, 0, fmt.SERIES)


def good_sum(record: bytes) -> bytes:
    """The record with one bit of its checksum changed."""
    return record[:8] + bytes([record[8] ^ 1]) + record[9:]


def test_an_invalid_record_affects_no_other(slabs: Any, twin: Any) -> None:
    """Each invalid record is counted, and the records behind it are read."""
    for what, record in bad_records():
        slab = slabs.Written()
        slab.family(0)
        slab.series(0, ("first",), (1.0, 2.0), first=512)
        slab.append(record)
        slab.series(0, ("last",), (3.0, 4.0), first=700)
        table, (one,) = opened(twin, [slab], [False], slabs, width=2)

        assert (what, 2, 1) == (what, one.series, one.damaged)
        assert [3.0, 4.0] == one.words(table, table.find((("k", "last"),)))


def test_an_end_of_nothing_is_no_damage(slabs: Any, twin: Any) -> None:
    """An END of a series that the reader has already dropped as removed is no damage."""
    slab = slabs.Written()
    slab.family(0)
    slab.end(4000)
    first = slab.series(0, ("a",))
    slab.end(first)
    slab.end(first)
    slab.series(0, ("b",), first=first)
    table, (one,) = opened(twin, [slab], [False], slabs)

    assert (0, 1, 2, 1) == (one.damaged, one.series, len(table), table.present)


def test_records_committed_beyond_the_file(slabs: Any, twin: Any) -> None:
    """A shorter file than committed is read up to its end; it counts as damage only if it has not grown later."""
    slab = slabs.Written()
    slab.family(0)
    end = slab.append(b"")
    slab.series(0, ("a",))
    table, one = twin.Table(), twin.Source(slab.map)
    for damaged in (0, 1, 1):
        one.limit(end)
        slabs.read(one, table)
        one.load()
        assert (damaged, 0) == (one.damaged, one.series)
    one.limit(10)
    assert one.parse() is None
    one.load()
    one.limit(fmt.SLAB_SIZE)
    slabs.read(one, table)
    assert (1, 1) == (one.damaged, one.series)
    with pytest.raises(ValueError, match="no slab"):
        twin.Source(bytes(100))


def test_words_beyond_a_truncated_file_are_zero(slabs: Any, twin: Any) -> None:
    """Words beyond the end of a truncated file are never touched and count as zero."""
    slab = slabs.Written()
    slab.family(0)
    slab.series(0, ("a",), (1.0, 2.0))
    slab.series(0, ("b",), (3.0, 4.0))
    table, (one,) = opened(twin, [slab], [False], slabs, width=2)
    one.limit(8 * 515)
    one.load()

    assert [[1.0, 2.0], [3.0, 0.0]] == [one.words(table, row) for row in range(2)]


@both
@unhurried
@given(st.data())
def test_both_twins_read_damaged_slabs_alike(slabs: Any, data: st.DataObject) -> None:
    """Both twins read the same from a slab with any bytes changed, and neither crashes."""
    slab = slabs.Written()
    slab.family(0)
    slab.family(1)
    for at in range(12):
        first = slab.series(at % 2, (f"key {at}",), (float(at), 1.0), generation=at)
        if at % 5 == 0:
            slab.end(first)
    places = st.integers(0, slab.append(b"") - fmt.AREA_0 - 1).map(lambda at: fmt.AREA_0 + at)
    heads = st.sampled_from([8 * fmt.WORDS_END, 8 * fmt.COMMITTED, 8 * fmt.FLIPS, 8 * fmt.WORDS_END + 7])
    for at, byte in data.draw(st.lists(st.tuples(places | heads, st.integers(0, 255)), max_size=6)):
        slab.map[at] = byte
    found = []
    for twin, table, (one,) in in_both([slab], [False], slabs, width=2, size=fmt.AREA_0 + (1 << 16)):
        words = [one.words(table, row) for row in range(len(table))]
        labels = [table.labels(row) for row in range(len(table))]
        found.append((one.damaged, one.series, labels, words, twin.present(table, [one])))
    assert found[0] == found[1]


def test_hostile_sizes_cost_little(slabs: Any, twin: Any) -> None:
    """In a gap with many records that claim to be long, the reader gives up and counts the damage."""
    slab = slabs.Written()
    slab.family(0)
    claim = struct.pack("=IIII", fmt.RECORD_MAGIC, fmt.MAX_BODY, 1, fmt.SERIES)
    slab.append(claim * (3 * fmt.MAX_BODY // len(claim)))
    slab.series(0, ("behind",))
    began = time.process_time()
    _, (one,) = opened(twin, [slab], [False], slabs)

    assert (1, 0) == (one.damaged, one.series)
    assert time.process_time() - began < 20


# Events between two steps of a reader.


def test_a_series_that_ends_while_words_are_read(slabs: Any, twin: Any) -> None:
    """If a series ends before its words are read, neither it nor the next owner of its words is shown yet."""
    slab = slabs.Written()
    slab.family(0)
    first = slab.series(0, ("a",), (1.0,))
    kept = slab.series(0, ("b",), (2.0,))
    table, one = twin.Table(), twin.Source(slab.map)
    slabs.read(one, table)
    # Before the words are read, the owner ends a and begins c in its word.
    slab.end(first)
    slab.series(0, ("c",), (5.0,), first=first)
    one.load()
    stale = twin.sums(table, [one])[:]
    slabs.read(one, table)

    assert [5.0, 2.0] == list(stale), "the control: without the second parse it is a's"
    assert [0.0, 2.0, 0.0] == list(twin.sums(table, [one]))
    assert b"\0\1\0" == twin.present(table, [one])
    assert [1] == one.rows_at(table, [kept])
    one.load()
    assert [0.0, 2.0, 5.0] == list(twin.sums(table, [one]))
    assert b"\0\1\1" == twin.present(table, [one])


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_flip_changes_no_total(slabs: Any, twin: Any, when: str) -> None:
    """When records move to the other area, at any step, no value is missing or counted twice."""
    slab = slabs.Written()
    slab.family(0)
    gone = slab.series(0, ("a",), (1.0,))
    slab.series(0, ("b",), (2.0,))
    table, (one,) = opened(twin, [slab], [False], slabs)
    slab.series(0, ("c",), (4.0,))
    slab.end(gone)
    for step in ("before", "between", "after"):
        if step == when:
            slab.flip()
        if step == "between":
            one.load()
        else:
            slabs.read(one, table)

    assert (0, 2, 2) == (one.damaged, one.series, table.present)
    assert [0.0, 2.0, 4.0] == list(twin.sums(table, [one]))


def test_fewer_committed_records_start_the_reader_over(slabs: Any, twin: Any) -> None:
    """If fewer bytes are committed than were read, the reader starts over."""
    slab = slabs.Written()
    slab.family(0)
    slab.series(0, ("a",), (1.0,))
    before = slab.head[fmt.COMMITTED]
    slab.series(0, ("b",), (2.0,))
    table, (one,) = opened(twin, [slab], [False], slabs)
    slab.head[fmt.COMMITTED] = before
    assert [0] == slabs.read(one, table)

    assert [1.0, 0.0] == list(twin.sums(table, [one]))


def test_a_deleted_source_releases_its_rows(slabs: Any, twin: Any) -> None:
    """Rows stay, but only rows of living sources count as present."""
    slab = slabs.Written()
    slab.family(0)
    for key in "ab":
        slab.series(0, (key,))
    table, sources = opened(twin, [slab, slab], [False, False], slabs)
    counts = [table.present]
    while sources:
        sources.pop()
        counts.append(table.present)

    assert [2, 2, 0] == counts
    assert 2 == len(table)


# Removals.


def test_removals_end_earlier_series_only(slabs: Any, twin: Any) -> None:
    """A removal, of all or some labels, ends matching series of a lower generation and keeps later ones."""
    slab = slabs.Written()
    slab.family(0)
    for key, generation in ((("a", "x"), 0), (("a", "y"), 1), (("b", ""), 2), (None, 0)):
        slab.series(0, key, (1.0,), generation=generation)
    table, (one,) = opened(twin, [slab], [False], slabs, labels=("k", "l"))

    def left(*removal: Any) -> tuple[set[int], bytes]:
        table.remove(*removal)
        return one.sweep(table), twin.present(table, [one])

    assert (set(), b"\1\1\1\1") == left((("k", "a"),), False, 9)
    assert (set(), b"\1\1\1\1") == left((("l", "y"), ("k", "a")), False, 1)
    assert ({2}, b"\1\0\1\1") == left((("l", "y"), ("k", "a")), False, 2)
    assert (set(), b"\1\0\1\1") == left((("k", "a"),), True, 9, 1)
    assert (set(), b"\1\0\1\1") == left((("k", "a"), ("l", "")), True, 9)
    assert (set(), b"\1\0\1\1") == left((("otel_metric_overflow", "true"),), True, 9)
    assert ({3}, b"\1\0\0\1") == left((("k", "b"), ("l", "")), True, 3)
    assert ({9}, b"\0\0\0\1") == left((("k", "a"),), True, 9)
    slab.series(0, ("b", ""), (5.0,), generation=3)
    slabs.read(one, table, labels=("k", "l"))
    one.load()
    assert (set(), b"\0\0\1\1") == (one.sweep(table), twin.present(table, [one]))
    assert ({9}, b"\0\0\0\0") == left((), True, 9)
    assert (0, 0) == (one.series, table.present)


# Merging.

COLUMNS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 4), max_size=6)), max_size=5)


def write(slabs: Any, data: st.DataObject, width: int, retired_width: int, words: Any) -> tuple[list[Any], list[bool]]:
    """Slabs and retired files, with any of five series of a family, in any order, some twice."""
    columns = data.draw(COLUMNS)
    written = []
    for is_retired, keys in columns:
        slab = slabs.Written(data.draw(st.binary(min_size=16, max_size=16)))
        slab.family(0)
        size = retired_width if is_retired else width
        for key in keys:
            created = data.draw(st.sampled_from([1.25, 3.5, 1e9]))
            values = data.draw(words(size, is_retired=is_retired))
            slab.series(0, (str(key),), values, created=created, generation=key)
        written.append(slab)
    return written, [is_retired for is_retired, _ in columns]


def any_words(size: int, *, is_retired: bool) -> st.SearchStrategy[list[float]]:
    """Any doubles."""
    del is_retired
    return st.lists(DOUBLES, min_size=size, max_size=size)


def numbers(size: int, *, is_retired: bool) -> st.SearchStrategy[list[float]]:
    """Doubles without NaN, whose bits may differ."""
    del is_retired
    return st.lists(DOUBLES.filter(math.isfinite).map(lambda word: word / 4), min_size=size, max_size=size)


def merged(slabs: Any, written: list[Any], retired: list[bool], widths: tuple[int, int], merge: Any) -> list[Any]:
    """The results of ``merge(twin, table, sources)`` for these slabs, one for each twin."""
    results = []
    for twin in (PURE, compiled):
        table = twin.Table()
        sources = []
        for slab, is_retired in zip(written, retired, strict=True):
            sources.append(one := twin.Source(slab.map, retired=is_retired))
            slabs.read(one, table, widths[is_retired])
            one.load()
        results.append(merge(twin, table, sources))
    return results


@both
@unhurried
@given(st.data())
def test_sums_are_exact(slabs: Any, data: st.DataObject) -> None:
    """Sums and their rests equal exact sums of fractions."""
    written, retired = write(slabs, data, 1, 2, any_words)
    ours, theirs = merged(
        slabs,
        written,
        retired,
        (1, 2),
        lambda twin, table, sources: (
            slabs.bits(twin.sums(table, sources)),
            slabs.bits(twin.sums_and_rests(table, sources)),
            twin.present(table, sources),
            slabs.bits(twin.created(table, sources)),
        ),
    )
    assert ours == theirs
    table, sources = opened(PURE, written, retired, slabs, width=1) if not any(retired) else (PURE.Table(), [])
    for row, (value, rest) in enumerate(pairs_of(PURE.sums_and_rests(table, sources))):
        words = [word for one in sources for part in [one.parts[table]] if part for word in words_in(part, row)]
        if all(map(math.isfinite, words)) and math.isfinite(value) and abs(value) < 1e300:
            exact = sum(map(Fraction, words), Fraction(0))
            assert float(exact) == value
            assert float(exact - Fraction(value)) == rest


def words_in(part: Any, row: int) -> list[float]:
    """The words of a row's series, of width 1."""
    return [part.words_of(at)[0] for at in part.members() if part.rows[at] == row]


def pairs_of(values: Sequence[float]) -> list[tuple[float, float]]:
    """The values in pairs."""
    return list(zip(values[0::2], values[1::2], strict=True))


@both
@unhurried
@given(st.data(), st.integers(0, 3), st.integers(1, 3))
def test_sums_of_wide_series(slabs: Any, data: st.DataObject, position: int, width: int) -> None:
    """Sums of some words of wide series; of retired sketches, with one record less, the equivalent words."""
    written, retired = write(slabs, data, 2 * RECORD + 4, RECORD + 4, any_words)
    ours, theirs = merged(
        slabs,
        written,
        retired,
        (2 * RECORD + 4, RECORD + 4),
        lambda twin, table, sources: slabs.bits(twin.sums(table, sources, 2 * RECORD + position, width)),
    )
    assert ours == theirs


COUNTS = st.integers(0, 9).map(float) | st.sampled_from([0.5, 2.5])


def distribution_words(size: int, *, is_retired: bool) -> st.SearchStrategy[list[float]]:
    """Two sums, and counts."""
    del is_retired
    sums = st.lists(DOUBLES, min_size=2, max_size=2)
    return st.tuples(sums, st.lists(COUNTS, min_size=size - 2, max_size=size - 2)).map(lambda both: both[0] + both[1])


@both
@unhurried
@given(st.data())
def test_distributions(slabs: Any, data: st.DataObject) -> None:
    """Cumulative counts, the sum that the count's parity selects, and the values that a fold keeps."""
    written, retired = write(slabs, data, 5, 5, distribution_words)
    ours, theirs = merged(
        slabs,
        written,
        retired,
        (5, 5),
        lambda twin, table, sources: (
            slabs.bits(twin.distributions(table, sources, 3)),
            slabs.bits(twin.folded_distributions(table, sources, 3)),
        ),
    )
    assert ours == theirs


@both
@unhurried
@given(st.data())
def test_extremes_ignore_unset_words(slabs: Any, data: st.DataObject) -> None:
    """The largest and smallest set words; all words of a retired file are set."""
    written, retired = write(slabs, data, 1, 1, any_words)

    def merge(twin: Any, table: Any, sources: Any) -> Any:
        found = [twin.extremes(table, sources, is_max) for is_max in (False, True)]
        return [(slabs.bits(values), mask) for values, mask in found]

    ours, theirs = merged(slabs, written, retired, (1, 1), merge)
    assert ours == theirs


def level_words(size: int, *, is_retired: bool) -> st.SearchStrategy[list[float]]:
    """A value or, of a retired file, pairs of ordinal and value."""
    if not is_retired:
        return st.lists(DOUBLES, min_size=size, max_size=size)
    pairs = st.tuples(st.integers(0, 4), DOUBLES)
    return st.lists(pairs, min_size=1, max_size=4).map(
        lambda found: list(struct.unpack(f"={2 * len(found)}d", b"".join(struct.pack("=qd", *pair) for pair in found)))
    )


@both
@unhurried
@given(st.data())
def test_levels_are_by_ordinal(slabs: Any, data: st.DataObject) -> None:
    """Values are by the ordinal of their process; a retired file has its own ordinals."""
    written, retired = write(slabs, data, 1, 0, level_words)
    ordinals = array("q", (data.draw(st.integers(0, 5)) for _ in written))
    columns = array("q", sorted(data.draw(st.sets(st.integers(0, 5)))))

    def merge(twin: Any, table: Any, sources: Any) -> Any:
        values, mask = twin.levels(table, sources, ordinals, columns)
        return slabs.bits(values), mask, twin.retired_ordinals(table, sources)

    ours, theirs = merged(slabs, written, retired, (1, 0), merge)
    assert ours == theirs


TIMES = st.integers(0, 3) | st.integers(0, 2**62)


def recent_words(slabs: Any) -> Any:
    """Values and times or, of a retired file, value, time and identity."""

    def words(size: int, *, is_retired: bool) -> st.SearchStrategy[list[float]]:
        assert size == 4
        value = st.floats(allow_nan=False)
        if is_retired:
            return st.tuples(value, TIMES, st.binary(min_size=16, max_size=16)).map(
                lambda found: list(struct.unpack("=dddd", struct.pack("=dQ16s", *found)))
            )
        return st.tuples(value, TIMES, value, TIMES).map(lambda found: slabs.times(*found))

    return words


@both
@unhurried
@given(st.data())
def test_the_latest_value_counts(slabs: Any, data: st.DataObject) -> None:
    """Value, time and source of the latest value, from the later of two copies; ties by identity."""
    written, retired = write(slabs, data, 4, 4, recent_words(slabs))

    def merge(twin: Any, table: Any, sources: Any) -> Any:
        values, times, winners = twin.recents(table, sources)
        return slabs.bits(values), list(times), list(winners)

    ours, theirs = merged(slabs, written, retired, (4, 4), merge)
    assert ours == theirs


def test_of_equal_times_the_greater_identity_counts(slabs: Any, twin: Any) -> None:
    """Of two values with the same time, the greater identity counts, in any order of reading."""
    written = []
    for identity, value in ((b"b" * 16, 1.0), (b"c" * 16, 2.0), (b"a" * 16, 3.0)):
        slab = slabs.Written(identity)
        slab.family(0)
        slab.series(0, ("x",), slabs.times(value, 7))
        written.append(slab)
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        table, sources = opened(twin, [written[at] for at in order], [False] * 3, slabs, width=4)
        values, times, winners = twin.recents(table, sources)
        assert (2.0, 7, order.index(1)) == (values[0], times[0], winners[0])


@both
@unhurried
@given(st.data())
def test_packed_rows_are_read_again(slabs: Any, data: st.DataObject) -> None:
    """Both twins pack rows to the same bytes, which are read back as the same rows."""
    written, retired = write(slabs, data, 1, 2, numbers)

    def merge(twin: Any, table: Any, sources: Any) -> Any:
        values = twin.sums_and_rests(table, sources)
        mask = twin.present(table, sources)
        numbers = [4] * len(table.families)
        return twin.pack_rows(table, sources, values, mask, 2, fmt.FIRST_WORD, numbers), mask

    (packed, mask), theirs = merged(slabs, written, retired, (1, 2), merge)
    assert (packed, mask) == theirs
    words, records = packed
    again = slabs.Written(magic=fmt.RETIRED_MAGIC)
    again.family(4)
    again.map[fmt.PAGE : fmt.PAGE + len(words)] = words
    again.append(records)
    _, (one,) = opened(PURE, [again], [True], slabs, width=2)
    assert (0, sum(mask)) == (one.damaged, one.series)
    assert len(records) % 8 == 0


# Words.


def test_idle_words_are_the_same_object(slabs: Any) -> None:
    """The pure-Python twin keeps its copy of an idle process's words, and the merged results."""
    slab = slabs.Written()
    slab.family(0)
    slab.series(0, ("a",), (1.0,))
    table, (one,) = opened(PURE, [slab], [False], slabs)
    before, total = one.parts[table].values, PURE.sums(table, [one])
    one.load()
    assert before is one.parts[table].values
    assert total is PURE.sums(table, [one])
    slab.words[512] = -0.0
    one.load()
    assert before is not one.parts[table].values
    assert -1.0 == math.copysign(1.0, one.words(table, 0)[0])
    assert [1.0] == list(total)


def keep_observing(words: Any, first: int, stop: int) -> None:
    """Observe 0.25 and 1.5 in turn, at the speed of a histogram's cell, until the word ``stop`` is set."""
    low = high = total = 0.0
    while not words[stop]:
        for _ in range(200):
            sum(range(20))
            total += 0.25
            words[first + 1 - int(low + high) % 2] = total
            words[first + 2] = low = low + 1.0
            total += 1.5
            words[first + 1 - int(low + high) % 2] = total
            words[first + 3] = high = high + 1.0


def test_load_beside_a_writer(slabs: Any, twin: Any) -> None:
    """Sum and buckets of a histogram that another process keeps writing to are from one moment."""
    slab = slabs.Written(is_shared=True)
    slab.family(0)
    first = slab.series(0, ("a",), (0.0, 0.0, 0.0, 0.0))
    stop = slab.room(1)
    table, (one,) = opened(twin, [slab], [False], slabs, width=4)
    pid = os.fork()
    if not pid:
        keep_observing(slab.words, first, stop)
        os._exit(0)
    readings: set[tuple[float, ...]] = set()
    deadline = time.monotonic() + 20
    try:
        while len(readings) < 500 and time.monotonic() < deadline:
            one.load()
            readings.add(tuple(one.words(table, 0)))
    finally:
        slab.words[stop] = 1.0
        os.waitpid(pid, 0)

    assert len(readings) > 2
    for reading in readings:
        low, high = reading[2:]
        assert reading[int(low + high) % 2] == 0.25 * low + 1.5 * high


# Lines.

AROUNDS = ((b"a{", b"} ", b"a "), None, (b"b{", b',le="1"} ', b'b{le="1"} '))
CREATED = (b"c{", b"} ", b"c ")


@both
@unhurried
@given(st.lists(st.sampled_from(["", 'v"', "w\\"]), max_size=5, unique=True), st.data())
def test_lines(slabs: Any, keys: list[str], data: st.DataObject) -> None:
    """Lines with and without labels, masks by row and by value, left-out values, and times after the rows."""
    slab = slabs.Written()
    slab.family(0)
    for key in keys:
        slab.series(0, (key,))
    size = len(keys) * len(AROUNDS)
    values = array("d", data.draw(st.lists(DOUBLES, min_size=size, max_size=size)))
    masks = st.none()
    for count in {size, len(keys)}:
        masks |= st.lists(st.integers(0, 1), min_size=count, max_size=count).map(bytes)
    mask = data.draw(masks)
    times = array("d", data.draw(st.lists(st.floats(0, 1e10), min_size=len(keys), max_size=len(keys))))
    created = data.draw(st.sampled_from([None, (CREATED, times)]))
    found = []
    for twin, table, _ in in_both([slab], [False], slabs):
        texts = [table.texts(make, make) for make in (None, lambda labels: b"made" if labels[0][1] else b"")]
        found += [twin.lines(AROUNDS, made, values, mask, created) for made in texts]

    assert found[:2] == found[2:]


@both
@given(DOUBLES)
def test_a_number_is_written_as_its_repr(value: float) -> None:
    """Both twins write any number as ``repr`` does."""
    assert PURE.number(value) == compiled.number(value)
    assert math.isnan(value) or float(compiled.number(value)) == value


@both
def test_numbers_of_every_length_are_written_as_their_repr() -> None:
    """Decimals of every length and magnitude are written as ``repr`` does."""
    chance = random.Random(7)
    for _ in range(100_000):
        digits, places = chance.randrange(1, 18), chance.randrange(-5, 25)
        value = float(f"{chance.randrange(10**digits)}e{-places}")
        assert repr(value) == compiled.number(value)


def test_invalid_arguments_raise(slabs: Any, twin: Any) -> None:
    """Invalid arguments raise, and no memory outside the given objects is read."""
    slab = slabs.Written()
    slab.family(0)
    slab.series(0, ("a",))
    table, (one,) = opened(twin, [slab], [False], slabs)
    texts = table.texts("t", None)
    one_value = array("d", (1.0,))
    calls: list[Any] = [
        lambda: twin.sums(table, [one], -1),
        lambda: twin.sums(table, [one], 0, 0),
        lambda: twin.distributions(table, [one], 0),
        lambda: twin.levels(table, [one], array("q"), array("q")),
        lambda: twin.lines((CREATED,), texts, array("d", (1.0, 2.0)), None),
        lambda: twin.lines((CREATED,), texts, one_value, b"\1\1"),
        lambda: twin.lines((CREATED,), texts, one_value, None, (CREATED, array("d"))),
        lambda: twin.pack_rows(table, [one], one_value, b"\1", 1, 512, []),
        lambda: one.family(0, table, 1, ("k",), False),
        lambda: table.labels(1),
    ]
    for call in calls:
        with pytest.raises((ValueError, IndexError)):
            call()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_writer_that_flips_while_it_is_read(slabs: Any, is_known: bool) -> None:  # noqa: FBT001 (a parameter)
    """In the slow Python twin, a flip amid parsing leaves living series whole; those that came or went are hidden."""
    slab = slabs.Written()
    slab.family(0)
    for number in range(50):
        slab.series(0, (str(number),), (float(number + 1),))
    passing = slab.series(0, ("passing",), (7.0,))
    table, one = PURE.Table(), PURE.Source(slab.map)
    take, count = one._apply_series, 0

    def flip_and_apply(body: bytes, limit: int) -> None:
        nonlocal count, passing
        count += 1
        take(body, limit)
        slab.end(passing)
        passing = slab.series(0, (f"passing {count}",), (8.0,), first=passing)
        slab.flip()

    if is_known:
        slabs.read(one, table)
        one.load()
        slab.flip()
    one._apply_series = flip_and_apply
    slabs.read(one, table)
    one.load()
    slabs.read(one, table)
    expected = {(("k", str(number)),): float(number + 1) for number in range(50)}
    shown = PURE.present(table, [one])
    found = zip(map(table.labels, range(len(table))), PURE.sums(table, [one]), shown, strict=True)

    assert count >= 50
    assert (0, expected) == (one.damaged, {labels: value for labels, value, is_shown in found if is_shown})


def test_a_reader_of_a_writer_that_always_flips_gives_up(slabs: Any, twin: Any) -> None:
    """A reader gives up after a bounded number of flips, and tries again after its next load."""
    slab = slabs.Written()
    slab.family(0)
    slab.series(0, ("a",), (1.0,))
    table, one = twin.Table(), twin.Source(slab.map)
    count = 0
    while (record := one.parse()) is not None:
        one.family(record.number, table, 1, ("k",), False)
        slab.flip()
        count += 1
    assert count in (range(1, 2) if twin is PURE else range(6, 100))  # the twin in Python reads a copy
    one.load()
    slabs.read(one, table)
    one.load()

    assert [1.0] == list(twin.sums(table, [one]))


def test_records_of_any_length_are_checked(twin: Any, slabs: Any) -> None:
    """A record of any length is read as written, and counts as damaged with any one bit changed."""
    chance, written = random.Random(3), slabs.Written()
    bodies = [chance.randbytes(length) for length in range(300)]
    starts = [written.append(encode_record(9, body)) for body in bodies]
    source = twin.Source(written.map)
    slabs.read(source, twin.Table())
    assert source.damaged == 0
    # Every other one, so that each is a gap of its own.
    changed = starts[1::2]
    for start, body in zip(changed, bodies[1::2], strict=True):
        written.map[start + 16 + chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    source = twin.Source(written.map)
    slabs.read(source, twin.Table())
    assert len(changed) == source.damaged


def texts_interrupted_at(number: int) -> tuple[list[bytes], bool]:
    """Make texts, with a second call at this instruction of the first; also whether there are more instructions."""
    table = index.Table()
    family = table.family(("k",), False)
    for value in "abc":
        table.row(family, pack_texts((value,)))
    left = number

    def interrupt(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code is not index.Table.texts.__code__:
            return None
        frame.f_trace = interrupt
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left < 0:
            sys.settrace(None)
            table.texts(None, None)
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        return table.texts(None, None), left >= 0
    finally:
        sys.settrace(before)


def test_texts_that_two_threads_make_at_once() -> None:
    """If another thread makes the texts, too, at any instruction, each row still gets its own text."""
    for number in itertools.count():
        texts, is_over = texts_interrupted_at(number)
        assert [b'k="a"', b'k="b"', b'k="c"'] == texts
        if is_over:
            break
    assert number > 20
