"""The bytes are as the specification says, and whatever else is found in their place costs itself alone."""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpmetrics
from mpmetrics.storage import format as fmt
from mpmetrics.storage import records
from mpmetrics.storage.fold import fold
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retired import Retired, load_retired

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]

RULE = re.compile(r"=+ +=+ +=+$")
ROW = re.compile(r"(\d+|\.\.\.) +(\S+) +(\S.*)$")
TYPES = {"8s": "8s", "16s": "16s", "u32": "I", "u64": "Q", "f64": "d"}


def tables() -> dict[str, list[tuple[str, str, str]]]:
    """The offset tables of the specification: offset, type and field, under the heading of their section."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    lines = str(fmt.__doc__).splitlines()
    heading, rules = "", 0
    for line, following in itertools.pairwise(lines):
        if following.startswith("---"):
            heading = line
        elif RULE.match(line):
            rules += 1
            if rules % 3 == 1:
                title = heading if heading not in found else f"{heading}: record"
                found[title] = []
        elif rules % 3 == 2 and (row := ROW.match(line)):
            found[title].append((row[1], row[2], row[3]))
    return found


def layout(rows: list[tuple[str, str, str]]) -> tuple[list[int], list[str]]:
    """Offsets and type codes of the rows of fixed place."""
    fixed = [(int(offset), kind) for offset, kind, _ in rows if offset != "..." and kind in TYPES]
    return [offset for offset, _ in fixed], [TYPES[kind] for _, kind in fixed]


SECTIONS = ["Series directory", "Series directory: record", "Slab", "Retired file"]


def test_the_specification_has_these_tables() -> None:
    """The tables are found, so the tests below are about something."""
    assert SECTIONS == list(tables())
    assert [15, 4, 14, 12] == [len(rows) for rows in tables().values()]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_offsets_of_a_table_follow_from_its_types(section: str) -> None:
    """Each field begins where the one before it ends, and words that processes share are aligned."""
    offsets, codes = layout(tables()[section])

    assert offsets == [struct.calcsize("=" + "".join(codes[:count])) for count in range(len(codes))]
    assert all(0 == offset % fmt.WORD for offset, code in zip(offsets, codes, strict=True) if code in "Qd")


@pytest.mark.parametrize(
    ("section", "packed"),
    [
        ("Series directory", fmt.SERIES_HEAD),
        ("Series directory: record", fmt.RECORD_HEAD),
        ("Slab", fmt.SLAB_HEAD),
        ("Retired file", fmt.RETIRED_HEAD),
    ],
)
def test_the_tables_agree_with_the_code(section: str, packed: struct.Struct) -> None:
    """The structure that the code packs is the beginning of the table."""
    _, codes = layout(tables()[section])

    assert ("=" + "".join(codes)).startswith(packed.format)


@pytest.mark.parametrize(
    ("section", "field", "offset"),
    [
        ("Series directory", "CRC-32", fmt.SERIES_HEAD.size),
        ("Series directory", "committed", fmt.COMMITTED * fmt.WORD),
        ("Series directory", "generation", fmt.GENERATION * fmt.WORD),
        ("Series directory", "superseded", fmt.SUPERSEDED * fmt.WORD),
        ("Series directory", "496 trouble words", fmt.TROUBLE * fmt.WORD),
        ("Series directory", "records", fmt.SERIES_HEAD_SIZE),
        ("Slab", "CRC-32", fmt.SLAB_HEAD.size),
        ("Slab", "capacity", fmt.CAPACITY * fmt.WORD),
        ("Slab", "generation", fmt.ACKNOWLEDGED * fmt.WORD),
        ("Slab", "slots", fmt.SLAB_HEAD_SIZE),
        ("Retired file", "CRC-32 of bytes", fmt.RETIRED_HEAD.size),
        ("Retired file", "values", fmt.RETIRED_HEAD_SIZE),
    ],
)
def test_the_code_finds_a_field_where_the_table_has_it(section: str, field: str, offset: int) -> None:
    """Words that are reached by number, and what lies behind the heads, are where the specification says."""
    (row,) = [row for row in tables()[section] if row[2].startswith(field)]

    assert row[0] == str(offset)


@pytest.mark.parametrize(
    ("section", "magic", "size"),
    [
        ("Series directory", fmt.SERIES_MAGIC, fmt.SERIES_HEAD_SIZE),
        ("Slab", fmt.SLAB_MAGIC, fmt.SLAB_HEAD_SIZE),
        ("Retired file", fmt.RETIRED_MAGIC, fmt.RETIRED_HEAD_SIZE),
    ],
)
def test_magic_version_and_size_are_the_tables(section: str, magic: bytes, size: int) -> None:
    """What identifies a file stands in the specification as it stands in the code."""
    texts = [text for _, _, text in tables()[section]]

    assert f"magic ``{magic.decode()}``" == texts[0]
    assert f"format version, {fmt.VERSION}" == texts[1]
    assert f"size of the head, {size}" == texts[2]
    assert 496 == fmt.TROUBLE_WORDS


def test_the_files_hold_what_the_tables_say(provider: MakeProvider, fork: Fork) -> None:
    """A store that was written by the library, taken apart by the specification alone."""
    mine = provider()
    path = Path(str(mine.epoch.path))
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    fork(hits.labels("200").inc, 2.5).result()
    fold(str(path))
    hits.labels("200").inc(4)

    series = (path / "series").read_bytes()
    (slab_path,) = [entry for entry in path.iterdir() if entry.name.startswith("slab-")]
    slab, retired = slab_path.read_bytes(), (path / "retired").read_bytes()

    assert (b"MPMSERIE", 1, 4096, 1) == struct.unpack_from("=8sIIQ", series)
    committed, generation, superseded = struct.unpack_from("=QQQ", series, 32)
    assert (0, 0) == (generation, superseded)
    magic, length, _, kind = struct.unpack_from("=IIII", series, 4096)
    assert (0x4D50524B, fmt.FAMILY) == (magic, kind)
    assert [0, "hits"] == [
        json.loads(series[4112 : 4112 + length])[0],
        json.loads(series[4112 : 4112 + length])[1]["name"],
    ]
    second = 4112 + length + -length % 8
    magic, length, _, kind = struct.unpack_from("=IIII", series, second)
    assert (0x4D50524B, fmt.SERIES) == (magic, kind)
    assert [0, ["200"], 0, 1] == json.loads(series[second + 16 : second + 16 + length])[:4]
    assert second + 16 + length + -length % 8 == committed
    assert (b"MPMSLAB_", 1, 128) == struct.unpack_from("=8sII", slab)
    assert slab_path.name == f"slab-0-{slab[16:32].hex()}"
    assert (0, os.getpid()) == struct.unpack_from("=QQ", slab, 32)
    assert (4096, 0) == struct.unpack_from("=QQ", slab, 64)
    assert (4.0,) == struct.unpack_from("=d", slab, 128)
    assert (b"MPMRETIR", 1, 64, 1) == struct.unpack_from("=8sIIQ", retired)
    assert (2.5, 0.0) == struct.unpack_from("=dd", retired, 64)
    assert 1 == json.loads(retired[80:])["folded"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
bodies = st.lists(json_values, max_size=6)
kinds = st.sampled_from(sorted(fmt.KINDS))


@given(st.lists(st.tuples(kinds, bodies), max_size=8))
def test_records_come_back_as_they_were_written(written: list[tuple[int, list[Any]]]) -> None:
    """Any bodies, one behind the other, on 8-byte boundaries."""
    data = b"".join(records.encode_record(kind, body) for kind, body in written)

    read = list(records.decode_records(data))

    assert written == [(kind, body) for _, kind, body in read]
    assert all(0 == end % fmt.WORD for end, _, _ in read)
    assert len(data) == (read[-1][0] if read else 0)


@given(st.lists(st.tuples(kinds, bodies), min_size=1, max_size=6), st.data())
def test_damage_costs_the_records_that_it_hit(written: list[tuple[int, list[Any]]], data: st.DataObject) -> None:
    """Whatever bytes of one record are overwritten, all others come back, and the gap is told."""
    encoded = [records.encode_record(kind, body) for kind, body in written]
    hit = data.draw(st.integers(0, len(encoded) - 1))
    start = data.draw(st.integers(0, len(encoded[hit]) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=len(encoded[hit]) - start))
    changed = encoded[hit][:start] + junk + encoded[hit][start + len(junk) :]

    read = list(records.decode_records(b"".join([*encoded[:hit], changed, *encoded[hit + 1 :]])))

    others = [item for number, item in enumerate(written) if number != hit]
    assert [(kind, body) for _, kind, body in read if body is not None] in (others, written)
    assert read[-1][0] == sum(map(len, encoded))
    if len(read) > len(written) or any(body is None for _, _, body in read):
        assert 1 == sum(body is None for _, _, body in read)


@given(st.binary(max_size=400))
def test_any_bytes_can_be_decoded(data: bytes) -> None:
    """Decoding ends and raises nothing, whatever it is given."""
    ends = [end for end, _, _ in records.decode_records(data)]

    assert sorted(ends) == ends


def test_a_record_over_the_limit_is_refused() -> None:
    """What readers would not believe is not written."""
    with pytest.raises(mpmetrics.FormatError, match="limit"):
        records.encode_record(fmt.SERIES, ["x" * fmt.MAX_BODY])


floats = st.floats(allow_nan=False)


@given(
    st.lists(st.tuples(floats, floats), max_size=8),
    st.sets(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=3),
    st.dictionaries(st.integers(0, 9), st.dictionaries(st.integers(0, 9), floats, min_size=1, max_size=3), max_size=3),
)
def test_a_retired_file_comes_back_as_it_was_written(
    pairs: list[tuple[float, float]], slabs: set[str], by_ordinal: dict[int, dict[int, float]]
) -> None:
    """Values and remainders to the bit, slabs and gauges of each worker."""
    values, remainders = (array("d", column) for column in (zip(*pairs, strict=True) if pairs else ((), ())))
    retired = Retired(values, remainders, slabs, by_ordinal, 3, 4, 5, {"0" * 16: 1, "f" * 16: 7})

    assert retired == Retired.decode(retired.encode(), "here")


@pytest.fixture
def written(provider: MakeProvider, fork: Fork) -> Path:
    """An epoch with a retired file, a slab of a dead process and one of this one, of every kind of metric."""
    mine = provider()
    path = Path(str(mine.epoch.path))
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    sizes = mpmetrics.Histogram("sizes", "Sizes.", buckets=(1, 2), provider=mine)
    total = mpmetrics.Summary("total", "Total.", provider=mine)
    state = mpmetrics.Enum("state", "State.", states=["up", "down"], provider=mine)
    level = mpmetrics.Gauge("level", "Level.", multiprocess_mode="mostrecent", provider=mine)
    build = mpmetrics.Info("build", "Build.", provider=mine)

    def write() -> None:
        hits.inc()
        sizes.observe(1.5)
        total.observe(2)
        state.state("down")
        level.set(3)
        build.info({"version": "1"})

    fork(write).result()
    assert 1 == fold(str(path))
    fork(write).result()
    write()
    return path


def slab_of(path: Path, *, alive: bool) -> Path:
    """The slab of the live or the dead process."""
    for entry in path.iterdir():
        if entry.name.startswith("slab-"):
            reader = SlabReader(str(entry))
            matches = reader.alive == alive
            reader.close()
            if matches:
                return entry
    raise AssertionError


def read_slab(path: Path) -> list[float]:
    """All that a reader does with a slab."""
    slab = SlabReader(str(path))
    try:
        assert slab.acknowledged >= 0
        return list(slab.read(sys.maxsize, array("q", (1, 4))))
    finally:
        slab.close()


def read_series(path: Path) -> int:
    """All that a reader does with a series directory."""
    series = SeriesReader(str(path.parent))
    try:
        series.sync()
        return len(series.catalog.by_slot)
    finally:
        series.close()


READERS: dict[str, Callable[[Path], object]] = {
    "slab": read_slab,
    "retired": lambda path: load_retired(str(path.parent)),
    "series": read_series,
}


@pytest.fixture
def copied(written: Path, fast_dir: Path) -> Callable[[str], Path]:
    """A copy of one of the files, in a directory of its own, so that no live process maps it."""

    def copy(name: str) -> Path:
        source = slab_of(written, alive=False) if name == "slab" else written / name
        target = fast_dir / "copy" / source.name
        target.parent.mkdir()
        target.write_bytes(source.read_bytes())
        return target

    return copy


@pytest.mark.parametrize("name", READERS)
def test_a_file_cut_short_anywhere_raises_nothing_else(name: str, copied: Callable[[str], Path]) -> None:
    """Readers of a truncated file say FormatError or OSError, or read what is whole."""
    path = copied(name)
    whole = path.read_bytes()
    outcomes = set()
    for length in {*range(300), *range(0, len(whole), 61), *range(max(0, len(whole) - 300), len(whole))}:
        path.write_bytes(whole[:length])
        try:
            READERS[name](path)
            outcomes.add("read")
        except (mpmetrics.FormatError, OSError) as error:
            outcomes.add("refused" if str(path) in str(error) else f"refused without its name: {error}")

    assert "refused" in outcomes
    if name != "series":
        assert {"refused"} == outcomes
    path.write_bytes(whole)
    READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_byte_raises_nothing_else(name: str, copied: Callable[[str], Path]) -> None:
    """Readers of a file in which any one byte is another say FormatError or OSError, or read on."""
    path = copied(name)
    whole = path.read_bytes()
    refused = 0
    # The words between a series file's head and its records are a diagnosis only.
    for offset in {*range(min(len(whole), 400)), *range(max(0, len(whole) - 400), len(whole))}:
        for flip in (0x01, 0x80, 0xFF):
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([whole[offset] ^ flip]))
            try:
                READERS[name](path)
            except (mpmetrics.FormatError, OSError):
                refused += 1
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(whole[offset : offset + 1])

    assert refused > 50
    READERS[name](path)


JUNK = {
    "empty": lambda _: b"",
    "one byte": lambda _: b"M",
    "foreign": lambda _: b"#!/bin/sh\necho hello\n" * 400,
    "zeros": lambda whole: bytes(len(whole)),
    "half": lambda whole: whole[: len(whole) // 2],
    "newer": lambda whole: whole[:8] + (fmt.VERSION + 1).to_bytes(4, fmt.BYTE_ORDER) + whole[12:],
    "other byte order": lambda whole: whole[:8] + whole[8:12][::-1] + whole[12:],
    "wrong checksum": lambda whole: whole[:17] + bytes([whole[17] ^ 1]) + whole[18:],
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", ["slab", "retired"])
def test_a_scrape_answers_with_the_rest(
    name: str, junk: str, written: Path, store_dir: str, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    """A slab of a dead process, or the retired file, that is not what it should be is skipped, counted and named."""
    path = slab_of(written, alive=False) if name == "slab" else written / "retired"
    whole = path.read_bytes()
    path.unlink()  # nobody maps the new file
    path.write_bytes(JUNK[junk](whole))
    collector = mpmetrics.Collector(store_dir)

    for _ in range(2):
        values = scrape(collector)
        assert 1 == values["mpmetrics_unreadable_files"]
        assert 2 == values["hits_total"] == values["sizes_count"] == values["total_count"]
        assert 3 == values["sizes_sum"]
    said = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    assert 1 <= len(said) <= 2  # by the fold and by the reader, once each


@pytest.mark.parametrize("offset", [*range(fmt.SLAB_HEAD_SIZE, fmt.SLAB_HEAD_SIZE + 8 * 20)])
def test_a_scrape_survives_any_damage_to_the_words_of_a_slab(
    offset: int, written: Path, store_dir: str, scrape: Scrape
) -> None:
    """Words that no writer wrote, infinite and NaN ones among them, give wrong numbers at worst, in every metric."""
    path = slab_of(written, alive=False)
    whole = path.read_bytes()
    for flip in (0x40, 0x80, 0xFF):
        path.unlink(missing_ok=True)
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :])
        values = scrape(store_dir)
        assert "hits_total" in values
        assert "mpmetrics_unreadable_files" in values


@pytest.mark.parametrize("word", [float("inf"), float("-inf"), float("nan"), 1e300, -1.0, 0.5])
def test_a_scrape_survives_any_number_in_any_word(word: float, written: Path, store_dir: str, scrape: Scrape) -> None:
    """A word of a dead slab that holds an impossible number does not keep the rest from being served."""
    path = slab_of(written, alive=False)
    whole = path.read_bytes()
    for slot in range(20):
        offset = fmt.SLAB_HEAD_SIZE + slot * fmt.WORD
        path.unlink(missing_ok=True)
        path.write_bytes(whole[:offset] + struct.pack("=d", word) + whole[offset + fmt.WORD :])
        (written / "retired").unlink(missing_ok=True)
        values = scrape(store_dir)
        assert "hits_total" in values, f"slot {slot}"


@settings(max_examples=30)
@given(st.integers(0, 63))
def test_the_trouble_words_are_the_only_ones_without_a_check(number: int) -> None:
    """A series head of which one bit is another is refused, as far as the checksum covers it."""
    head = bytearray(fmt.pack_series_head(7).ljust(fmt.SERIES_HEAD_SIZE, b"\0"))
    assert 7 == fmt.check_series_head(bytes(head), "here")
    head[number % fmt.SERIES_HEAD.size] ^= 1 << number % 8

    with pytest.raises(mpmetrics.FormatError):
        fmt.check_series_head(bytes(head), "here")


@pytest.mark.parametrize("committed", [0, 1, 4095, 4097, 1 << 20, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_commit_that_cannot_be_harms_no_scrape_and_no_request(
    committed: int, written: Path, store_dir: str, fork: Fork, scrape: Scrape
) -> None:
    """With the word that says where the records end overwritten, scrapes answer and processes count on."""
    with (written / "series").open("r+b") as file:
        file.seek(fmt.COMMITTED * fmt.WORD)
        file.write(committed.to_bytes(8, fmt.BYTE_ORDER))

    values = scrape(store_dir)
    assert 1 <= values["mpmetrics_unreadable_files"] + values["mpmetrics_damaged_records"]

    def come_later() -> None:
        try:
            late = mpmetrics.Provider(store_dir)
        except mpmetrics.StoreError:
            return  # said at construction; get_provider goes on in private memory
        mpmetrics.Counter("late", "Late.", ["code"], provider=late).labels("200").inc()

    fork(come_later).result()


def test_unreadable_files_leak_no_descriptors(written: Path, store_dir: str) -> None:
    """However often a file is found to be unreadable, a collector holds as many files as before."""
    path = slab_of(written, alive=False)
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:64] + (1 << 20).to_bytes(8, fmt.BYTE_ORDER) + whole[72:])
    (written / ("slab-7-" + "cd" * 16)).write_bytes(b"foreign")
    collector = mpmetrics.Collector(store_dir)
    collector.readings()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        collector.readings()

    assert len(os.listdir("/proc/self/fd")) <= before + 1
