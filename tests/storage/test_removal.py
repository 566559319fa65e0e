"""Removed series end in all processes and do not come back; owners reuse their words, and nothing grows."""

from __future__ import annotations

import gc
import resource
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics._cells.slab import Slab
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage import memory as memory_module
from mpmetrics.storage import shapes
from mpmetrics.storage.fold import fold
from mpmetrics.storage.locks import Mutex
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.removals import Removal
from mpmetrics.storage.shared import Shared

if TYPE_CHECKING:
    from mpmetrics.collector.snapshot import Snapshot

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]


def epoch_of(provider: mpmetrics.Provider) -> Path:
    """The directory of the provider's epoch."""
    assert provider.epoch is not None
    return Path(provider.epoch.path)


def totals(values: dict[str, float]) -> dict[str, float]:
    """The counter's values in a scrape, by label value."""
    return {
        name.removeprefix("hits_total{code=").rstrip("}"): value
        for name, value in values.items()
        if name.startswith("hits_total{")
    }


def shown(reader: EpochReader) -> dict[str, float]:
    """The counter's present values in this reader, by label value."""
    (samples,) = [reading.samples for reading in merge(reader.snapshot()) if reading.name == "hits"]
    return {labels[0][1]: value for suffix, labels, value in samples if suffix == "_total"}


def rows_of(snapshot: Snapshot) -> int:
    """How many rows the snapshot's tables have."""
    return sum(len(shape.table) for shapes in snapshot.shapes.values() for shape in shapes)


class Neighbour:
    """Another process with the same counter; ``go`` makes it do its next action."""

    def __init__(
        self, fork: Fork, gate: Callable[..., Any], hits: mpmetrics.Counter, *actions: Callable[[], object]
    ) -> None:
        self._next, self._done = gate(), gate()

        def live() -> None:
            for action in actions:
                self._next.wait()
                action()
                self._done.open()
            self._next.wait()

        self.hits = hits
        self.process = fork(live)

    def go(self) -> None:
        """Let the process do its next action, and wait until it is done."""
        self._next.open()
        self._done.wait()


@pytest.fixture
def hits(provider: MakeProvider) -> mpmetrics.Counter:
    """A counter."""
    return mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider())


def test_another_process_applies_a_removal_at_its_next_look_up(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], store_dir: str, scrape: Scrape
) -> None:
    """After a removal by one process, the next ``labels`` of another makes the series anew."""
    neighbour = Neighbour(fork, gate, hits, lambda: hits.labels("200").inc(100), lambda: hits.labels("200").inc(7))
    hits.labels("200").inc(10)
    neighbour.go()
    assert {"200": 110} == totals(scrape(store_dir))

    hits.remove("200")
    assert {} == totals(scrape(store_dir))
    neighbour.go()
    assert {"200": 7} == totals(scrape(store_dir))
    hits.labels("200").inc(1)
    assert {"200": 8} == totals(scrape(store_dir))


def test_a_process_that_removes_applies_earlier_removals_of_others(
    hits: mpmetrics.Counter, store_dir: str, scrape: Scrape
) -> None:
    """A process that removes series also applies earlier removals of others that it has not seen yet."""
    other = mpmetrics.Provider(store_dir)
    same = mpmetrics.Counter("hits", "Hits.", ["code"], provider=other)
    for code in ("200", "404"):
        hits.labels(code).inc(5)
    same.remove("200")
    hits.remove("404")
    hits.labels("200").inc(7)

    assert {"200": 7} == totals(scrape(store_dir))
    other.shutdown()


