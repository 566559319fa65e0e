"""Records with valid checksums and senseless contents, as a defect or another release would write them.

None may make the scrape fail, take unbounded memory, break the text that a scraper reads, or change what others
counted. Each is counted and named.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpmetrics import _cells
from mpmetrics._cells import LAYOUTS
from mpmetrics.names import family as family_module
from mpmetrics.names.family import Family
from mpmetrics.storage import format as fmt
from mpmetrics.storage import reader as reader_module
from mpmetrics.storage.fold import fold

Differ = Callable[[dict[str, float], dict[str, float]], set[str]]
InProcess = Callable[..., str]

EXAMPLES = 120 + int(50 * float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0")))
MEGABYTES = 1 << 20
LIMIT = 500 * MEGABYTES * (1 if _cells.TWIN == "compiled" else 2)
FREE = 2300
"""A word that no series of the reference store has."""

FRESH = 50
"""Number of a family that no slab of the reference store has."""

needs_limit = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer's own memory has no limit"
)


def texts(*values: str | bytes) -> bytes:
    """Texts as records hold them, or bytes that are none."""
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    return struct.pack(f"={len(encoded) + 1}H", len(encoded), *map(len, encoded)) + b"".join(encoded)


def family(number: int = FRESH, declared: int = 1, **fields: Any) -> bytes:
    """The body of a FAMILY record, of a counter but for ``fields``."""
    made = Family(**({"name": "fresh", "kind": "counter", "help": "", "labels": ("x",)} | fields))
    return struct.pack("=IIQ", number, 0, declared) + made.pack()


def series(
    key: bytes = texts("fresh"),
    *,
    number: int = FRESH,
    width: int = 1,
    first: int = FREE,
    created: float = 1.0,
    generation: int = 1,
) -> bytes:
    """The body of a SERIES record, of a counter's with one label, in words of its own."""
    return struct.pack("=IIQdQ", number, width, first, created, generation) + key


def removal(generation: int, labels: bytes = texts("hits", "code", "200"), flags: int = 0) -> bytes:
    """The body of a REMOVE record."""
    return struct.pack("=QI", generation, flags) + labels


INFINITE = (math.inf,)
FAMILIES: dict[str, bytes] = {
    "a kind of a later release": family(kind="exponential"),
    "a mode of a later release": family(kind="gauge", mode="median"),
    "a layout of a later release": family(kind="sketch", mode="value").replace(b"value", b"bytes"),
    "a role of a later release": family(role="ratio", name="registry/ratio/r/x", labels=()),
    "a role without its name": family(role="counter", labels=()),
    "a role of another kind": family(role="timer", name="registry/timer/r/x", labels=()),
    "a sketch outside a registry": family(kind="sketch", mode="duration"),
    "a histogram without buckets": family(kind="histogram"),
    "a histogram without the infinite bucket": family(kind="histogram", bounds=(1.0,)),
    "buckets out of order": family(kind="histogram", bounds=(2.0, 1.0, math.inf)),
    "a bucket of NaN": family(kind="histogram", bounds=(math.nan, math.inf)),
    "buckets of a counter": family(bounds=INFINITE),
    "more buckets than a record has room for": family(kind="histogram", bounds=[*map(float, range(130_000)), math.inf]),
    "an enum without states": family(kind="enum"),
    "states that are the same": family(kind="enum", states=("a", "a")),
    "states of a counter": family(states=("a",)),
    "a name with a line break": family(name='x 1\nfake{a="b"} 2\n#'),
    "no name": family(name=""),
    "a name with a surrogate": family(name="xyzw").replace(b"xyzw", b"x\xed\xa0\x80"),
    "help with a surrogate": family(help="xyz").replace(b"xyz", b"\xed\xbf\xbf"),
    "a name that is no text": family(name="xyzw").replace(b"xyzw", b"\xff\xfe\xfd\xfc"),
    "a unit with a line break": family(unit="s\n# EOF"),
    "a unit that is not the name's": family(unit="seconds"),
    "labels that are the same": family(labels=("x", "x")),
    "a label with a quote": family(labels=('x="1",y',)),
    "a label that buckets have": family(kind="histogram", bounds=INFINITE, labels=("le",)),
    "a label that workers have": family(kind="gauge", mode="all", labels=("worker",)),
    "an original that no instrument has": family(original="x\ny", labels=()),
    "a scope of a later release": family(scope="cluster"),
    "a temporality of a later release": family(temporality="lowmemory"),
    "the number of another": family(0),
    "a number past all bounds": family((1 << 32) - 1),
    "more labels than there are": struct.pack("=IIQIII", FRESH, 0, 1, (1 << 32) - 1, 0, 0),
    "more bounds than there are": struct.pack("=IIQIII", FRESH, 0, 1, 0, 0, 1 << 31) + bytes(64),
    "longer texts than there are": struct.pack("=IIQIII10I", FRESH, 0, 1, 0, 0, 0, *[1 << 30] * 10),
    "fewer texts than there are": struct.pack("=IIQIII", FRESH, 0, 1, 0, 0, 0),
    "something behind it": family() + b"more",
    "half of it": family()[:20],
    "half a head": family()[:10],
    "nothing": b"",
}

