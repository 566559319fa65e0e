"""The bytes are as specified, and invalid bytes affect only their own record or file."""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpmetrics
from mpmetrics._cells import find_removals
from mpmetrics.names.family import Family
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import open_regular
from mpmetrics.storage.fold import fold
from mpmetrics.storage.locks import is_held
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.removals import Removal
from mpmetrics.storage.shapes import Shapes

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]

RULE = re.compile(r"=+ +=+ +=+$")
ROW = re.compile(r"(\d+) +(\S+) +(\S.*)$")
TYPES = {"8s": "8s", "16s": "16s", "u32": "I", "u64": "Q", "f64": "d"}


def tables() -> dict[str, list[tuple[str, str, str]]]:
    """The offset tables of the specification by section: offset, type and field of each row."""
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
    """Offsets and type codes of the single fields of a table."""
    fixed = [(int(offset), kind) for offset, kind, _ in rows if kind in TYPES]
    return [offset for offset, _ in fixed], [TYPES[kind] for _, kind in fixed]


SECTIONS = ["Slab", "Slab: record", "Shared page"]


def test_the_specification_has_these_tables() -> None:
    """The specification's tables are found, so the tests below are not empty."""
    assert SECTIONS == list(tables())
    assert [19, 4, 10] == [len(rows) for rows in tables().values()]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_offsets_of_a_table_follow_from_its_types(section: str) -> None:
    """Each field begins where the one before it ends, and words that processes share are aligned."""
    offsets, codes = layout(tables()[section])

    assert offsets == [struct.calcsize("=" + "".join(codes[:count])) for count in range(len(codes))]
    assert all(0 == offset % fmt.WORD for offset, code in zip(offsets, codes, strict=True) if code in "Qd")


@pytest.mark.parametrize(
    ("section", "packed"),
    [("Slab", fmt.SLAB_HEAD), ("Slab: record", fmt.RECORD_HEAD), ("Shared page", fmt.SHARED_HEAD)],
)
def test_the_tables_agree_with_the_code(section: str, packed: struct.Struct) -> None:
    """The structure that the code packs has the first fields of the table."""
    _, codes = layout(tables()[section])

    assert ("=" + "".join(codes)).startswith(packed.format)


@pytest.mark.parametrize(
    ("section", "field", "offset"),
    [
        ("Slab", "CRC-32", fmt.SLAB_HEAD.size),
        ("Slab", "words end", fmt.WORDS_END * fmt.WORD),
        ("Slab", "flips", fmt.FLIPS * fmt.WORD),
        ("Slab", "committed in area 0", fmt.COMMITTED * fmt.WORD),
        ("Slab", "room in area 0", fmt.ROOM * fmt.WORD),
        ("Slab", "retired", fmt.RETIRED * fmt.WORD),
        ("Slab", "words; the number", fmt.FIRST_WORD * fmt.WORD),
        ("Slab", "area 0: records", fmt.AREA_0),
        ("Slab", "area 1: records", fmt.AREA_0 + fmt.AREA_SIZE),
        ("Shared page", "CRC-32", fmt.SHARED_HEAD.size),
        ("Shared page", "generation", fmt.GENERATION * fmt.WORD),
        ("Shared page", "successor", fmt.SUCCESSOR * fmt.WORD),
        ("Shared page", "shortened", fmt.SHORTENED * fmt.WORD),
        ("Shared page", "496 trouble words", fmt.TROUBLE * fmt.WORD),
    ],
)
def test_the_code_finds_a_field_where_the_table_has_it(section: str, field: str, offset: int) -> None:
    """The code's word numbers and offsets are those of the specification."""
    (row,) = [row for row in tables()[section] if row[2].startswith(field)]

    assert row[0] == str(offset)


