"""Files that are cut short or of which a byte is another: what is intact has its value, the damage shows and is named.

A collector that was open before the damage and one that begins after it are both asked, through the web application.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mpmetrics.storage import format as fmt
from mpmetrics.storage import records

Sweep = Callable[..., Iterator[Any]]
Differ = Callable[[dict[str, float], dict[str, float]], set[str]]

HEADS = {"series": 128, "retired": fmt.RETIRED_HEAD_SIZE, "live": fmt.SLAB_HEAD_SIZE, "dead": fmt.SLAB_HEAD_SIZE}
CHECKED = {"series": 28, "retired": 56, "live": 60, "dead": 60}
"""Bytes of the heads of which a checksum is kept."""

FLIPS = (0x01, 0x80, 0xFF)


def lost_of(store: Any, what: str) -> set[str]:
    """Samples that are not the same without a file."""
    return set(store.whole) if what == "series" else differing(store.whole, store.without[what])


def differing(first: dict[str, float], second: dict[str, float]) -> set[str]:
    """Names of samples that are not the same."""
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


@pytest.mark.parametrize("what", ["retired", "live", "dead"])
def test_a_file_that_is_cut_short_is_as_if_it_were_not_there(
    what: str, store: Any, sweep: Sweep, differ: Differ, caplog: pytest.LogCaptureFixture
) -> None:
    """At every length: the rest has its values, the file is counted, and named once by each collector."""
    whole = store.files[what]
    always = [0, 1, 7, 8, *range(HEADS[what] - 4, HEADS[what] + 4), 4095, 4096, 4097, len(whole) - 1]
    rest = range(len(whole))
    for length in sweep([cut for cut in always if cut < len(whole)], rest):
        store.write(what, whole[:length])
        for values, figures in (store.fresh(), store.early.values()):
            if what == "retired" and (values, figures) != store.fresh():
                assert figures["unreadable_files[]"] in (0, 1)  # it is immutable: what was read of it stands
            if figures["unreadable_files[]"]:
                assert set() == differ(store.without[what], values), length
            else:
                assert what == "retired"
                assert set() == differ(store.whole, values), length
        assert 1 == store.fresh()[1]["unreadable_files[]"], length
        store.restore(what)
    assert set() == differ(store.whole, store.fresh()[0])
    assert set() == differ(store.whole, store.early.values()[0])
    caplog.clear()
    store.write(what, whole[:20])
    for _ in range(3):
        store.early.values()
    said = [record for record in caplog.records if store.where(what) in record.getMessage()]
    assert 1 >= len(said)
    assert all(record.levelno == logging.WARNING for record in said)
    store.fresh()
    assert store.where(what) in caplog.text


def test_a_series_directory_that_is_cut_short_keeps_the_records_before(
    store: Any, sweep: Sweep, differ: Differ, edges: Callable[..., list[int]]
) -> None:
    """At every length from the first record on: what is recorded before the cut has its value, and the damage shows."""
    whole = store.files["series"]
    always = edges(store.records)
    for length in sweep([cut for cut in always if fmt.SERIES_HEAD_SIZE <= cut < len(whole)], range(4096, len(whole))):
        store.write("series", whole[:length])
        values, figures = store.fresh()
        lost: set[str] = set()
        for record in store.records:
            if record.end > length:
                lost |= store.samples_of(record)
        if length >= store.records[-1].end:
            lost = set()
        assert lost >= {name for name in differ(store.whole, values) if "gone" not in name}, length
        assert lost == {name for name in differ(store.whole, values) if "gone" not in name}, length
        assert 1 <= figures["damaged_records[]"] + figures["unreadable_files[]"], length
        values, figures = store.early.values()
        assert figures["unreadable_files[]"] or not differ(store.whole, values), length
        store.restore("series")
        store.early.values()
    assert set() == differ(store.whole, store.fresh()[0])


def test_a_series_directory_without_a_whole_head_is_no_file(store: Any, sweep: Sweep) -> None:
    """Shorter than its head it is counted and named; a collector that has it open does not touch what is gone."""
    whole = store.files["series"]
    for length in sweep([0, 1, 8, 27, 28, 31, 32, 127, 128, 4088, 4095], range(4096)):
        store.write("series", whole[:length])
        for values, figures in (store.fresh(), store.early.values()):
            assert {} == values
            assert (1, 0) == (figures["unreadable_files[]"], figures["store_up[]"])
        store.restore("series")
    assert store.whole == store.fresh()[0]


def flips(offsets: Any) -> list[tuple[int, int]]:
    """Each offset with each change of its byte."""
    return [(offset, flip) for offset in offsets for flip in FLIPS]


def test_a_flipped_byte_of_a_record_costs_that_record_alone(store: Any, sweep: Sweep, differ: Differ) -> None:
    """Every byte of every record: exactly what it records is missing, it is counted, and the rest has its values."""
    whole = store.files["series"]
    for record in sweep(store.records):
        lost = store.samples_of(record)
        shows = record.kind in (fmt.FAMILY, fmt.SERIES) and not record.family.startswith(("registry", "mpmetrics"))
        assert lost or not shows or record.key == ("gone",)
        length = fmt.RECORD_HEAD.unpack_from(whole, record.start)[1]
        text_end = record.start + fmt.RECORD_HEAD.size + length
        always = [(offset, 0x80) for offset in (*range(record.start, record.start + 16, 4), text_end - 1)]
        rest = flips(range(record.start, record.end))
        for offset, flip in sweep(always, rest, 0.05, len(store.records)):
            store.patch("series", offset, bytes([whole[offset] ^ flip]))
            values, figures = store.fresh()
            found = {name for name in differ(store.whole, values) if "'gone'" not in name}
            is_padding = offset >= text_end
            assert (set() if is_padding else lost) == found, (record, offset - record.start, flip)
            assert is_padding or figures["damaged_records[]"] >= 1
            assert 0 == figures["unreadable_files[]"]
            store.patch("series", offset, whole[offset : offset + 1])
        assert set() == differ(store.whole, store.early.values()[0])


@pytest.mark.parametrize("what", HEADS)
def test_a_flipped_byte_of_a_head(what: str, store: Any, sweep: Sweep, differ: Differ) -> None:
    """Where there is a checksum, the file is refused; else nothing is lost that is there."""
    whole = store.files[what]
    lost = lost_of(store, what)
    for offset, flip in sweep(flips(range(HEADS[what]))):
        store.patch(what, offset, bytes([whole[offset] ^ flip]))
        values, figures = store.fresh()
        changed = differ(store.whole, values)
        where = (offset, flip)
        if offset < CHECKED[what]:
            assert lost == changed, where
            assert 1 == figures["unreadable_files[]"], where
        elif what in ("live", "dead") and 64 <= offset < 72:
            assert figures["unreadable_files[]"] == (0 if not changed else 1), where
            assert changed in (set(), lost), where
        else:
            gone = {name for name in changed if "'gone'" not in name}
            # Of the last record alone nobody can tell whether it was ever committed.
            assert gone <= store.samples_of(store.records[-1]), where
            if what == "series" and 32 <= offset < 40:
                assert figures["damaged_records[]"] or values.keys() >= store.whole.keys() - gone
        values, figures = store.early.values()
        if what == "series":
            assert set() == differ(store.whole, values), where
        else:
            assert differ(store.whole, values) in (set(), lost), where
        store.patch(what, offset, whole[offset : offset + 1])
    assert set() == differ(store.whole, store.fresh()[0])


def test_a_flipped_byte_of_the_retired_file_costs_it_alone(store: Any, sweep: Sweep, differ: Differ) -> None:
    """Wherever it is: nothing of the file is believed, and it is not overwritten."""
    whole = store.files["retired"]
    for offset, flip in sweep(flips((64, 71, len(whole) - 1)), flips(range(fmt.RETIRED_HEAD_SIZE, len(whole))), 2.0):
        store.patch("retired", offset, bytes([whole[offset] ^ flip]))
        values, figures = store.fresh()
        assert 1 == figures["unreadable_files[]"], offset
        assert set() == differ(store.without["retired"], values), offset
        store.patch("retired", offset, whole[offset : offset + 1])
    store.patch("retired", 100, bytes([whole[100] ^ 1]))
    store.let_fold()
    store.fresh()
    assert bytes([whole[100] ^ 1]) == store.read("retired")[100:101]
    assert os.path.exists(store.where("dead"))


@pytest.mark.parametrize("what", ["live", "dead"])
def test_a_word_of_a_slab_is_some_number_of_one_series(what: str, store: Any, sweep: Sweep, differ: Differ) -> None:
    """Each bit of each word of a series: the scrape is whole, and no other series changes."""
    whole = store.files[what]
    by_slot = {series.first: series for series in store.early.collector.snapshot().catalog.by_slot.values()}
    families = store.early.collector.snapshot().catalog.families
    slots = [(first + at, first) for first, series in by_slot.items() for at in range(min(series.width, 8))]
    numbers = (math.inf, -math.inf, math.nan, -1.0, 0.5, 1e300, 5e-324)
    always = [(slot, first, struct.pack("=d", number)) for slot, first in slots for number in numbers[:3]]
    rest = [(slot, first, struct.pack("=d", number)) for slot, first in slots for number in numbers]
    for slot, first in slots:
        offset = fmt.SLAB_HEAD_SIZE + 8 * slot
        held = int.from_bytes(whole[offset : offset + 8], fmt.BYTE_ORDER)
        rest += [(slot, first, (held ^ 1 << bit).to_bytes(8, fmt.BYTE_ORDER)) for bit in range(64)]
    for slot, first, word in sweep(always, rest, 2.0):
        offset = fmt.SLAB_HEAD_SIZE + 8 * slot
        store.patch(what, offset, word)
        family = families[by_slot[first].family]
        for values, figures in (store.fresh(), store.early.values()):
            assert 0 == figures["unreadable_files[]"] == figures["damaged_records[]"]
            changed = differ(store.whole, values)
            names = {name.partition("[")[0] for name in changed}
            assert all(name.startswith(family.name) for name in names), (family.name, names)
        store.patch(what, offset, whole[offset : offset + 8])


def test_without_checksums_the_sweep_finds_wrong_values(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: believing bytes whatever their checksum is would show labels and numbers that nobody counted."""
    whole = store.files["series"]
    (record,) = [record for record in store.records if record.family == "hits" and record.key == ("404",)]
    at = whole.index(b'"404"', record.start) + 1
    assert record.start < at < record.end
    store.patch("series", at, b"9")
    assert store.samples_of(record) == differ(store.whole, store.fresh()[0])

    monkeypatch.setattr(records, "_body", lambda data, head: json.loads(data[head.start : head.start + head.length]))
    values, figures = store.fresh()

    assert any("'904'" in name for name in values)
    assert 0 == figures["damaged_records[]"]


def test_without_a_heads_checks_another_version_is_believed(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the heads: the same bytes are read once magic, version and checksum are not looked at."""
    for what in ("retired", "live", "dead"):
        store.patch(what, 8, b"\2")
    assert 3 == store.fresh()[1]["unreadable_files[]"]

    monkeypatch.setattr(fmt, "_check_head", lambda *_: None)

    assert 0 == store.fresh()[1]["unreadable_files[]"]


def test_without_its_checksum_a_flipped_byte_of_the_retired_file_is_a_wrong_value(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the retired file's body: some total is another, and nothing says so."""
    checksum = fmt.RETIRED_HEAD.unpack_from(store.files["retired"])[-1]
    monkeypatch.setattr("mpmetrics.storage.retired.zlib", SimpleNamespace(crc32=lambda _: checksum))
    store.patch("retired", fmt.RETIRED_HEAD_SIZE + 7, b"\x41")

    values, figures = store.fresh()

    assert 0 == figures["unreadable_files[]"]
    assert {"hits_total[('code', '200')]"} == differ(store.whole, values)