LATEST = (1 << 64) - 1
SERIES: dict[str, bytes] = {
    "words at the end of the world": series(first=1 << 40),
    "words past all bounds": series(first=LATEST),
    "a sum of words that overflows": series(first=LATEST, width=1),
    "words in the head": series(first=9),
    "words in the records": series(first=fmt.AREA_0 // 8 + 4),
    "words past the end": series(first=fmt.AREA_0 // 8 - 1),
    "another's words": series(first=fmt.FIRST_WORD),
    "a width that is not its family's": series(width=2),
    "no width": series(width=0),
    "a width past all bounds": series(width=(1 << 32) - 1),
    "a family that is not there": series(number=77),
    "a family past all bounds": series(number=(1 << 32) - 1),
    "no values": series(texts()),
    "too many values": series(texts("a", "b")),
    "a name and a value more": series(texts("a", "b", "c")),
    "a value with a surrogate": series(texts(b"\xed\xa0\x80")),
    "a value that is no text": series(texts(b"\xff")),
    "a value that is too long a form": series(texts(b"\xc0\x80")),
    "half a value": series(texts("fresh")[:-2]),
    "more than its values": series(texts("fresh") + b"more"),
    "many values and none of them": series(struct.pack("=H", 0xFFFE)),
    "lengths past the end": series(struct.pack("=HH", 1, 0xFFFF)),
    "half a count": series(b"\1"),
    "made at no time": series(created=math.nan),
    "made at the end of time": series(created=math.inf),
    "a head alone": series(b""),
    "half a head": series()[:20],
    "nothing": b"",
}

REMOVALS: dict[str, bytes] = {
    "a generation before the series": removal(0),
    "a generation past the last": removal(LATEST),
    "labels without a value": removal(2, texts("hits", "code")),
    "no metric": removal(2, texts()),
    "a metric that is not there": removal(2, texts("misses", "code", "200")),
    "labels that are not there": removal(2, texts("hits", "color", "200"), fmt.SUBSET),
    "texts that are none": removal(2, texts("hits", b"\xff", "200")),
    "lengths past the end": removal(2, struct.pack("=HH", 3, 0xFFFF)),
    "a head alone": removal(2, b""),
    "half a head": removal(2)[:9],
    "nothing": b"",
}


@pytest.mark.parametrize("what", FAMILIES)
def test_a_family_that_makes_no_sense(what: str, store: Any, differ: Differ, caplog: pytest.LogCaptureFixture) -> None:
    """A senseless family is left out with its series, counted and named; both collectors show the rest unchanged."""
    store.append("live", fmt.FAMILY, FAMILIES[what])
    store.append("live", fmt.SERIES, series())
    for values, figures in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
        assert figures["damaged_records[]"] in (1, 2)  # its series may have no family
        assert 0 == figures["unreadable_files[]"]
    said = [each for each in caplog.records if f"{store.where('live')}: some of its records" in each.getMessage()]
    assert len(said) == 2
    assert {logging.WARNING} == {each.levelno for each in said}


@pytest.mark.parametrize("what", SERIES)
def test_a_series_that_makes_no_sense(what: str, store: Any, differ: Differ) -> None:
    """A senseless series is left out and counted; both collectors show the rest unchanged."""
    store.append("live", fmt.FAMILY, family())
    store.append("live", fmt.SERIES, SERIES[what])
    for values, figures in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
        assert 1 == figures["damaged_records[]"]


@pytest.mark.parametrize("what", ["within", "at the end", "around", "the same again"])
def test_series_that_overlap(what: str, store: Any, differ: Differ) -> None:
    """Of two series that claim the same words, the first has them; the second is left out, in the retired file too."""
    store.append("live", fmt.FAMILY, family(kind="histogram", bounds=(1.0, math.inf)))
    store.append("live", fmt.SERIES, series(texts("first"), width=4))
    first = {"within": FREE + 1, "at the end": FREE + 3, "around": FREE - 3, "the same again": FREE}[what]
    _, figures = store.early.values()
    assert 0 == figures["damaged_records[]"]
    store.append("live", fmt.SERIES, series(texts("second"), first=first, width=4))
    for values, figures in (store.fresh(), store.early.values()):
        assert {"first"} == {name.split("'")[-2] for name in differ(store.whole, values) if "le" not in name}
        assert 1 == figures["damaged_records[]"]


def test_an_end_frees_the_words_of_its_series_alone(store: Any, differ: Differ) -> None:
    """An END of no series, or half an END, changes nothing; after a valid END its words are free."""
    for body, damaged in ((b"", 1), (b"\1" * 7, 2), (bytes(9), 3), (struct.pack("=Q", 1 << 60), 3), (bytes(8), 3)):
        store.append("live", fmt.END, body)
        for values, figures in (store.fresh(), store.early.values()):
            assert (set(), damaged) == (differ(store.whole, values), figures["damaged_records[]"])
    store.append("live", fmt.FAMILY, family())
    store.append("live", fmt.SERIES, series(texts("first")))
    store.append("live", fmt.END, struct.pack("=Q", FREE))
    store.append("live", fmt.SERIES, series(texts("second")))
    for values, figures in (store.fresh(), store.early.values()):
        assert ({"fresh_total[('x', 'second')]"}, 3) == (differ(store.whole, values), figures["damaged_records[]"])


@pytest.mark.parametrize("what", REMOVALS)
def test_a_removal_that_makes_no_sense(what: str, store: Any, differ: Differ) -> None:
    """A senseless removal removes nothing, and the removals after it are read."""
    store.append("removals", fmt.REMOVE, REMOVALS[what])
    for values, _ in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
    store.append("removals", fmt.REMOVE, removal(3, texts("hits", "code", "404")))
    for values, figures in (store.fresh(), store.early.values()):
        assert what == "a generation past the last" or {"hits_total[('code', '404')]"} == differ(store.whole, values)
        assert 0 == figures["unreadable_files[]"]


@pytest.mark.parametrize("name", ['x="1",y', "a\nb 1\n#", "\\", "{", "", "le", "é", "x" * 60_000, "\0"])
@pytest.mark.parametrize("value", ["", '"', "\n# EOF\n", "\\", "é" * 30_000, "\0"])
def test_open_labels_with_odd_names(name: str, value: str, store: Any, differ: Differ) -> None:
    """Attributes may have any name: none breaks a line of the text, in any format."""
    store.append("live", fmt.FAMILY, family(original="fresh", labels=()))
    store.append("live", fmt.SERIES, series(texts(name, value)))
    values, figures = store.fresh()  # parsed by Prometheus' own parser
    assert (0 if name else 1) == figures["damaged_records[]"]
    assert {"fresh_total"} >= {each.partition("[")[0] for each in differ(store.whole, values)}
    body = store.early.scrape("application/openmetrics-text").decode()
    assert body.endswith("# EOF\n")
    assert 1 == body.count("\n# EOF\n")


@needs_limit
def test_a_series_at_the_last_word_takes_little_memory(store: Any, differ: Differ, in_process: InProcess) -> None:
    """A series at the last possible word, in an area of holes, costs a scrape and a fold little memory."""
    last = fmt.AREA_0 // 8 - 1
    store.append("dead", fmt.FAMILY, family())
    store.put_word("dead", fmt.WORDS_END, fmt.AREA_0)
    store.append("dead", fmt.SERIES, series(first=last))
    store.let_fold()

    def work() -> None:
        for _ in range(2):
            values, figures = store.fresh()
            assert 0 == figures["damaged_records[]"] == figures["unreadable_files[]"]
            assert {"fresh_total", "all"} >= {each.partition("[")[0] for each in differ(store.whole, values)}
        assert not os.path.exists(store.where("dead"))
        assert os.stat(store.where("retired")).st_blocks * 512 < MEGABYTES

    assert "" == in_process(work, limit=LIMIT)


@needs_limit
def test_sizes_in_a_head_are_not_trusted(store: Any, differ: Differ, in_process: InProcess) -> None:
    """Whatever sizes a head claims, readers touch only bytes that the file has, and allocate no more than that."""
    huge = [1 << 26, 1 << 40, 1 << 63, LATEST, LATEST - 7]

    def work() -> None:
        for what in ("live", "dead", "retired"):
            for word in (fmt.WORDS_END, fmt.COMMITTED, fmt.ROOM):
                for value in huge:
                    store.put_word(what, word, value)
                    values, figures = store.fresh()
                    is_missing = bool(figures["unreadable_files[]"] + figures["damaged_records[]"])
                    assert differ(store.whole, values) <= differ(store.whole, store.without[what]), (what, word, value)
                    assert is_missing or set() == differ(store.whole, values), (what, word, value)
                    store.early.values()
                    store.restore(what)
        assert set() == differ(store.whole, store.early.values()[0])

    assert "" == in_process(work, limit=LIMIT)


@needs_limit
def test_files_of_absurd_size_are_not_read(store: Any, differ: Differ, in_process: InProcess) -> None:
    """A file that ends in a terabyte of holes is read up to its last data, in bounded memory."""

    def work() -> None:
        for what in ("retired", "live", "dead", "removals"):
            os.truncate(store.where(what), 1 << 40)
            for values, figures in (store.fresh(), store.early.values()):
                assert differ(store.whole, values) in (set(), differ(store.whole, store.without.get(what, store.whole)))
                assert figures["unreadable_files[]"] or set() == differ(store.whole, values)
            store.restore(what)
        os.truncate(store.where("shared"), 1 << 40)
        assert 1 == store.fresh()[1]["unreadable_files[]"]

    assert "" == in_process(work, limit=LIMIT)


@needs_limit
def test_bytes_that_look_like_records_everywhere_are_not_searched_for_ever(
    store: Any, differ: Differ, in_process: InProcess
) -> None:
    """The search through heads that each claim a megabyte has a limit; what was read before stays."""
    head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, 1 << 20, 1, fmt.SERIES)
    junk = (head + bytes(16)) * (1 << 18)
    end = store.word("live", fmt.COMMITTED)
    store.patch("live", fmt.AREA_0 + end, junk)
    store.put_word("live", fmt.COMMITTED, end + len(junk))

    def work() -> None:
        values, figures = store.fresh()
        assert set() == differ(store.whole, values)
        assert 1 == figures["damaged_records[]"]

    assert "" == in_process(work, limit=LIMIT)


@needs_limit
def test_a_gauge_of_very_many_workers_takes_bounded_memory(
    store: Any, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gauge of mode ``all`` takes memory for the values it has, not for its series times all workers ever."""
    rows, workers = 4000, 20_000
    store.append("retired", fmt.FAMILY, family(kind="gauge", mode="all"))
    pairs = [pair for ordinal in range(workers) for pair in (struct.pack("=Qd", ordinal, 1.5))]
    first = 100_000 // 8 * 8
    store.patch("retired", 8 * first, bytes(pairs))
    store.put_word("retired", fmt.WORDS_END, 8 * first + len(pairs))
    for row in range(rows):
        each = workers // rows
        place = first + row * 2 * each
        store.append("retired", fmt.SERIES, series(texts(str(row)), width=2 * each, first=place))

    def work() -> None:
        values, _ = store.fresh()
        assert workers == sum(name.startswith("fresh[") and value == 1.5 for name, value in values.items())

    assert "" == in_process(work, limit=LIMIT)
    store.let_fold()
    assert "" == in_process(work, limit=LIMIT)
    assert not os.path.exists(store.where("dead"))
    if _cells.TWIN == "compiled":  # the control: there, all values of a table are one vector
        monkeypatch.setattr("mpmetrics.collector.merge.MOST_CELLS", 1 << 40)
        assert "MemoryError" in in_process(store.fresh, limit=200 * MEGABYTES)


def test_damaged_records_keep_the_dead_where_they_are(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slab with damage is not folded: a collector that knew the damaged series goes on showing all of it.

    Once the dead are many, it is: then, as the control shows, its share of the damaged series is lost, and no more.
    """
    (record,) = [record for record in store.records["dead"] if record.family == "hits" and record.key == ("404",)]
    store.flip("dead", record.start + 20, 0xFF)
    store.let_fold()

    values, figures = store.fresh()

    assert set() == differ(store.expected("dead", [record]), values)
    assert 1 == figures["damaged_records[]"]
    assert os.path.exists(store.where("dead"))
    assert set() == differ(store.whole, store.early.values()[0])

    monkeypatch.setattr("mpmetrics.storage.fold.DAMAGED_AT", 1)
    values, _ = store.early.values()
    assert not os.path.exists(store.where("dead"))
    changed = {name for name in differ(store.whole, values) if not name.startswith("live")}
    assert store.samples_of(record) == changed


@pytest.mark.parametrize("field", ["families", "series", "slabs"])
def test_a_retired_file_with_damage_is_not_written_over(field: str, store: Any, differ: Differ) -> None:
    """Senseless records of the retired file are left out and counted, and the file is kept while the dead are few."""
    kind, body = {
        "families": (fmt.FAMILY, family(kind="exponential")),
        "series": (fmt.SERIES, series(number=77)),
        "slabs": (fmt.FOLDED, b"short"),
    }[field]
    store.append("retired", kind, body)
    store.let_fold()
    inode = os.stat(store.where("retired")).st_ino
    values, figures = store.fresh()
    assert (set(), 1) == (differ(store.whole, values), figures["damaged_records[]"])
    assert inode == os.stat(store.where("retired")).st_ino
    assert os.path.exists(store.where("dead"))


numbers = st.one_of(st.integers(0, 60), st.sampled_from([1 << 16, 1 << 27, (1 << 32) - 1]))
odd = st.sampled_from([0, 1 << 23, 1 << 40, 1 << 63, LATEST])
words = st.one_of(st.integers(500, 800), st.integers(2200, 2500), odd)
names = st.one_of(
    st.sampled_from(["", "x", "y", "200", "404", "hits", "le", "worker", 'a"b\n', "registry/timer/r/x"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
labels = st.one_of(st.sampled_from([(), ("x",), ("x", "y")]), st.lists(names, max_size=3).map(tuple))
bounds = st.one_of(st.sampled_from([(), (1.0, math.inf)]), st.lists(st.floats(), max_size=4).map(tuple))
families = st.builds(
    family,
    numbers,
    words,
    name=st.one_of(st.sampled_from(["fresh", "other", "hits", "sizes", "registry/timer/r/x"]), names),
    kind=st.sampled_from([*family_module._MODES, "exponential"]),
    help=names,
    unit=st.one_of(st.just(""), names),
    labels=labels,
    mode=st.sampled_from(["", *sorted(family_module._MODES["gauge"]), *LAYOUTS, "median"]),
    bounds=bounds,
    states=st.one_of(st.sampled_from([(), ("a", "b")]), st.lists(names, max_size=3).map(tuple)),
    original=st.one_of(st.just(""), st.sampled_from(["fresh", "a.b"]), names),
    scope=st.sampled_from(["", "host", "worker", "moon"]),
    temporality=st.sampled_from(["", "cumulative", "delta", "observed", "x"]),
    role=st.sampled_from(["", "", "", "timer", "counter", "gauge", "x"]),
    origin=names,
)
keys = st.one_of(
    st.lists(names, max_size=5).map(lambda each: texts(*each)), st.just(b"\xff\xff"), st.binary(max_size=9)
)
serieses = st.builds(
    series,
    keys,
    number=numbers,
    width=st.one_of(st.integers(0, 6), numbers),
    first=words,
    created=st.floats(),
    generation=words,
)
bodies = st.one_of(
    st.tuples(st.just(fmt.FAMILY), families),
    st.tuples(st.just(fmt.SERIES), serieses),
    st.tuples(st.just(fmt.END), words.map(lambda word: struct.pack("=Q", word))),
    st.tuples(st.integers(0, 9), st.binary(max_size=40)),
)
unhurried = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@unhurried
@given(st.sampled_from(["live", "dead", "retired"]), st.lists(bodies, min_size=1, max_size=6))
def test_any_records_with_right_checksums(
    store: Any, differ: Differ, what: str, written: list[tuple[int, bytes]]
) -> None:
    """With any records added, every scrape is whole in both formats, and earlier values are unchanged."""
    if store.is_late:
        return
    for kind, body in written:
        store.append(what, kind, body)
    try:
        fresh, _ = store.fresh()
        early, _ = store.early.values()
        store.early.scrape("application/openmetrics-text")
        assert what == "retired" or set() == differ(early, fresh), written  # that one is read once
        kinds = {kind for kind, _ in written}
        # A record may well end a series, or declare one of these names in another way, or count in a series of it.
        lost = {name for name in store.whole if name in differ(store.whole, fresh)}
        assert not lost or kinds & {fmt.FAMILY, fmt.SERIES, fmt.END}, (lost, written)
        assert fold(store.path, at_least=0) == 0
    finally:
        store.early.close()
        store.restore(what)


@unhurried
@given(st.lists(st.one_of(st.binary(max_size=60), st.builds(removal, words, keys, st.integers(0, 3))), max_size=6))
def test_any_removals_with_right_checksums(store: Any, written: list[bytes]) -> None:
    """Any removals take effect or do not: every scrape is whole, and what is left has its right numbers."""
    if store.is_late:
        return
    for body in written:
        store.append("removals", fmt.REMOVE, body)
    try:
        values, figures = store.fresh()
        assert 0 == figures["unreadable_files[]"]
        assert values.items() <= {**store.whole, **values}.items()
        store.early.values()
    finally:
        store.early.close()
        store.restore("removals")
        store.restore("shared")


@unhurried
@given(st.sampled_from(["retired", "live", "dead", "shared", "removals"]), st.data())
def test_any_bytes_in_any_place(store: Any, what: str, data: st.DataObject) -> None:
    """With random bytes anywhere in any file, and with shorter or longer files, every scrape is whole."""
    size = store.files[what][0]
    patches = []
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.sampled_from([0, 4096, fmt.AREA_0] if what in store.records else [0]))
        at = start + data.draw(st.integers(0, 6000 if what in store.records else 4096))
        junk = data.draw(st.one_of(st.binary(min_size=1, max_size=24), st.sampled_from([bytes(64), b"\xff" * 64])))
        patches.append((at, junk))
    cut = data.draw(st.one_of(st.none(), st.integers(0, size), st.integers(0, 1 << 20)))
    if store.is_late:  # here, as what is drawn must not depend on time
        return
    for at, junk in patches:
        store.patch(what, at, junk)
    if cut is not None:
        os.truncate(store.where(what), cut)
    try:
        store.fresh()
        if what != "shared" or cut is None:  # that is mapped: a cut would end its processes
            store.early.values()
            store.early.scrape("application/openmetrics-text")
    finally:
        store.early.close()
        store.restore(what)


def test_without_the_checks_the_same_records_spoil_the_scrape(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a family that is not checked makes the scrape fail, or adds lines of its own to it."""
    monkeypatch.setattr(Family, "check", lambda _: None)
    store.append("live", fmt.FAMILY, FAMILIES["a unit with a line break"])
    assert 2 == store.early.scrape("application/openmetrics-text").count(b"\n# EOF\n")
    store.early.close()
    store.restore("live")
    store.append("live", fmt.FAMILY, FAMILIES["a histogram without buckets"])
    store.append("live", fmt.SERIES, series(width=3))
    with pytest.raises((IndexError, ValueError)):
        store.fresh()
    assert reader_module.Family is Family