@pytest.mark.parametrize("written", [True, False], ids=["with_a_slab", "before_its_first_write"])
def test_a_held_child_of_a_removed_series_has_no_effect(
    written: bool,  # noqa: FBT001 (the case)
    hits: mpmetrics.Counter,
    fork: Fork,
    gate: Callable[..., Any],
    store_dir: str,
    scrape: Scrape,
) -> None:
    """A held child of a removed series never writes to its former words, which another series may have now."""
    held: list[Any] = []

    def hold() -> None:
        held.append(hits.labels("old"))
        if written:
            held[0].inc(100)

    neighbour = Neighbour(fork, gate, hits, hold, lambda: held[0].inc(1000), lambda: hits.labels("mine").inc(1))
    hits.labels("first").inc()
    neighbour.go()
    hits.remove("old")
    for number in range(5):
        hits.labels(f"new-{number}").inc()
    neighbour.go()

    expected = {"first": 1.0} | {f"new-{number}": 1.0 for number in range(5)}
    assert expected == totals(scrape(store_dir))
    neighbour.go()
    for number in range(5, 10):
        hits.labels(f"new-{number}").inc()
    expected |= {"mine": 1.0} | {f"new-{number}": 1.0 for number in range(5, 10)}
    assert expected == totals(scrape(store_dir))


def test_a_removed_series_of_an_idle_process_does_not_come_back(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], store_dir: str, scrape: Scrape
) -> None:
    """A removed series of a process that never looks again is not shown, neither while it lives nor after its fold."""
    held: list[Any] = []

    def hold() -> None:
        held.append(hits.labels("old"))
        held[0].inc(100)

    neighbour = Neighbour(fork, gate, hits, hold, lambda: held[0].inc(1000))
    hits.labels("first").inc()
    neighbour.go()
    hits.remove("old")
    hits.labels("old").inc(2)
    neighbour.go()
    assert {"first": 1, "old": 2} == totals(scrape(store_dir))

    neighbour.process.stop()
    for _ in range(2):
        assert {"first": 1, "old": 2} == totals(scrape(store_dir))


def test_counts_never_land_in_another_series(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], store_dir: str, scrape: Scrape
) -> None:
    """While one thread makes series and another removes them, no count lands in another series."""
    names = [f"held-{number}" for number in range(50)]
    neighbours = [Neighbour(fork, gate, hits, lambda: [hits.labels(name).inc(1e6) for name in names]) for _ in range(5)]
    for neighbour in neighbours:
        neighbour.go()
    kept = mpmetrics.Counter("kept", "x", ["x"], provider=hits._provider, max_series=10_000_000)

    def remove() -> None:
        for name in names:
            hits.remove(name)
            hits.labels(name).inc(1e9)
            hits.remove(name)

    thread = threading.Thread(target=remove)
    thread.start()
    made = 0
    while thread.is_alive() or made < 500:
        kept.labels(str(made)).inc()
        made += 1
    thread.join()

    found = scrape(store_dir)
    assert {1.0} == {value for name, value in found.items() if name.startswith("kept_total")}
    assert {} == totals(found)


