"""Slabs grow without moving words, allocate blocks before promising them, and claim ordinals without waiting."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics._cells import Table
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import open_regular
from mpmetrics.storage.locks import DirectoryMutex
from mpmetrics.storage.reader import SlabReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fork = Callable[..., Any]
    Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


def epoch_of(provider: mpmetrics.Provider) -> Path:
    """The directory of the provider's epoch."""
    assert provider.epoch is not None
    return Path(provider.epoch.path)


def slabs(path: Path) -> list[str]:
    """The names of the slab files, without identities."""
    names = (entry.name.split("-") for entry in path.iterdir())
    return sorted("-".join(parts[:2]) if parts[0] != "idle" else "idle" for parts in names if parts[0] in KINDS)


KINDS = {"idle", "slab", "dead"}


def promised(slab: Path) -> int:
    """Bytes that have blocks according to the head."""
    words = struct.unpack_from("=14Q", slab.read_bytes()[: fmt.PAGE])
    return int(words[fmt.WORDS_END] + words[fmt.ROOM] + words[fmt.ROOM + 1])


def check_blocks(slab: Path) -> None:
    """Fail unless all bytes that the head promises have blocks."""
    wanted = promised(slab)  # first: a writer that grows meanwhile only has more blocks then
    assert slab.stat().st_blocks * 512 >= wanted, "the head promises more than there is"


def values_of(shown: dict[Any, float], name: str) -> dict[str, float]:
    """The values of a metric with one label, by label value."""
    return {labels[0][1]: value for (sample, labels), value in shown.items() if sample == name}


# Growth.


def test_growth_moves_nothing(shared: mpmetrics.Provider, shown: Shown) -> None:
    """Series keep their words while thousands of others are made, and readers that map the file see them all."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
    slab = epoch_of(shared) / "slab-0"
    collector = mpmetrics.Collector(str(shared.directory))
    cells, places, ends = [], [], []
    for number in range(5000):
        cells.append(hits.labels(str(number)))
        cells[-1].inc(number)
        places.append(cells[-1].place)
        if number in (10, 700, 3000):
            cells[0].inc()
            assert number == values_of(shown(collector), "hits_total")[str(number)]
            check_blocks(slab)
            ends.append(promised(slab))
    for cell in cells:
        cell.inc(0.5)

    assert sorted(set(ends)) == ends
    assert places == [cell.place for cell in cells]
    assert len(set(places)) == len(places)
    expected = {str(number): number + (3.5 if number == 0 else 0.5) for number in range(5000)}
    assert expected == values_of(shown(collector), "hits_total")


def test_words_of_removed_series_are_reused_and_records_are_compacted(shared: mpmetrics.Provider, shown: Shown) -> None:
    """After tens of thousands of series came and went, the slab is as small as with a few and is read correctly."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
    stays = hits.labels("stays")
    collector = mpmetrics.Collector(str(shared.directory))
    slab = epoch_of(shared) / "slab-0"
    place = stays.place
    for number in range(20_000):
        stays.inc()
        hits.labels(str(number)).inc()
        shared.memory.forget(hits.family, (str(number),))  # as after a removal by another process
        if number % 4000 == 0:
            assert {"stays": number + 1.0} == values_of(shown(collector), "hits_total")
    flips = struct.unpack_from("=Q", slab.read_bytes()[: fmt.PAGE], fmt.WORD * fmt.FLIPS)[0]

    assert flips > 0
    assert place == stays.place
    assert slab.stat().st_blocks * 512 < 512 * 1024
    assert {"stays": 20_000.0} == values_of(shown(collector), "hits_total")


