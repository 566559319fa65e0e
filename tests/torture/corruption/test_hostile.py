"""Records and files whose checksums are right and whose contents make no sense: of a bug, or of another release.

None may take the scrape down, take memory without bound, spoil the text that a scraper reads, or change what others
counted. Each is counted and named.
"""

from __future__ import annotations

import json
import logging
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpmetrics._cells import LAYOUTS
from mpmetrics.storage import catalog as catalog_module
from mpmetrics.storage import family as family_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage import records
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.family import Family
from mpmetrics.storage.fold import fold
from mpmetrics.storage.retired import Retired, load_retired, write_retired

Differ = Callable[[dict[str, float], dict[str, float]], set[str]]
InProcess = Callable[..., str]

EXAMPLES = 120 + int(50 * float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0")))
HUGE = 10**400
HITS = 0
"""Number of the family ``hits`` of the reference store, which has one label."""


def family(**fields: object) -> list[object]:
    """The body of a FAMILY record, of a counter but for ``fields``."""
    return [50, Family("fresh", "counter", "", labels=("x",)).dump() | fields]


def series(**fields: object) -> list[object]:
    """The body of a SERIES record of ``hits``, in slots of its own but for ``fields``."""
    body = {"family": HITS, "key": ["fresh"], "first": 9000, "width": 1, "created": 1.0, "generation": 1, "serial": 900}
    return list((body | fields).values())


def nested(depth: int) -> bytes:
    """Lists in lists."""
    return b"[" * depth + b"]" * depth


FAMILIES: dict[str, list[object]] = {
    "a kind of a later release": family(kind="exponential"),
    "a mode of a later release": family(kind="gauge", mode="median"),
    "a layout of a later release": family(kind="sketch", mode="bytes", role="timer", name="registry/timer/r/x"),
    "a role of a later release": family(role="ratio", name="registry/ratio/r/x", labels=[]),
    "a role without its name": family(role="counter", labels=[]),
    "a role of another kind": family(role="timer", name="registry/timer/r/x", labels=[]),
    "a sketch outside a registry": family(kind="sketch", mode="duration"),
    "a histogram without buckets": family(kind="histogram"),
    "a histogram without the infinite bucket": family(kind="histogram", bounds=["0x1p0"]),
    "buckets out of order": family(kind="histogram", bounds=["0x1p1", "0x1p0", "inf"]),
    "a bucket of NaN": family(kind="histogram", bounds=["nan", "inf"]),
    "a bucket past all numbers": family(kind="histogram", bounds=["0x1p99999", "inf"]),
    "buckets of numbers": family(kind="histogram", bounds=[1.0, math.inf]),
    "buckets of nothing": family(kind="histogram", bounds=None),
    "buckets of a counter": family(bounds=["inf"]),
    "more buckets than a segment has words": family(
        kind="histogram", bounds=[float(n).hex() for n in range(50_000)] * 3 + ["inf"]
    ),
    "an enum without states": family(kind="enum"),
    "states that are the same": family(kind="enum", states=["a", "a"]),
    "states of a counter": family(states=["a"]),
    "a name with a line break": family(name='x 1\nfake{a="b"} 2\n#'),
    "no name": family(name=""),
    "a name that is no text": family(name=5),
    "a name with a surrogate": family(name="x\ud800"),
    "help with a surrogate": family(help="\udfff"),
    "help that is no text": family(help=["x"]),
    "a unit with a line break": family(unit="s\n# EOF"),
    "a unit that is not the name's": family(unit="seconds"),
    "labels that are the same": family(labels=["x", "x"]),
    "labels that are text": family(labels="xy"),
    "labels that are numbers": family(labels=[1]),
    "a label with a quote": family(labels=['x="1",y']),
    "a label that buckets have": family(kind="histogram", bounds=["inf"], labels=["le"]),
    "a label that workers have": family(kind="gauge", mode="all", labels=["worker"]),
    "an original that no instrument has": family(original="x\ny", labels=[]),
    "a scope of a later release": family(scope="cluster"),
    "a temporality of a later release": family(temporality="lowmemory"),
    "the name of another": family(name="hits"),
    "a name that samples of another have": family(name="sizes_bucket", kind="gauge", mode="sum"),
    "the number of another": [0, *family()[1:]],
    "a number that is none": [-1, *family()[1:]],
    "half a number": [1.5, *family()[1:]],
    "a number that is true": [True, *family()[1:]],
    "a number of text": ["x", *family()[1:]],
    "a number past all bounds": [HUGE, *family()[1:]],
    "fields that are a list": [50, []],
    "fields that are missing": [50, {"name": "fresh"}],
    "too little": [50],
    "too much": [*family(), 1],
    "nothing": [],
}

SERIES: dict[str, list[object] | bytes] = {
    "slots at the end of the world": series(first=1 << 40),
    "slots past the limit of all": series(first=fmt.MAX_SLOTS - 1),
    "slots that are not there": series(first=-1),
    "slots past all bounds": series(first=HUGE),
    "slots of a float": series(first=9000.0),
    "slots of text": series(first="9000"),
    "slots of a list": series(first=[1]),
    "another's slots": series(first=0),
    "another's slots, but earlier": series(first=0, generation=0, serial=0),
    "slots within another's": series(family=17, first=None),
    "slots across two segments": series(first=None, width=None),
    "a width that is not its family's": series(width=2),
    "no width": series(width=0),
    "a width past all bounds": series(width=1 << 60),
    "a width of a float": series(width=1.0),
    "a family that is not there": series(family=77),
    "a family of a float": series(family=0.0),
    "a family of a list": series(family=[]),
    "too few values": series(key=[]),
    "too many values": series(key=["a", "b"]),
    "values of numbers": series(key=[1]),
    "values of text": series(key="x"),
    "a value with a surrogate": series(key=["\ud800"]),
    "values of lists": series(key=[[]]),
    "values that are there already": series(key=["200"]),
    "made at no time": series(created=math.nan),
    "made at the end of time": series(created=math.inf),
    "made past all bounds": series(created=HUGE),
    "made on a Monday": series(created="Monday"),
    "a generation past all bounds": series(generation=1 << 63),
    "a negative generation": series(generation=-1),
    "a generation of a float": series(generation=1e300),
    "a serial past all bounds": series(serial=HUGE),
    "a negative serial": series(serial=-5),
    "nested for ever": nested(20_000),
    "an object": b'{"family": 0}',
    "a number": b"5",
    "a number of many digits": b"[" + b"9" * 5000 + b"]",
    "half of something": b'[0,["x"]',
    "bytes that are no text": b"[\xff\xfe]",
    "nothing": b"",
}

REMOVALS: dict[str, list[object]] = {
    "a generation past all bounds": [1 << 63, [0]],
    "a generation of text": ["x", [0]],
    "a generation before the series": [0, [0]],
    "a negative generation": [-1, [0]],
    "slots that are a number": [5, 0],
    "slots that are text": [5, "0"],
    "slots of lists": [5, [[0]]],
    "slots of floats": [5, [0.0]],
    "too little": [5],
    "a free range over a series": [1, 0, 1, 1],
}


@pytest.mark.parametrize("what", FAMILIES)
def test_a_family_that_makes_no_sense(what: str, store: Any, differ: Differ, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out with all its series, counted and named; both collectors show the rest as it is."""
    store.append(fmt.FAMILY, FAMILIES[what])
    store.append(fmt.SERIES, series(family=50))
    for values, figures in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
        assert figures["damaged_records[]"] in (1, 2)  # its series have no family, or make no sense in another
    said = [each for each in caplog.records if "series: up to byte" in each.getMessage()]
    assert len(said) in (2, 4)
    assert {logging.WARNING} == {each.levelno for each in said}


@pytest.mark.parametrize("what", SERIES)
def test_a_series_that_makes_no_sense(what: str, store: Any, differ: Differ) -> None:
    """It is left out and counted; both collectors show the rest as it is, and so does a fold."""
    body = SERIES[what]
    known = {each.first: each for each in store.early.collector.snapshot().catalog.by_slot.values()}
    wide = next(each for each in known.values() if each.width > 4)
    if what == "slots within another's":
        body = series(first=wide.first + 1)
    elif what == "slots across two segments":
        body = series(family=wide.family, first=495, width=wide.width, key=["z"])
    store.append(fmt.SERIES, body)
    for values, figures in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
        assert 1 == figures["damaged_records[]"]


@pytest.mark.parametrize("what", REMOVALS)
def test_a_removal_that_makes_no_sense(what: str, store: Any, differ: Differ) -> None:
    """It removes nothing, and gives no slots away."""
    store.append(fmt.FREE if "free" in what else fmt.REMOVED, REMOVALS[what])
    for values, figures in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
        assert 1 == figures["damaged_records[]"]


def test_a_lost_removal_does_not_mix_two_series(store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later series in exactly the slots of one that is there, among damage: that one was removed, and is gone."""
    (made,) = [record for record in store.records if record.key == ("gone",)]
    _, _, first, *_, serial = json.loads(store.files["series"][made.start + 16 : made.end].rstrip(b"\0"))
    (removal,) = [record for record in store.records if record.kind == fmt.REMOVED]
    store.patch("series", removal.start + 20, b"\xff")
    assert "hits_total[('code', 'gone')]" in store.fresh()[0]
    store.append(fmt.SERIES, series(first=first, generation=1, serial=serial + 500))

    values, figures = store.fresh()

    assert 2 == figures["damaged_records[]"]
    assert ["fresh"] == [name.split("'")[3] for name in differ(store.whole, values)]
    assert {"fresh"} == {name.split("'")[3] for name in differ(store.whole, store.early.values()[0])}
    monkeypatch.setattr(Catalog, "_claim", lambda *_: None)  # the control
    assert {"gone", "fresh"} <= {name.split("'")[3] for name in store.fresh()[0] if name.startswith("hits")}


def test_the_most_that_is_believed_is_little(store: Any, differ: Differ, in_process: InProcess) -> None:
    """A series as far away as can be costs some megabytes: with a fold, with private series, in a scrape."""
    store.append(fmt.SERIES, series(first=store.word(fmt.NEXT_SLOT) + fmt.MAX_GAP - 8))
    store.let_fold()

    def work() -> None:
        values, figures = store.fresh()
        assert 0 == figures["damaged_records[]"]
        assert all("fresh" in name or name.startswith("live") for name in differ(store.whole, values))
        assert 0 == fold(store.path, at_least=0)
        assert os.path.getsize(store.where("retired")) < 1 << 20

    assert "" == in_process(work, limit=400 << 20)


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer's own memory has no limit")
def test_without_bounds_one_record_takes_all_memory(
    store: Any, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same limit of memory ends the scrape when slots may be anywhere."""
    monkeypatch.setattr(fmt, "MAX_SLOTS", 1 << 45)
    monkeypatch.setattr(fmt, "MAX_GAP", 1 << 45)
    store.append(fmt.SERIES, series(first=1 << 40))

    assert "MemoryError" in in_process(store.fresh, limit=400 << 20)


def sparse(where: str, head: bytes, size: int) -> None:
    """A file of ``size`` bytes that takes no room."""
    with open(where, "r+b") as file:
        file.write(head)
        file.truncate(size)


def test_files_of_absurd_size_are_not_read(store: Any, differ: Differ, in_process: InProcess) -> None:
    """A terabyte of nothing in each kind of file: refused or read as far as there is something, in bounded memory."""
    terabyte = 1 << 40
    head = store.files["retired"]
    slots = fmt.RETIRED_HEAD.pack(fmt.RETIRED_MAGIC, 1, 64, 1 << 36, 0, 1, 1, 0)

    def work() -> None:
        store.early.close()
        sparse(store.where("retired"), head, terabyte)
        assert set() == differ(store.without["retired"], store.fresh()[0])
        sparse(store.where("retired"), slots + zlib.crc32(slots).to_bytes(4, fmt.BYTE_ORDER), 64 + (1 << 40))
        assert set() == differ(store.without["retired"], store.fresh()[0])
        store.restore("retired")
        for what in ("live", "dead"):
            sparse(store.where(what), store.files[what], terabyte)
            assert set() == differ(store.whole, store.fresh()[0])
            store.put_word(what, fmt.CAPACITY, fmt.MAX_CAPACITY)  # as large as a slab can be
            assert differ(store.whole, store.fresh()[0]) in (set(), differ(store.whole, store.without[what]))
            store.put_word(what, fmt.CAPACITY, terabyte)
            assert set() == differ(store.without[what], store.fresh()[0])
            store.restore(what)
        sparse(store.where("series"), store.files["series"], terabyte)
        assert set() == differ(store.whole, store.fresh()[0])
        for committed in (fmt.MAX_SERIES_FILE, terabyte, (1 << 64) - 8):
            store.put_word("series", fmt.COMMITTED, committed)
            values, figures = store.fresh()
            assert 1 <= figures["damaged_records[]"]
            assert {name for name in differ(store.whole, values) if "'gone'" not in name} == set()

    assert "" == in_process(work, limit=900 << 20)


def test_bytes_that_look_like_records_everywhere_are_not_searched_for_ever(
    store: Any, differ: Differ, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads that each claim a megabyte: the search has a bound, and what was read before stands."""
    head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, 1 << 20, 1, fmt.SERIES)
    step = head + b"[" + b"]" * 15
    data = store.files["series"] + step * (1 << 17)
    store.write("series", data)
    store.put_word("series", fmt.COMMITTED, len(data))

    def work() -> None:
        values, figures = store.fresh()
        assert set() == differ(store.whole, values)
        assert 1 == figures["damaged_records[]"]

    assert "" == in_process(work, limit=400 << 20)

    computed = 0

    def count(text: bytes, start: int = 0) -> int:
        nonlocal computed
        computed += len(text)
        return 0 if start == fmt.SERIES else zlib.adler32(text)

    monkeypatch.setattr(records.zlib, "crc32", count)
    list(records.decode_records(step * (1 << 17)))
    assert computed <= records.PATIENCE + (9 << 22) + (2 << 20)
    monkeypatch.setattr(records, "PATIENCE", 1 << 40)  # the control
    computed = 0
    list(records.decode_records(step * (1 << 13) + b"]" * (1 << 20)))
    assert computed > records.fmt.MAX_BODY * 2


BORN = {"0" * 16: 1}

TAILS: dict[str, object] = {
    "nested for ever": nested(20_000),
    "no object": b"[]",
    "no JSON": b"{",
    "names that no slab has": {"slabs": ["x"], "all": [], "folded": 1, "births": BORN},
    "names that are text": {"slabs": "ab" * 16, "all": [], "folded": 1, "births": BORN},
    "names that are lists": {"slabs": [[]], "all": [], "folded": 1, "births": BORN},
    "folded past all bounds": {"slabs": [], "all": [], "folded": HUGE, "births": BORN},
    "folded of text": {"slabs": [], "all": [], "folded": "1", "births": BORN},
    "folded below zero": {"slabs": [], "all": [], "folded": -1, "births": BORN},
    "a slot past all bounds": {"slabs": [], "all": [[HUGE, 0, "0x1p0"]], "folded": 1, "births": BORN},
    "a slot of NaN": {"slabs": [], "all": [[math.nan, 0, "0x1p0"]], "folded": 1, "births": BORN},
    "a worker past all bounds": {"slabs": [], "all": [[0, math.inf, "0x1p0"]], "folded": 1, "births": BORN},
    "a value past all numbers": {"slabs": [], "all": [[0, 0, "0x1p99999"]], "folded": 1, "births": BORN},
    "a value of a number": {"slabs": [], "all": [[0, 0, 1.0]], "folded": 1, "births": BORN},
    "values of two": {"slabs": [], "all": [[0, 0]], "folded": 1, "births": BORN},
    "no births": {"slabs": [], "all": [], "folded": 1, "births": {}},
    "births without names": {"slabs": [], "all": [], "folded": 1, "births": [["0" * 16, 1]]},
    "a birth of a name that none has": {"slabs": [], "all": [], "folded": 1, "births": {"x": 1}},
    "a birth past all bounds": {"slabs": [], "all": [], "folded": 1, "births": {"0" * 16: HUGE}},
    "a birth of text": {"slabs": [], "all": [], "folded": 1, "births": {"0" * 16: "1"}},
    "nothing": {},
}


def rewrite(store: Any, what: object, **head: int) -> None:
    """Put this tail into the retired file, and these numbers into its head, with right checksums."""
    whole = store.files["retired"]
    _, _, _, slots, _, generation, incarnation, _ = fmt.RETIRED_HEAD.unpack_from(whole)
    text = what if isinstance(what, bytes) else json.dumps(what).encode()
    body = whole[64 : 64 + 16 * slots] + text
    fields = {"slots": slots, "tail": len(text), "generation": generation, "incarnation": incarnation} | head
    static = fmt.RETIRED_HEAD.pack(fmt.RETIRED_MAGIC, 1, 64, *fields.values(), zlib.crc32(body))
    store.replace("retired", lambda _: None)
    data = (static + zlib.crc32(static).to_bytes(4, fmt.BYTE_ORDER)).ljust(64, b"\0") + body
    Path(store.where("retired")).write_bytes(data)


def check_refused(store: Any, differ: Differ) -> None:
    """The retired file is refused; a collector that came before shows what it read last, and says so, too."""
    for without, (values, figures) in ((True, store.fresh()), (False, store.early.values())):
        assert set() == differ(store.without["retired"] if without else store.whole, values)
        assert 1 == figures["unreadable_files[]"]


@pytest.mark.parametrize("what", TAILS)
def test_a_tail_of_the_retired_file_that_makes_no_sense(what: str, store: Any, differ: Differ) -> None:
    """The file is refused as a whole, counted, and not overwritten by a fold; who has read it before, goes on."""
    rewrite(store, TAILS[what])
    store.let_fold()
    check_refused(store, differ)
    assert os.path.exists(store.where("dead"))


@pytest.mark.parametrize("field", ["generation", "incarnation", "slots", "tail"])
def test_a_head_of_the_retired_file_that_makes_no_sense(field: str, store: Any, differ: Differ) -> None:
    """Numbers past all bounds with a right checksum."""
    rewrite(store, {"slabs": [], "all": [], "folded": 1, "births": BORN}, **{field: (1 << 64) - 1})
    store.let_fold()
    check_refused(store, differ)


def test_a_retired_file_of_very_many_workers_is_no_table_of_all(
    store: Any, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each series of a gauge of mode ``all`` times each worker that ever was: only what there is, is made."""
    number = next(n for n, each in store.early.collector.snapshot().catalog.families.items() if each.name == "all")
    first = store.word(fmt.NEXT_SLOT)
    for at in range(2000):
        store.append(fmt.SERIES, series(family=number, key=[str(at)], first=first + at, generation=0, serial=500 + at))
    retired = load_retired(store.path)
    for ordinal in range(20_000):
        retired.by_ordinal.setdefault(first + ordinal % 2000, {})[ordinal] = 1.5
    write_retired(store.path, retired, None)

    def work() -> None:
        values, _ = store.fresh()
        assert 20_000 == sum(
            name.startswith("all[") and value == 1.5 for name, value in values.items() if "'y'" not in name
        )

    assert "" == in_process(work, limit=400 << 20)
    if "asan" not in os.environ.get("LD_PRELOAD", ""):
        monkeypatch.setattr("mpmetrics.collector.merge.MOST_CELLS", 1 << 40)  # the control
        assert "MemoryError" in in_process(store.fresh, limit=200 << 20)


texts = st.one_of(
    st.sampled_from(
        ["", "x", "y", "200", "404", "hits", "le", "worker", "\ud800", 'a"b\n', "registry/timer/r/x", "inf"]
    ),
    st.text(max_size=6),
)
numbers = st.one_of(
    st.integers(-2, 60),
    st.sampled_from([1 << 22, 1 << 27, 1 << 40, 1 << 53, 1 << 63, 1 << 64, HUGE, 1.5, math.nan, math.inf, -0.0, True]),
    st.integers(),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
bounds = st.lists(st.one_of(st.sampled_from(["0x1p0", "inf", "nan", "0x1p99999"]), anything), max_size=4)
kinds = st.sampled_from([*family_module._MODES, "exponential"])
modes = st.sampled_from(["", *sorted(family_module._MODES["gauge"]), *LAYOUTS, "median"])
plausible = st.fixed_dictionaries(
    {
        "name": st.one_of(st.sampled_from(["fresh", "other", "hits", "registry/timer/r/x"]), texts),
        "kind": kinds,
        "help": texts,
        "unit": st.one_of(st.just(""), texts),
        "labels": st.one_of(st.sampled_from([[], ["x"], ["x", "y"]]), st.lists(texts, max_size=3), anything),
        "mode": modes,
        "bounds": st.one_of(st.sampled_from([[], ["0x1p0", "inf"]]), bounds),
        "states": st.one_of(st.sampled_from([[], ["a", "b"]]), st.lists(texts, max_size=3)),
        "original": st.one_of(st.just(""), st.sampled_from(["fresh", "a.b"]), texts),
        "scope": st.sampled_from(["", "host", "worker", "moon"]),
        "temporality": st.sampled_from(["", "cumulative", "delta", "observed", "x"]),
        "role": st.sampled_from(["", "", "", "timer", "counter", "gauge", "x"]),
        "origin": texts,
    }
)
family_bodies = st.tuples(st.one_of(st.integers(40, 44), numbers), st.one_of(plausible, anything)).map(list)
keys = st.one_of(
    st.none(), st.lists(texts, max_size=5), st.lists(st.sampled_from(["a", "b", "c"]), max_size=4), anything
)
series_bodies = st.tuples(
    st.one_of(st.integers(0, 44), numbers),
    keys,
    st.one_of(st.integers(500, 2200), numbers),
    st.one_of(st.sampled_from([1, 2, 3, 4, 5]), numbers),
    st.one_of(st.floats(0, 2e9), numbers, anything),
    st.one_of(st.integers(0, 3), numbers),
    st.one_of(st.integers(0, 999), numbers),
).map(list)
bodies = st.one_of(
    st.tuples(st.just(fmt.FAMILY), family_bodies),
    st.tuples(st.just(fmt.SERIES), series_bodies),
    st.tuples(
        st.just(fmt.REMOVED), st.tuples(numbers, st.one_of(st.lists(st.integers(600, 3000)), anything)).map(list)
    ),
    st.tuples(st.just(fmt.FREE), st.tuples(numbers, numbers, numbers, numbers).map(list)),
    st.tuples(st.sampled_from(sorted(fmt.KINDS)), st.lists(anything, max_size=8)),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(bodies, min_size=1, max_size=6))
def test_any_records_with_right_checksums(store: Any, differ: Differ, written: list[tuple[int, Any]]) -> None:
    """Structured fuzz: every scrape is whole, in both formats, and what was there before is as it was."""
    if store.is_late:
        return
    for kind, body in written:
        store.append(kind, body)
    try:
        early, _ = store.early.values()
        fresh, _ = store.fresh()
        store.early.scrape("application/openmetrics-text")
        lost = {name for name in store.whole if name in differ(store.whole, fresh)}
        # A record may well remove a series, or take the slots of one as if its removal were lost.
        assert not lost or any(kind in (fmt.SERIES, fmt.REMOVED) for kind, _ in written), (lost, written)
        assert set() == differ(early, fresh), written
        assert lost.isdisjoint(fresh), written  # but none has another number
        assert fold(store.path, at_least=0) == 0
    finally:
        store.early.close()
        store.restore("series")


def tails() -> st.SearchStrategy[dict[str, object]]:
    """Tails of retired files, near to right ones and far from them."""
    names = st.one_of(st.text("0123456789abcdef", min_size=32, max_size=32), anything)
    births = st.text("0f", min_size=16, max_size=16)
    entry = st.one_of(st.tuples(st.integers(0, 40), st.integers(0, 9), st.floats().map(float.hex)).map(list), anything)
    return st.fixed_dictionaries(
        {
            "slabs": st.one_of(st.lists(names, max_size=3), anything),
            "all": st.one_of(st.lists(entry, max_size=5), anything),
            "folded": st.one_of(st.integers(0, 9), numbers, anything),
            "births": st.one_of(st.just(BORN), st.dictionaries(births, numbers, max_size=3), anything),
        }
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tails())
def test_any_tail_with_right_checksums(store: Any, differ: Differ, tail: dict[str, object]) -> None:
    """Structured fuzz of the retired file: believed or refused as a whole, and the scrape is whole."""
    if store.is_late:
        return
    before, _ = store.early.values()
    rewrite(store, tail)
    try:
        values, figures = store.fresh()
        early, _ = store.early.values()
        if figures["unreadable_files[]"]:
            assert set() == differ(store.without["retired"], values)
            assert set() == differ(before, early)  # what was read last stands
        else:
            assert set() == differ(early, values)
            changed = {name.partition("[")[0] for name in differ(store.whole, values)}
            assert changed <= {"all"}
            assert isinstance(Retired.decode(store.read("retired"), "here"), Retired)
    finally:
        store.put_back("retired")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["series", "retired", "live", "dead"]), st.data())
def test_any_bytes_in_any_place(store: Any, what: str, data: st.DataObject) -> None:
    """Random fuzz: runs of bytes anywhere in any file, and cut or longer files: every scrape is whole."""
    whole = bytearray(store.files[what])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(whole), 6000)))
        junk = data.draw(st.one_of(st.binary(min_size=1, max_size=24), st.sampled_from([bytes(64), b"\xff" * 64])))
        whole[at : at + len(junk)] = junk
    size = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole)), st.integers(0, 1 << 20)))
    if store.is_late:  # here, as what is drawn must not depend on time
        return
    store.write(what, bytes(whole[:size]).ljust(size, b"\0"))
    try:
        store.fresh()
        store.early.values()
        store.early.scrape("application/openmetrics-text")
    finally:
        store.early.close()
        store.restore(what)


def test_without_the_checks_the_same_records_spoil_the_scrape(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: believed, a histogram without buckets takes the scrape down, and slots of another mix values."""
    monkeypatch.setattr(Family, "check", lambda _: None)
    store.append(fmt.FAMILY, FAMILIES["a histogram without buckets"])
    with pytest.raises(IndexError):
        store.fresh()
    store.restore("series")
    monkeypatch.setattr(Catalog, "_take", lambda *_: None)
    monkeypatch.setattr(catalog_module, "_whole", lambda number, _: number)
    store.append(fmt.SERIES, series(first=3))
    assert "hits_total[('code', 'fresh')]" in store.fresh()[0]