@pytest.mark.parametrize(("section", "magic"), [("Slab", fmt.SLAB_MAGIC), ("Shared page", fmt.SHARED_MAGIC)])
def test_magic_version_and_size_are_the_tables(section: str, magic: bytes) -> None:
    """Magic, version and head size are the same in the specification and in the code."""
    texts = [text for _, _, text in tables()[section]]

    assert f"magic ``{magic.decode()}``" == texts[0]
    assert f"format version, {fmt.VERSION}" == texts[1]
    assert texts[2] in (f"size of the head, {fmt.PAGE}", f"size of the page, {fmt.PAGE}")
    assert 496 == fmt.TROUBLE_WORDS


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Some bytes of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def test_the_files_hold_what_the_tables_say(provider: MakeProvider, fork: Fork) -> None:
    """A store that the library wrote is readable by the specification's tables alone."""
    mine = provider()
    path = Path(str(mine.epoch.path))
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    fork(hits.labels("200").inc, 2.5).result()
    fold(str(path))
    hits.labels("200").inc(4)
    hits.labels("404").inc()
    hits.remove("404")

    (slab,) = (entry for entry in path.iterdir() if entry.name.startswith("slab-"))
    head = read_at(slab, 0, 4096)
    assert (b"MPMSLAB_", 2, 4096) == struct.unpack_from("=8sII", head)
    assert "slab-0" == slab.name
    assert (os.getpid(),) == struct.unpack_from("=Q", head, 32)
    words_end, flips, committed = struct.unpack_from("=QQQ", head, 64)
    assert (8192, 0) == (words_end, flips)
    found = records_of(read_at(slab, 67108864, committed))
    assert [fmt.FAMILY, fmt.SERIES, fmt.SERIES, fmt.END] == [kind for kind, _ in found]
    declared, body = found[0][1], found[1][1]
    number, _, _ = struct.unpack_from("=IIQ", declared)
    assert ("hits", ("code",)) == ((family := Family.unpack(declared[16:])).name, family.labels)
    family_number, width, first, created, generation = struct.unpack_from("=IIQdQ", body)
    assert (number, 1, 512, 0) == (family_number, width, first, generation)
    assert created == math.floor(created * 1000) / 1000
    assert ["200"] == fmt.unpack_texts(body, 32)
    assert (4.0,) == struct.unpack("=d", read_at(slab, 8 * first, 8))
    assert (513,) == struct.unpack("=Q", found[3][1])
    assert bytes(8) == read_at(slab, 8 * 513, 8)

    shared = read_at(path / "shared", 0, 4096)
    assert (b"MPMSHARE", 2, 4096) == struct.unpack_from("=8sII", shared)
    assert (1, 0) == struct.unpack_from("=QQ", shared, 24)
    ((kind, removed),) = records_of((path / "removals").read_bytes())
    assert fmt.REMOVE == kind
    assert Removal(1, "hits", (("code", "404"),), is_subset=False) == Removal.decode(removed)

    retired = read_at(path / "retired", 0, 4096)
    assert (b"MPMRETIR", 2, 4096) == struct.unpack_from("=8sII", retired)
    assert (1,) == struct.unpack_from("=Q", retired, 48)
    assert (2.5, 0.0) == struct.unpack("=dd", read_at(path / "retired", 4096, 16))


