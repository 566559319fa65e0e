"""A slab grows without moving a slot, and a full disk is an inconvenience, not the end."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.collector.snapshot import EpochReader
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry
from mpmetrics.storage.reader import SlabReader

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]


def epoch_of(provider: mpmetrics.Provider) -> Path:
    """The directory of the provider's epoch."""
    assert provider.epoch is not None
    return Path(provider.epoch.path)


def test_segments_follow_one_another_without_gaps() -> None:
    """Each segment begins where the one before it ends, doubles up to the limit, and is found by its slots."""
    end = 0
    for number in range(20):
        start, next_end = geometry.segment_span(number)
        assert end == start
        assert next_end - start in (max(start, fmt.FIRST_SEGMENT), fmt.MAX_SEGMENT)
        assert 0 == start % fmt.FIRST_SEGMENT == next_end % fmt.FIRST_SEGMENT
        first, count = geometry.first_slot(number), geometry.slots_of(number)
        assert number == geometry.segment_of(first) == geometry.segment_of(first + count - 1)
        assert first + count == geometry.first_slot(number + 1)
        end = next_end


@pytest.mark.parametrize("width", [1, 4, 17, 100])
def test_no_series_lies_across_two_segments(width: int) -> None:
    """Wherever a series is put, all its words are in one segment, and no slot before it is taken again."""
    slot = 0
    for _ in range(3000):
        first = geometry.fit(slot, width)
        assert slot <= first
        assert geometry.segment_of(first) == geometry.segment_of(first + width - 1)
        slot = first + width


def test_a_series_that_no_segment_can_hold_is_refused() -> None:
    """A histogram with more buckets than a segment has slots is an error, not an endless search."""
    with pytest.raises(ValueError, match="does not fit"):
        geometry.fit(0, fmt.MAX_SEGMENT // fmt.WORD + 1)


def test_a_slab_that_grows_moves_nothing(provider: MakeProvider, store_dir: str, scrape: Scrape) -> None:
    """5,000 series over several segments: cells that were bound before go on, readers follow, values are exact."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    collector = mpmetrics.Collector(store_dir)
    children = []
    sizes = []
    for number in range(5_000):
        children.append(hits.labels(str(number)))
        children[-1].inc(number)
        if number in (10, 1000, 3000):
            children[0].inc()
            values = scrape(collector)
            assert number == values[f"hits_total{{code={number}}}"]
            sizes.append(next(entry.stat().st_size for entry in path.iterdir() if entry.name.startswith("slab-")))
    for child in children:
        child.inc(0.5)

    values = scrape(collector)
    assert sorted(set(sizes)) == sizes
    assert [3.5] + [number + 0.5 for number in range(1, 5_000)] == [
        values[f"hits_total{{code={number}}}"] for number in range(5_000)
    ]
    mine.shutdown()
    assert values["hits_total{code=4999}"] == scrape(collector)["hits_total{code=4999}"]


def test_a_reader_follows_growth_while_it_happens(provider: MakeProvider, fork: Fork, gate: Callable[..., Any]) -> None:
    """A reader that holds the slab open sees new segments at its next look, and never an impossible value."""
    mine = provider()
    path = str(mine.epoch.path)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    started = gate()

    def write() -> None:
        for number in range(20_000):
            hits.labels(str(number % 9_000)).inc()
            if number == 0:
                started.open()

    writer = fork(write)
    started.wait()
    reader = EpochReader(path)
    lengths: list[int] = []
    before = 0.0
    while not lengths or sum(reader.snapshot().columns[0].words) < 20_000:
        (column,) = reader.snapshot().columns
        assert before <= sum(column.words) <= 20_000
        assert set(column.words) <= {0.0, 1.0, 2.0, 3.0}
        before = sum(column.words)
        lengths.append(len(column.words))
    writer.result()
    lengths.append(len(reader.snapshot().columns[0].words))
    reader.close()

    assert sorted(lengths) == lengths
    assert lengths[-1] == 9_000


def test_every_published_slab_is_whole(provider: MakeProvider) -> None:
    """A slab under its final name has a sound head, blocks for its whole capacity, and mode 0600."""
    mine = provider()
    path = epoch_of(mine)
    mpmetrics.Counter("hits", "Hits.", provider=mine).inc()
    (name,) = [entry for entry in path.iterdir() if entry.name.startswith("slab-")]
    status = name.stat()
    slab = SlabReader(str(name))

    assert (0o600, 4096, 8) == (status.st_mode & 0o7777, status.st_size, status.st_blocks)
    assert (os.getpid(), 0, True) == (slab.pid, slab.ordinal, slab.alive)
    assert f"slab-0-{slab.identity}" == name.name
    slab.close()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of so many bytes."""
    path.mkdir()
    mounted = subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["/bin/umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    """Leave no block free."""
    with (path / "ballast").open("ab", buffering=0) as file:
        for size in (4096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@needs_root
def test_a_full_disk_stops_no_request_and_loses_nothing(
    fast_dir: Path, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    """Writes go on in private memory, counted and said once; with room again everything is in the store, exact."""
    with small_disk(fast_dir / "disk", "64k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
        sizes = mpmetrics.Histogram("sizes", "Sizes.", ["code"], buckets=(1, 2), provider=mine)
        fill(disk)

        with caplog.at_level(logging.WARNING, "mpmetrics"):
            for number in range(100):
                hits.inc()
                sizes.labels(str(number)).observe(1.5)
            full = scrape(disk / "store")
        lines = [record.getMessage() for record in caplog.records if "stay in process" in record.getMessage()]
        (disk / "ballast").unlink()
        mine.force_flush()
        hits.inc()
        sizes.labels("7").observe(0.5)
        values = scrape(disk / "store")
        mine.shutdown()

    assert 1 <= full["mpmetrics_drops_total"]
    assert 0 == full["hits_total"]
    assert 1 <= len(lines) <= 2  # once a cause: the slab, the series directory
    assert (101, 1.5, 2.0, 2) == (
        values["hits_total"],
        values["sizes_sum{code=42}"],
        values["sizes_sum{code=7}"],
        values["sizes_count{code=7}"],
    )


@needs_root
def test_words_that_found_no_room_show_in_the_process_own_collector(fast_dir: Path, scrape: Scrape) -> None:
    """A collector in the process itself shows its values while the slab cannot be made, as it shows private series."""
    with small_disk(fast_dir / "disk", "64k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
        fill(disk)
        hits.inc(5)
        values = scrape(mine)
        mine.shutdown()

    assert 5 == values["hits_total"]


@needs_root
def test_a_disk_that_fills_up_while_slabs_grow_stops_no_request(fast_dir: Path, fork: Fork, scrape: Scrape) -> None:
    """Workers fill a small file system by themselves: none is killed, what they cannot share they keep and count."""
    with small_disk(fast_dir / "disk", "256k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)

        def work(worker: int) -> float:
            for number in range(3_000):
                hits.labels(f"{worker}-{number}").inc()
                hits.labels("all").inc()
            return sum(
                value for name, value in scrape(mine).items() if name.startswith("hits_total{code=" + str(worker))
            )

        own = [fork(work, worker).result() for worker in range(3)]
        values = scrape(disk / "store")
        mine.shutdown()

    assert [3000.0, 3000.0, 3000.0] == own
    assert 1 <= values["mpmetrics_drops_total"]


@needs_root
def test_attempts_on_a_full_disk_leak_no_descriptors(fast_dir: Path, fork: Fork) -> None:
    """However often a slab cannot be made, the process holds as many files as before."""
    with small_disk(fast_dir / "disk", "64k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
        fill(disk)

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