def test_a_reader_follows_growth_and_flips_while_they_happen(
    shared: mpmetrics.Provider, fork: Fork, gate: Callable[[], Any]
) -> None:
    """Totals that a reader sees of a busy writer never decrease, and are exact at the end."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
    started, enough = gate(), gate()

    def write() -> tuple[int, int]:
        number = 0
        while number < 20_000 or not enough.is_open:
            hits.labels(str(number % 3_000)).inc()
            if number % 8 == 0:
                hits.labels(f"passing {number}")
                shared.memory.forget(hits.family, (f"passing {number}",))
            number += 1
            if number == 1:
                started.open()
        head = (epoch_of(shared) / "slab-0").read_bytes()[: fmt.PAGE]
        return number, struct.unpack_from("=Q", head, fmt.WORD * fmt.FLIPS)[0]

    writer = fork(write)
    started.wait()
    collector = mpmetrics.Collector(str(shared.directory))

    def total() -> float:
        return sum(s.value for family in collector.collect() for s in family.samples if s.name == "hits_total")

    totals = [total() for _ in range(20)]
    enough.open()
    written, flips = writer.result()

    assert flips > 0
    assert sorted(totals) == totals
    assert totals[-1] <= written == total()


def test_records_committed_beyond_the_known_size_are_no_damage(shared: mpmetrics.Provider) -> None:
    """If the file grows beyond its size at the last check, the reader reads the rest after the next check."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
    hits.labels("first").inc()
    table, behind = Table(), 0
    with open_regular(str(epoch_of(shared) / "slab-0")) as descriptor:
        reader = SlabReader(descriptor, "slab-0")
        for number in range(1, 1001):
            hits.labels("x" * (number % 100)).inc()
            hits.labels(str(number)).inc()
            if number % 50 == 0:
                before = reader.source.series
                reader.read(lambda *_: table)
                assert before <= reader.source.series <= len(hits._children)
                assert 0 == reader.damaged
                behind += reader.source.series < len(hits._children)
                reader.refresh(descriptor)
        reader.read(lambda *_: table)

    assert behind > 0
    assert (len(hits._children), 0) == (reader.source.series, reader.damaged)


def test_a_published_slab_is_whole(shared: mpmetrics.Provider) -> None:
    """A slab with its final name has a valid head, blocks for its first words and records, and mode 0600."""
    hits = mpmetrics.Counter("hits", "Hits.", provider=shared)
    (idle,) = (entry for entry in epoch_of(shared).iterdir() if entry.name.startswith("idle-"))
    check_blocks(idle)
    assert idle.name == f"idle-{fmt.check_slab(idle.read_bytes()[: fmt.PAGE], idle.name)[0].hex()}"
    hits.inc()
    slab = epoch_of(shared) / "slab-0"

    assert not idle.exists()
    assert (0o600, 1) == (slab.stat().st_mode & 0o7777, slab.stat().st_nlink)
    head = slab.read_bytes()[: fmt.PAGE]
    assert os.getpid() == fmt.check_slab(head, "slab")[1]