def records_of(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and body of each record, parsed as the specification says."""
    found, at = [], 0
    while at < len(data):
        magic, length, checksum, kind = struct.unpack_from("=IIII", data, at)
        body = data[at + 16 : at + 16 + length]
        assert (0x4D50524B, zlib.crc32(body, kind)) == (magic, checksum)
        found.append((kind, body))
        at += (16 + length + 7) // 8 * 8
    assert at == len(data)
    return found


@given(st.lists(st.tuples(st.integers(1, 2**32 - 1), st.binary(max_size=40)), max_size=8))
def test_records_are_written_as_specified(written: list[tuple[int, bytes]]) -> None:
    """Records with any bodies follow each other on 8-byte boundaries."""
    assert written == records_of(b"".join(fmt.encode_record(kind, body) for kind, body in written))


@given(st.lists(st.text("ab", max_size=20), min_size=1, max_size=6), st.data())
def test_damage_costs_only_the_damaged_records(names: list[str], data: st.DataObject) -> None:
    """When any bytes of one record are overwritten, all other records are still found."""
    written = [Removal(at + 1, name, (), is_subset=False) for at, name in enumerate(names)]
    encoded = [each.encode() for each in written]
    hit = data.draw(st.integers(0, len(encoded) - 1))
    start = data.draw(st.integers(0, len(encoded[hit]) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=len(encoded[hit]) - start))
    changed = encoded[hit][:start] + junk + encoded[hit][start + len(junk) :]

    _, _, bodies = find_removals(b"".join([*encoded[:hit], changed, *encoded[hit + 1 :]]), 0, len(names), None)

    others = [each for at, each in enumerate(written) if at != hit]
    assert [Removal.decode(body) for body in bodies] in (others, written)


@given(st.binary(max_size=400))
def test_any_bytes_can_be_searched_for_removals(data: bytes) -> None:
    """Any bytes can be searched for removals: nothing is raised, and the end lies within them."""
    end, _, bodies = find_removals(data, 0, 2**64 - 1, None)

    assert 0 <= end <= len(data)
    assert sum(map(len, bodies)) <= len(data)


@pytest.mark.parametrize(("heads", "is_found"), [(60, True), (100, False)], ids=["few", "many"])
def test_the_search_for_removals_is_bounded(heads: int, is_found: bool) -> None:  # noqa: FBT001
    """Each damaged record of a MiB costs a checksum; behind too many of them, the search gives up."""
    claim = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, fmt.MAX_BODY, 0, fmt.REMOVE)
    last = Removal(1, "hits", (), is_subset=True).encode()

    _, _, bodies = find_removals(claim * heads + bytes(2 * fmt.MAX_BODY) + last, 0, 1, None)

    assert is_found == bool(bodies)


def test_a_record_over_the_limit_is_refused() -> None:
    """A record that readers would reject as too long is not written."""
    with pytest.raises(mpmetrics.FormatError, match="limit"):
        fmt.encode_record(fmt.FAMILY, b"x" * (fmt.MAX_BODY + 1))


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(texts, max_size=6), st.binary(max_size=3))
def test_texts_come_back_as_they_were_written(written: list[str], before: bytes) -> None:
    """All texts that have a UTF-8 form, empty ones included, are decoded as they were encoded."""
    assert written == fmt.unpack_texts(before + fmt.pack_texts(written), len(before))


@given(st.binary(max_size=60))
def test_any_bytes_as_texts_or_a_metric_raise_nothing_else(data: bytes) -> None:
    """Decoding invalid bytes as texts, or as a metric, raises ValueError only."""
    for unpack in (lambda: fmt.unpack_texts(data, 0), lambda: Family.unpack(data)):
        try:
            unpack()
        except ValueError:
            continue


def test_texts_that_no_record_can_take_are_refused() -> None:
    """A text of more than 65,535 bytes is a ValueError, and nothing is written."""
    with pytest.raises(ValueError, match="65536 bytes"):
        fmt.pack_texts(["x" * 65_536])


FAMILIES = [
    Family("hits", "counter", "Hits.", labels=("a", "b"), origin="here:1"),
    Family("took_seconds", "histogram", "", unit="seconds", bounds=(0.1, 2.0, math.inf)),
    Family("state", "enum", "", states=("up", "down")),
    Family("level", "gauge", "x" * 10_000, mode="max"),
    Family("shop_orders", "counter", "", original="shop.orders", scope="worker", temporality="delta"),
    Family("registry/timer/shop/checkout", "sketch", "", mode="duration", role="timer"),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_metric_comes_back_as_it_was_written(family: Family) -> None:
    """All fields of a metric are decoded as they were encoded, even those that equality ignores."""
    read = Family.unpack(family.pack())

    assert (family, family.help, family.origin) == (read, read.help, read.origin)


def test_a_metric_that_no_record_can_take_is_refused_where_it_is_made(provider: MakeProvider, scrape: Scrape) -> None:
    """A help of a megabyte raises ValueError and changes nothing: the name stays free."""
    mine = provider()
    with pytest.raises(ValueError, match="shorten them to 1048576"):
        mpmetrics.Counter("hits", "x" * (1 << 20), provider=mine)
    mpmetrics.Counter("hits", "short", provider=mine).inc()

    assert 1 == scrape(mine)["hits_total"]


# Damage.


@pytest.fixture
def written(provider: MakeProvider, fork: Fork) -> Path:
    """An epoch with a retired file, a dead slab and a living one, of several kinds of metrics."""
    mine = provider()
    path = Path(str(mine.epoch.path))
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    sizes = mpmetrics.Histogram("sizes", "Sizes.", buckets=(1, 2), provider=mine)
    total = mpmetrics.Summary("total", "Total.", provider=mine)
    state = mpmetrics.Enum("state", "State.", states=["up", "down"], provider=mine)
    level = mpmetrics.Gauge("level", "Level.", multiprocess_mode="all", provider=mine)
    build = mpmetrics.Info("build", "Build.", provider=mine)

    def write() -> None:
        hits.inc()
        sizes.observe(1.5)
        total.observe(2)
        state.state("down")
        level.set(3)
        build.info({"version": "1"})

    fork(write).result()
    assert fold(str(path)) >= 1
    fork(write).result()
    write()
    return path


def dead_slab(path: Path) -> Path:
    """The slab of the dead process."""
    for entry in path.iterdir():
        if entry.name.startswith(("slab-", "dead-")):
            with open_regular(str(entry)) as descriptor:
                if not is_held(descriptor):
                    return entry
    raise AssertionError


def copy_of(source: Path, target: Path) -> Path:
    """A sparse copy of a file; no process maps it."""
    with source.open("rb") as old, target.open("wb") as new:
        offset, size = 0, source.stat().st_size
        while offset < size:
            try:
                offset = os.lseek(old.fileno(), offset, os.SEEK_DATA)
            except OSError:  # only a hole follows
                break
            end = os.lseek(old.fileno(), offset, os.SEEK_HOLE)
            os.pwrite(new.fileno(), os.pread(old.fileno(), end - offset, offset), offset)
            offset = end
        os.ftruncate(new.fileno(), size)
    return target


def read_whole(path: Path) -> int:
    """Read a slab or retired file as a reader does; returns its number of series."""
    shapes = Shapes()
    with open_regular(str(path)) as descriptor:
        reader = SlabReader(descriptor, str(path), is_retired=path.name.startswith("retired"))
    reader.read(shapes.declare)
    return int(reader.source.series)


@pytest.fixture(params=["slab", "retired"])
def copied(request: pytest.FixtureRequest, written: Path, fast_dir: Path) -> Path:
    """A copy of a dead slab or of the retired file."""
    source = dead_slab(written) if request.param == "slab" else written / "retired"
    return copy_of(source, fast_dir / f"{request.param}-copy")


def data_of(path: Path) -> Iterator[int]:
    """The offsets of the head, the first words and the records."""
    committed = struct.unpack_from("=QQQ", read_at(path, 64, 24))[2]
    yield from range(128)
    yield from range(fmt.PAGE, fmt.PAGE + 256)
    yield from range(fmt.AREA_0, fmt.AREA_0 + committed)


def test_a_file_truncated_anywhere_raises_only_format_errors(copied: Path) -> None:
    """A reader of a truncated file raises FormatError or OSError, naming the file, or reads the rest."""
    whole = read_whole(copied)
    outcomes = set()
    for length in sorted(data_of(copied), reverse=True)[::7]:
        os.truncate(copied, length)
        try:
            assert read_whole(copied) <= whole
            outcomes.add("read")
        except (mpmetrics.FormatError, OSError) as error:
            outcomes.add("refused" if str(copied) in str(error) else f"refused without its name: {error}")

    assert outcomes <= {"refused", "read"}
    assert "refused" in outcomes


def test_a_changed_byte_raises_only_format_errors(copied: Path) -> None:
    """A reader of a file with any one byte changed raises FormatError or OSError, or reads the rest."""
    whole = read_whole(copied)
    outcomes = {"refused": 0, "less": 0, "same": 0}
    with copied.open("r+b", buffering=0) as file:
        for offset in data_of(copied):
            (byte,) = os.pread(file.fileno(), 1, offset)
            for flip in (0x01, 0x80, 0xFF):
                os.pwrite(file.fileno(), bytes([byte ^ flip]), offset)
                try:
                    outcomes["less" if read_whole(copied) < whole else "same"] += 1
                except (mpmetrics.FormatError, OSError):
                    outcomes["refused"] += 1
            os.pwrite(file.fileno(), bytes([byte]), offset)

    assert min(outcomes.values()) > 50, outcomes
    assert whole == read_whole(copied)


JUNK: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda _: b"M",
    "foreign": lambda _: b"#!/bin/sh\necho hello\n" * 400,
    "zeros": lambda whole: bytes(len(whole)),
    "half a head": lambda whole: whole[:2048],
    "newer": lambda whole: whole[:8] + (fmt.VERSION + 1).to_bytes(4, fmt.BYTE_ORDER) + whole[12:],
    "older": lambda whole: whole[:8] + (1).to_bytes(4, fmt.BYTE_ORDER) + whole[12:],
    "other byte order": lambda whole: whole[:8] + whole[8:12][::-1] + whole[12:],
    "wrong checksum": lambda whole: whole[:17] + bytes([whole[17] ^ 1]) + whole[18:],
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", ["slab", "retired"])
def test_a_scrape_answers_with_the_rest(
    name: str, junk: str, written: Path, store_dir: str, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid dead slab or retired file is skipped, counted and named in the log; the rest is shown."""
    path = dead_slab(written) if name == "slab" else written / "retired"
    whole = read_at(path, 0, 2 * fmt.PAGE)
    path.unlink()  # so that no process maps the new file
    path.write_bytes(JUNK[junk](whole))
    collector = mpmetrics.Collector(store_dir)

    for _ in range(2):
        values = scrape(collector)
        assert 1 == values["mpmetrics_unreadable_files"]
        assert 2 == values["hits_total"] == values["sizes_count"] == values["total_count"]
        assert 3 == values["sizes_sum"]
    said = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    assert 1 <= len(said) <= 2  # once by the fold, once by the reader


@pytest.mark.parametrize("word", [float("inf"), float("-inf"), float("nan"), 1e300, -1.0, 0.5, 5e-324])
def test_a_scrape_survives_any_number_in_any_word(word: float, written: Path, store_dir: str, scrape: Scrape) -> None:
    """With an impossible number in a word of a dead slab, the rest is still shown and folded."""
    slab, kept = dead_slab(written), written.parent / "kept"
    copy_of(slab, kept)
    for number in range(20):
        (written / "retired").unlink(missing_ok=True)
        slab.unlink(missing_ok=True)
        copy_of(kept, slab)
        with slab.open("r+b") as file:
            file.seek(fmt.PAGE + fmt.WORD * number)
            file.write(struct.pack("=d", word))
        for _ in range(2):
            values = scrape(store_dir)
            assert "hits_total" in values, f"word {number}"
            assert 0 == values["mpmetrics_unreadable_files"]


@pytest.mark.parametrize("field", [fmt.WORDS_END, fmt.FLIPS, fmt.COMMITTED, fmt.ROOM])
@pytest.mark.parametrize("number", [0, 1, 4097, 1 << 20, 1 << 28, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_invalid_head_harms_no_scrape(
    field: int, number: int, written: Path, store_dir: str, scrape: Scrape
) -> None:
    """With a word of a dead slab's head overwritten, the other files are shown, and no byte beyond a file is read."""
    slab = dead_slab(written)
    with slab.open("r+b") as file:
        file.seek(fmt.WORD * field)
        file.write(number.to_bytes(8, fmt.BYTE_ORDER))

    values = scrape(store_dir)

    assert 2 <= values["hits_total"] <= 3


def test_a_store_of_the_first_format_is_named(store_dir: str, provider: MakeProvider, scrape: Scrape) -> None:
    """A file of another format version is skipped, and the log names its version."""
    mine = provider()
    head = struct.pack("=8sII16sQQd", b"MPMSLAB_", 1, 128, bytes(16), 0, 1, 0.0)
    Path(f"{mine.epoch.path}/slab-0").write_bytes(head.ljust(4096, b"\0"))
    mpmetrics.Counter("hits", "Hits.", provider=mine).inc()

    values = scrape(store_dir)

    assert (1, 1) == (values["hits_total"], values["mpmetrics_unreadable_files"])


def test_unreadable_files_leak_no_descriptors(written: Path, store_dir: str) -> None:
    """Repeated attempts to read an invalid file leave no descriptor open."""
    dead_slab(written).write_bytes(b"cut")
    (written / "slab-7").write_bytes(b"foreign")
    collector = mpmetrics.Collector(store_dir)
    collector.readings()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        collector.readings()

    assert len(os.listdir("/proc/self/fd")) <= before + 1