@pytest.mark.skipif(_cells.TWIN != "pure", reason="nothing of its process comes between in the compiled twin")
def test_a_removal_in_the_middle_of_a_first_use(
    hits: mpmetrics.Counter, store_dir: str, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal committed between a first use's check for removals and its record: the later count is shown."""
    other = mpmetrics.Provider(store_dir)
    same = mpmetrics.Counter("hits", "Hits.", ["code"], provider=other)
    hits.labels("grow").inc()
    grow = Slab.grow

    def remove_and_grow(self: Slab, words: int, size: int) -> bool:
        monkeypatch.setattr(Slab, "grow", grow)
        same.remove("in-between")
        return grow(self, words, size)

    monkeypatch.setattr(Slab, "grow", remove_and_grow)
    number = 0
    while Slab.grow is remove_and_grow:
        hits.labels("in-between").inc()
        hits.labels(f"fill-{number}").inc()
        number += 1
    hits.labels("in-between").inc()

    assert 1 <= totals(scrape(store_dir))["in-between"] <= number + 1
    other.shutdown()


def test_a_record_without_its_generation_removes_nothing(
    hits: mpmetrics.Counter, store_dir: str, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed before the commit of its removal has removed nothing; the next removal overwrites its record."""
    hits.labels("old").inc(5)
    hits.labels("other").inc(6)

    class Killed(BaseException):
        """Stands for a kill of the process."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Shared, "generation", property(Shared.generation.fget, die))
        with pytest.raises(Killed):
            hits.remove("old")
    assert {"old": 5, "other": 6} == totals(scrape(store_dir))
    hits.remove("other")
    assert {"old": 5} == totals(scrape(store_dir))


def test_a_series_that_is_made_again_starts_at_zero(
    hits: mpmetrics.Counter, fork: Fork, store_dir: str, scrape: Scrape
) -> None:
    """Old values do not come back: not this process's, not a live or dead one's, not the retired file's."""
    sizes = mpmetrics.Histogram("sizes", "Sizes.", ["code"], buckets=(1, 2), provider=hits._provider)

    def write() -> None:
        hits.labels("200").inc(100)
        sizes.labels("200").observe(1.5)

    for _ in range(3):
        fork(write).result()
        scrape(store_dir)  # folds the dead slabs
        fork(write).result()
        write()
        values = scrape(store_dir)
        assert (300, 3) == (values["hits_total{code=200}"], values["sizes_count{code=200}"])
        hits.remove("200")
        sizes.clear()
        hits.labels("200").inc()
        sizes.labels("200").observe(0.5)
        for _ in range(2):
            values = scrape(store_dir)
            assert (1, 1, 0.5, 1) == tuple(
                values[name]
                for name in (
                    "hits_total{code=200}",
                    "sizes_count{code=200}",
                    "sizes_sum{code=200}",
                    "sizes_bucket{code=200,le=1.0}",
                )
            )
        hits.remove("200")
        sizes.remove("200")


def test_values_that_never_reached_the_store_can_be_removed(
    hits: mpmetrics.Counter, store_dir: str, scrape: Scrape
) -> None:
    """The removal of a waiting series ends it: it does not move into the store later."""
    late = mpmetrics.Provider.deferred()
    waiting = mpmetrics.Counter("hits", "Hits.", ["code"], provider=late)
    held = waiting.labels("old")
    held.inc(5)
    waiting.labels("kept").inc(6)
    waiting.remove("old")
    held.inc(5)

    late.attach(hits._provider.epoch)

    assert {"kept": 6} == totals(scrape(store_dir))
    late.memory.close()


def test_a_removal_that_cannot_be_recorded_changes_nothing(
    hits: mpmetrics.Counter, store_dir: str, scrape: Scrape
) -> None:
    """While another process holds the lock of removals, a removal raises, and the series still counts."""
    hits.labels("200").inc()
    with (
        Mutex(str(epoch_of(hits._provider) / "removals.lock"), 0.0),
        pytest.raises(mpmetrics.StoreError, match=r"removals\.lock"),
    ):
        hits.remove("200")
    hits.labels("200").inc()

    assert {"200": 2} == totals(scrape(store_dir))


@pytest.mark.parametrize("ends_all", [True, False], ids=["", "control"])
def test_all_are_removed_where_the_store_has_little_room(
    hits: mpmetrics.Counter,
    store_dir: str,
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
    ends_all: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """In a full slab without room for the ENDs, all removed series are gone and count from zero again."""
    codes = [str(number) for number in range(500)]
    for code in codes:
        hits.labels(code).inc(5)
    memory = hits._provider.memory
    file = epoch_of(hits._provider) / memory.process.slab.file
    file.rename(f"{file}.away")
    file.mkdir()
    ended = Removal.ended

    def ended_while_there_is_room(self: Removal, children: Any) -> Any:
        return (key for key in ended(self, children) if memory.process.slab.room_for(0, 24))

    if not ends_all:
        monkeypatch.setattr(Removal, "ended", ended_while_there_is_room)
    hits.clear()
    assert {} == totals(scrape(store_dir))
    for code in codes:
        hits.labels(code).inc()
    file.rmdir()
    Path(f"{file}.away").rename(file)
    hits._provider.force_flush()

    assert ends_all == (dict.fromkeys(codes, 1.0) == totals(scrape(store_dir)))


def sizes_of(path: Path) -> dict[str, int]:
    """Allocated bytes of each kind of file."""
    return {entry.name.split("-")[0]: 512 * entry.stat().st_blocks for entry in path.iterdir()}


@pytest.mark.parametrize("is_scraped", [True, False])
def test_removals_leave_memory_and_files_flat(
    provider: MakeProvider,
    fork: Fork,
    gate: Callable[..., Any],
    store_dir: str,
    scrape: Scrape,
    is_scraped: bool,  # noqa: FBT001 (a parameter)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After 30,000 series, made and removed beside an idle process, files and memory are as after 10,000.

    The twin in Python, which is slow while its memory is traced, makes 12,000 and 4,000.
    """
    for module in (fold_module, memory_module):
        monkeypatch.setattr(module, "SHORTEN_AT", 1 << 14)
    mine = provider()
    path = epoch_of(mine)
    held = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    idle = Neighbour(fork, gate, held, lambda: [held.labels(f"session-0-{number}").inc() for number in range(20)])
    idle.go()

    def churn() -> list[tuple[int, dict[str, int]]]:
        hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
        hits.labels("kept").inc()
        collector = mpmetrics.Collector(store_dir)
        readings = []
        gc.freeze()  # else each collection of the parent's objects takes a tenth of a second
        tracemalloc.start()
        for batch in range(100 if _cells.TWIN == "compiled" else 40):
            for number in range(300):
                hits.labels(f"session-{batch}-{number}").inc()
            for number in range(20):
                hits.remove(f"session-{batch}-{number}")
            if is_scraped:
                collector.readings()
            hits.clear()
            hits.labels("kept").inc()
            gc.collect()
            readings.append((tracemalloc.get_traced_memory()[0], sizes_of(path)))
        return readings

    readings = fork(churn).result()
    early, late = readings[: len(readings) // 3], readings[len(readings) // 3 :]

    assert {"kept": 1} == totals(scrape(store_dir))
    assert max(size["slab"] for _, size in late) <= max(size["slab"] for _, size in early) <= 1 << 19
    assert max(size["removals"] for _, size in late) <= 2 * fold_module.SHORTEN_AT
    assert max(memory for memory, _ in late) <= max(memory for memory, _ in early) + (256 << 10)


def test_a_reader_forgets_series_that_were_removed(hits: mpmetrics.Counter) -> None:
    """While 12,000 series come and go, 300 at a time, a reader never has more than a few thousand rows."""
    hits.labels("kept").inc()
    reader = EpochReader(str(epoch_of(hits._provider)))
    rows = []
    for batch in range(40):
        for number in range(300):
            hits.labels(f"session-{batch}-{number}").inc()
        rows.append(rows_of(reader.snapshot()))
        for number in range(300):
            hits._provider.memory.forget(hits.family, (f"session-{batch}-{number}",))

    assert 1_000 < max(rows) < 4_000
    assert {"kept": 1} == shown(reader)


def test_a_reader_that_starts_over_keeps_unlinked_files(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that starts over with new tables still shows an unlinked slab and an unlinked retired file."""
    monkeypatch.setattr(shapes, "SPARE_ROWS", 10)
    path = epoch_of(hits._provider)
    hits.labels("mine").inc()
    fork(lambda: hits.labels("dead").inc(3)).result()
    fold(str(path))
    idle = Neighbour(fork, gate, hits, lambda: hits.labels("idle").inc(5))
    idle.go()
    reader = EpochReader(str(path))
    table = reader.snapshot().shapes["hits"][0].table
    (path / "retired").unlink()
    (path / "slab-1").unlink()
    others = 0
    for number in range(200):
        hits.labels(str(number)).inc()
        before, table = table, reader.snapshot().shapes["hits"][0].table
        others += table is not before
        hits.remove(str(number))

    assert 2 < others < 50
    assert {"mine": 1, "dead": 3, "idle": 5} == shown(reader)


def test_a_flip_during_the_first_reading_is_read_again(
    hits: mpmetrics.Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If records move beyond the known size of the file, the reader checks the size again."""
    hits.labels("kept").inc()
    path = epoch_of(hits._provider)
    read, number = SlabReader.read, 0

    def flips() -> int:
        with (path / "slab-0").open("rb") as file:
            return memoryview(file.read(fmt.PAGE)).cast("Q")[fmt.FLIPS]

    def read_late(self: SlabReader, declare: Any) -> bool:
        nonlocal number
        while flips() == 0:
            for _ in range(300):
                number += 1
                hits.labels(str(number)).inc()
                hits._provider.memory.forget(hits.family, (str(number),))
        return read(self, declare)

    monkeypatch.setattr(SlabReader, "read", read_late)
    reader = EpochReader(str(path))

    assert {"kept": 1} == shown(reader)
    assert number > 300


def test_series_that_are_removed_one_by_one_take_the_same_words(
    provider: MakeProvider, store_dir: str, scrape: Scrape
) -> None:
    """Series that are made and removed one after the other use the words of one series."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("kept").inc()
    hits.labels("session").inc()
    place = hits.labels("session").place
    hits.remove("session")
    for number in range(1_500):
        hits.labels(f"session-{number}").inc()
        assert place == hits.labels(f"session-{number}").place
        hits.remove(f"session-{number}")

    hits.labels("last").inc()
    assert {"kept": 1, "last": 1} == totals(scrape(store_dir))


def test_removals_that_end_no_series_are_dropped_from_the_list(
    hits: mpmetrics.Counter,
    fork: Fork,
    gate: Callable[..., Any],
    store_dir: str,
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shortened list keeps the removals that end an idle process's series, so none comes back."""
    idle = Neighbour(fork, gate, hits, lambda: hits.labels("old").inc(100))
    hits.labels("first").inc()
    idle.go()
    hits.remove("old")
    for number in range(20):
        hits.labels(str(number)).inc()
        hits.remove(str(number))
    monkeypatch.setattr(fold_module, "SHORTEN_AT", 1)
    path = epoch_of(hits._provider)
    before = (path / "removals").stat().st_size

    fold(str(path))

    assert (path / "removals").stat().st_size < before / 10
    assert {"first": 1} == totals(scrape(store_dir))
    idle.process.stop()
    assert {"first": 1} == totals(scrape(store_dir))


def test_the_removal_that_ended_an_overflow_series_stays_in_the_list(
    hits: mpmetrics.Counter, provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``clear`` ended an idle process's overflow series; a later removal of the empty label does not replace it."""
    few = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider(), max_series=1)
    few.labels("one").inc()
    few.labels("more").inc(5)
    few.remove("one")
    hits.clear()
    hits.remove("")
    monkeypatch.setattr(fold_module, "SHORTEN_AT", 1)
    path = epoch_of(hits._provider)

    fold(str(path))

    assert {} == shown(EpochReader(str(path)))


@pytest.mark.parametrize("is_counted", [True, False], ids=["", "control"])
def test_a_new_list_with_the_inode_of_the_old_one_is_read_from_the_start(
    hits: mpmetrics.Counter,
    provider: MakeProvider,
    store_dir: str,
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
    is_counted: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A disk may give a new list the old one's inode number: an idle process still reads it from the start."""
    idle = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider())
    idle.labels("old").inc(5)
    hits.remove("another")
    idle.labels("old")
    if not is_counted:
        monkeypatch.setattr(Shared, "count_shortening", lambda _: None)
    monkeypatch.setattr(fold_module, "SHORTEN_AT", 1)
    path = epoch_of(hits._provider)
    removals, first = path / "removals", path / "first"
    first.hardlink_to(removals)
    fold(str(path))
    hits.remove("old")
    first.write_bytes(removals.read_bytes())
    first.rename(removals)

    idle.labels("old").inc(7)

    assert ({"old": 7} if is_counted else {}) == totals(scrape(store_dir))


def test_a_process_without_descriptors_applies_a_removal_later(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], scrape: Scrape, provider: MakeProvider
) -> None:
    """A process that is out of descriptors applies a removal at a later look-up; what it counts then is shown."""

    def count_without() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        hits.labels("a").inc(100)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def count(amount: float) -> Callable[[], None]:
        return lambda: hits.labels("a").inc(amount)

    neighbour = Neighbour(fork, gate, hits, count(1), count_without, count(3))
    neighbour.go()
    hits.remove("a")
    neighbour.go()
    neighbour.go()

    assert {"a": 3} == totals(scrape(provider()))