# A disk without room.


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A separate file system of this size."""
    path.mkdir()
    mounted = subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["/bin/umount", "-l", str(path)], check=True)


def fill(path: Path, free: int = 0) -> None:
    """Fill the file system, except ``free`` blocks."""
    with (path / "ballast").open("ab", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        file.truncate(max(0, os.fstat(file.fileno()).st_size - 4096 * free))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@needs_root
def test_a_full_disk_stops_no_request_and_loses_nothing(
    tmp_path: Path, shown: Shown, sums: Callable[[Any], dict[str, float]], caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk, values wait in memory, are counted and logged once; with room again, all are in the store."""
    caplog.set_level(logging.WARNING, "mpmetrics")
    with small_disk(tmp_path / "disk", "64k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        fill(disk)
        hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
        sizes = mpmetrics.Histogram("sizes", "Sizes.", ["code"], buckets=(1, 2), provider=mine)
        for number in range(100):
            hits.inc()
            sizes.labels(str(number)).observe(1.5)
        own, full = shown(mine), sums(disk / "store")
        lines = [text for text in caplog.messages if "values wait in process" in text]
        (disk / "ballast").unlink()
        mine.force_flush()
        hits.inc()
        sizes.labels("7").observe(0.5)
        values = shown(disk / "store")
        mine.shutdown()

    assert 100 == own["hits_total", ()]  # the process's own collector shows waiting values
    assert 1 <= full["mpmetrics_drops_total"]
    assert "hits_total" not in full
    assert 1 == len(lines)
    assert (101, 1.5, 2.0, 2) == (
        values["hits_total", ()],
        values["sizes_sum", (("code", "42"),)],
        values["sizes_sum", (("code", "7"),)],
        values["sizes_count", (("code", "7"),)],
    )


@needs_root
@pytest.mark.parametrize("free", [4, 5, 7, 9, 16, 33, 40])
def test_a_disk_that_fills_up_while_a_slab_grows_kills_nobody(
    tmp_path: Path, fork: Fork, sums: Callable[[Any], dict[str, float]], free: int
) -> None:
    """If any step of a growth finds no block, the head promises none, and values without room wait."""
    with small_disk(tmp_path / "disk", "512k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
        fill(disk, free)

        def work() -> tuple[float, float, float]:
            for number in range(3000):
                hits.labels(str(number)).inc()
                hits.labels("all").inc()
            for slab in epoch_of(mine).glob("slab-*"):
                check_blocks(slab)
            own = sums(mine)["hits_total"]
            (disk / "ballast").unlink()
            mine.force_flush()
            return own, sums(disk / "store")["hits_total"], sums(mine)["hits_total"]

        values = fork(work).result()
        mine.shutdown()

    assert (6000, 6000, 6000) == values


def test_the_check_finds_a_promise_without_blocks(shared: mpmetrics.Provider) -> None:
    """The control: the check detects a head that promises blocks before they are allocated."""
    mpmetrics.Counter("hits", "Hits.", provider=shared).inc()
    slab = epoch_of(shared) / "slab-0"
    check_blocks(slab)
    with slab.open("r+b") as file:
        file.seek(fmt.WORD * fmt.WORDS_END)
        file.write(struct.pack("=Q", fmt.FIRST_WORDS_END + fmt.PAGE))
    with pytest.raises(AssertionError, match="promises more"):
        check_blocks(slab)


@needs_root
def test_attempts_on_a_full_disk_leak_no_descriptors(tmp_path: Path, fork: Fork) -> None:
    """Repeated failures to make a slab leave no descriptor open."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        fill(disk)
        hits = mpmetrics.Counter("hits", "Hits.", provider=mine)

        def attempt() -> tuple[int, int]:
            hits.inc()
            mine.force_flush()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                mine.force_flush()
            return before, len(os.listdir("/proc/self/fd"))

        before, after = fork(attempt).result()
        mine.shutdown()

    assert after <= before + 2


# Ordinals.


@pytest.fixture
def count(shared: mpmetrics.Provider, child: Callable[..., Any]) -> Callable[[], Any]:
    """Starts a process that counts once."""
    hits = mpmetrics.Counter("hits", "Hits.", provider=shared)
    return lambda: child(hits.inc)


def test_a_process_has_an_ordinal_from_its_first_count_on(
    shared: mpmetrics.Provider, count: Callable[[], Any], child: Callable[..., Any]
) -> None:
    """A process that only declares and looks up has no ordinal; one that counts has the smallest free one."""
    path = epoch_of(shared)
    assert ["idle"] == slabs(path)
    child(lambda: mpmetrics.Counter("other", "Others.", ["x"], provider=shared).labels("1"))
    count()
    count()

    assert ["idle", "idle", "slab-0", "slab-1"] == slabs(path)


def test_a_new_process_sets_a_dead_slab_aside_and_takes_its_ordinal(
    shared: mpmetrics.Provider, count: Callable[[], Any], shown: Shown
) -> None:
    """The dead slab is still read under its other name, and is folded like any other."""
    path = epoch_of(shared)
    first, _ = count(), count()
    dead = (path / "slab-0").stat().st_ino
    first.kill()
    count()

    assert ["dead-0", "idle", "slab-0", "slab-1"] == slabs(path)
    assert dead == (path / f"dead-0-{dead}").stat().st_ino != (path / "slab-0").stat().st_ino
    assert {("hits_total", ()): 3.0} == shown(str(shared.directory))
    assert ["idle", "slab-0", "slab-1"] == slabs(path)
    assert {("hits_total", ()): 3.0} == shown(str(shared.directory))


def test_a_new_process_takes_the_next_ordinal_while_another_renames_slabs(
    shared: mpmetrics.Provider, count: Callable[[], Any], shown: Shown
) -> None:
    """While another process, perhaps a stopped one, has locked the directory, the next free ordinal is claimed."""
    path = epoch_of(shared)
    count().kill()
    with DirectoryMutex(str(path), 0.0):
        count()

    assert ["idle", "slab-0", "slab-1"] == slabs(path)
    assert {("hits_total", ()): 2.0} == shown(str(shared.directory))


def test_simultaneous_claims_get_different_ordinals(
    shared: mpmetrics.Provider, fork: Fork, gate: Callable[[], Any], shown: Shown
) -> None:
    """Twelve processes that first count at once, beside dead slabs, get twelve ordinals, and no slab has two names."""
    hits = mpmetrics.Counter("hits", "Hits.", provider=shared)
    path = epoch_of(shared)
    start, counted, end = gate(), gate(), gate()

    def work() -> str:
        start.wait()
        hits.inc()
        counted.open()
        end.wait()
        name = shared.memory.slab_name
        assert name is not None
        return name.file

    for _ in range(3):
        fork(hits.inc).result()
    workers = [fork(work) for _ in range(12)]
    start.open(12)
    counted.wait(12)
    links = [entry.stat().st_nlink for entry in path.iterdir() if entry.name.startswith("slab-")]
    end.open(12)
    names = [worker.result() for worker in workers]

    assert 12 == len(set(names))
    assert {1} == set(links)
    assert {("hits_total", ()): 15.0} == shown(str(shared.directory))
