"""Flipped or missing bytes in a store's files: the damage costs what it hits, is counted, and spreads no further."""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpmetrics.storage import format as fmt

Sweep = Callable[..., Iterator[Any]]
Differ = Callable[[dict[str, float], dict[str, float]], set[str]]

SLABS = ("retired", "live", "dead")
CHECKED = {"retired": 60, "live": 60, "dead": 60, "shared": 20}
"""Bytes of the heads of which a checksum is kept."""

FLIPS = (0x01, 0x80, 0xFF)


def flips(offsets: Any) -> list[tuple[int, int]]:
    """Each offset with each change of its byte."""
    return [(offset, flip) for offset in offsets for flip in FLIPS]


@pytest.mark.parametrize("what", SLABS)
def test_a_file_that_is_cut_short_is_as_if_it_were_not_there(
    what: str, store: Any, sweep: Sweep, differ: Differ, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut at any length, the file is counted and named once by each collector; all other values are shown."""
    size = store.files[what][0]
    ends = [record.end for record in store.records[what]]
    last = max(ends)
    always = [0, 1, 7, 8, 59, 60, 4095, 4096, 8191, 8192, fmt.AREA_0 - 1, fmt.AREA_0, *ends[::9], last - 1]
    for length in sweep([cut for cut in always if cut < last], [*range(9000), *range(fmt.AREA_0, last)]):
        os.truncate(store.where(what), length)
        for is_early, (values, figures) in ((False, store.fresh()), (True, store.early.values())):
            if is_early and what == "retired":  # it never changes: what was read of it stands
                assert (set(), 0) == (differ(store.whole, values), figures["unreadable_files[]"]), length
            else:
                assert (set(), 1) == (differ(store.without[what], values), figures["unreadable_files[]"]), length
        store.restore(what)
    assert size == os.path.getsize(store.where(what))
    assert set() == differ(store.whole, store.fresh()[0])
    assert set() == differ(store.whole, store.early.values()[0])
    caplog.clear()
    os.truncate(store.where(what), 20)
    for _ in range(3):
        store.early.values()
    said = [record for record in caplog.records if store.where(what) in record.getMessage()]
    assert 1 >= len(said)
    assert all(record.levelno == logging.WARNING for record in said)
    store.fresh()
    assert store.where(what) in caplog.text


@pytest.mark.parametrize("what", SLABS)
def test_a_flipped_byte_of_a_record_costs_that_record_alone(
    what: str, store: Any, sweep: Sweep, differ: Differ
) -> None:
    """A flipped byte in any record: only what that record says is missing, the damage is counted, the rest is exact."""
    for record in sweep(store.records[what]):
        expected = store.expected(what, [record])
        length = fmt.RECORD_HEAD.unpack(store.read(what, record.start, 16))[1]
        text_end = record.start + fmt.RECORD_HEAD.size + length
        always = [(offset, 0x80) for offset in (*range(record.start, record.start + 16, 4), text_end - 1)]
        rest = flips(range(record.start, record.end))
        for offset, flip in sweep(always, rest, 0.05, len(store.records[what])):
            store.flip(what, offset, flip)
            values, figures = store.fresh()
            is_padding = offset >= text_end
            where = (record, offset - record.start, flip)
            assert set() == differ(store.whole if is_padding else expected, values), where
            assert is_padding or figures["damaged_records[]"] >= 1, where
            assert 0 == figures["unreadable_files[]"]
            store.flip(what, offset, flip)
        assert set() == differ(store.whole, store.early.values()[0])


@pytest.mark.parametrize("what", CHECKED)
def test_a_flipped_byte_of_a_head(what: str, store: Any, sweep: Sweep, differ: Differ) -> None:
    """A wrong checksum of a head and impossible words after it are refused; other flips harm only this file."""
    lost = store.without.get(what, store.whole)
    always = flips(range(CHECKED[what]))
    for offset, flip in sweep(always, flips(range(CHECKED[what], 128 if what in SLABS else 24))):
        store.flip(what, offset, flip)
        values, figures = store.fresh()
        where = (offset, flip)
        is_refused = figures["unreadable_files[]"]
        if offset < CHECKED[what]:
            assert is_refused == 1, where
        if is_refused and what == "shared":  # which knows which removals there are
            assert {"hits_total[('code', 'gone')]"} == differ(lost, values), where
        elif is_refused:
            assert set() == differ(lost, values), where
        elif not figures["damaged_records[]"]:
            end = fmt.AREA_0 + store.word(what, fmt.COMMITTED)
            behind = [record for record in store.records.get(what, []) if record.end > end]
            # Nobody can tell whether records behind the end that is told were ever committed.
            assert set() == differ(store.expected(what, behind) if behind else store.whole, values), where
        values, figures = store.early.values()
        changed = differ(store.whole, values)
        assert changed <= differ(store.whole, lost), where
        assert not changed or figures["unreadable_files[]"] or figures["damaged_records[]"] or offset >= 64, where
        store.flip(what, offset, flip)
    assert set() == differ(store.whole, store.fresh()[0])
    assert set() == differ(store.whole, store.early.values()[0])


def test_a_flipped_byte_of_the_removals(store: Any, sweep: Sweep, differ: Differ) -> None:
    """A new collector shows the removed series again and reports it; one that knew the removal still applies it."""
    size = store.files["removals"][0]
    for offset, flip in sweep([(0, 1), (4, 0x80), (8, 1), (12, 1), (20, 1)], flips(range(size))):
        store.flip("removals", offset, flip)
        values, figures = store.fresh()
        if figures["damaged_records[]"]:
            assert {"hits_total[('code', 'gone')]"} == differ(store.whole, values), offset
        else:
            assert set() == differ(store.whole, values), offset  # padding
            assert offset >= size - 7
        assert set() == differ(store.whole, store.early.values()[0])
        store.flip("removals", offset, flip)


@pytest.mark.parametrize("what", ["live", "dead"])
def test_a_word_of_a_slab_is_some_number_of_one_series(what: str, store: Any, sweep: Sweep, differ: Differ) -> None:
    """A flipped bit in any word of a series leaves the scrape whole and all other series unchanged."""
    words = []
    for record in store.records[what]:
        if record.kind == fmt.SERIES:
            width, first = struct.unpack("=IQ", store.read(what, record.start + 20, 12))
            words += [(8 * (first + at), record) for at in range(min(width, 8))]
    numbers = (math.inf, -math.inf, math.nan, -1.0, 0.5, 1e300, 5e-324)
    always = [(offset, record, struct.pack("=d", number)) for offset, record in words for number in numbers[:3]]
    rest = [(offset, record, struct.pack("=d", number)) for offset, record in words for number in numbers]
    for offset, record in words:
        held = int.from_bytes(store.read(what, offset, 8), fmt.BYTE_ORDER)
        rest += [(offset, record, (held ^ 1 << bit).to_bytes(8, fmt.BYTE_ORDER)) for bit in range(64)]
    for offset, record, word in sweep(always, rest, 2.0):
        held = store.read(what, offset, 8)
        store.patch(what, offset, word)
        for values, figures in (store.fresh(), store.early.values()):
            assert 0 == figures["unreadable_files[]"] == figures["damaged_records[]"]
            changed = differ(store.whole, values)
            names = {name.partition("[")[0] for name in changed}
            assert all(name.startswith(record.family) for name in names), (record, names)
        store.patch(what, offset, held)


def test_without_checksums_a_wrong_label_is_shown(store: Any, differ: Differ) -> None:
    """The control: with a matching checksum the same bytes show a series that was never counted."""
    (record,) = [each for each in store.records["dead"] if each.family == "hits" and each.key == ("404",)]
    data = bytearray(store.read("dead", record.start, record.end - record.start))
    at = data.index(b"404")
    store.patch("dead", record.start + at, b"9")
    assert set() == differ(store.expected("dead", [record]), store.fresh()[0])

    _, length, _, kind = fmt.RECORD_HEAD.unpack_from(data)
    data[at : at + 1] = b"9"
    body = bytes(data[16 : 16 + length])
    store.patch("dead", record.start, fmt.encode_record(kind, body))
    values, figures = store.fresh()

    assert any("'904'" in name for name in values)
    assert 0 == figures["damaged_records[]"]


def test_without_a_heads_checks_another_version_is_believed(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for heads: without the checks of magic, version and checksum the same bytes are read."""
    for what in SLABS:
        store.patch(what, 8, b"\1")
    assert 3 == store.fresh()[1]["unreadable_files[]"]

    monkeypatch.setattr(fmt, "_check_head", lambda *_: None)

    assert 0 == store.fresh()[1]["unreadable_files[]"]
