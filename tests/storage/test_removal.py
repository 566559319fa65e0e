"""Removed series are gone in all processes, their slots go to others only when nobody can hold them, nothing grows."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.storage import directory as directory_module
from mpmetrics.storage import memory as memory_module
from mpmetrics.storage.reader import SeriesReader

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]


def epoch_of(provider: mpmetrics.Provider) -> Path:
    """The directory of the provider's epoch."""
    assert provider.epoch is not None
    return Path(provider.epoch.path)


def slots(path: Path) -> dict[str, int]:
    """First slot of each series, by its label value."""
    reader = SeriesReader(str(path))
    reader.sync()
    reader.close()
    return {
        key[0]: series.first for members in reader.catalog.series.values() for key, series in members.items() if key
    }


def totals(values: dict[str, float]) -> dict[str, float]:
    """The counter's values by label value."""
    return {
        name.removeprefix("hits_total{code=").rstrip("}"): value
        for name, value in values.items()
        if name.startswith("hits_total{")
    }


class Neighbour:
    """Another process with the same counter, which does one thing at a time when told to."""

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
        """Let it do the next thing, and wait until it has."""
        self._next.open()
        self._done.wait()


@pytest.fixture
def hits(provider: MakeProvider, monkeypatch: pytest.MonkeyPatch) -> mpmetrics.Counter:
    """A counter; whether slots are free is looked up each time, not ten times a second."""
    look = directory_module.SeriesDirectory.look_for_free_slots

    def at_once(self: Any) -> None:
        self._next_look = 0.0
        look(self)

    monkeypatch.setattr(directory_module.SeriesDirectory, "look_for_free_slots", at_once)
    monkeypatch.setattr(directory_module, "REUSE_AT", 1)
    return mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider())


def test_a_removal_is_seen_by_another_process_at_its_next_look(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], store_dir: str, scrape: Scrape
) -> None:
    """What a process removed, another one's next ``labels`` begins anew."""
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


@pytest.mark.parametrize("written", [True, False], ids=["with_a_slab", "before_its_first_write"])
def test_who_holds_a_removed_series_writes_to_nowhere(
    written: bool,  # noqa: FBT001 (the case)
    hits: mpmetrics.Counter,
    fork: Fork,
    gate: Callable[..., Any],
    store_dir: str,
    scrape: Scrape,
) -> None:
    """A held child of a removed series never writes into a slot that another series has been given since."""
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


def test_slots_rest_until_every_live_process_has_let_go(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any]
) -> None:
    """Slots of a removed series are not given out while a process that held it has not looked, and are afterwards."""
    path = epoch_of(hits._provider)
    neighbour = Neighbour(fork, gate, hits, lambda: hits.labels("old").inc(), lambda: hits.labels("first"))
    hits.labels("first").inc()
    neighbour.go()
    slot = slots(path)["old"]

    hits.remove("old")
    hits.labels("early")
    early = slots(path)["early"]
    neighbour.go()
    hits.labels("late")

    assert slot != early
    assert slot == slots(path)["late"]


def test_a_dead_process_keeps_no_slots_back(
    hits: mpmetrics.Counter, fork: Fork, gate: Callable[..., Any], store_dir: str, scrape: Scrape
) -> None:
    """What only a dead process held is free as soon as it is asked for, and starts at zero."""
    path = epoch_of(hits._provider)
    neighbour = Neighbour(fork, gate, hits, lambda: hits.labels("old").inc(100))
    hits.labels("first").inc()
    neighbour.go()
    slot = slots(path)["old"]
    hits.remove("old")
    neighbour.process.stop()

    hits.labels("new").inc()

    assert slot == slots(path)["new"]
    assert {"first": 1, "new": 1} == totals(scrape(store_dir))


def test_without_the_wait_another_series_would_get_the_values(
    hits: mpmetrics.Counter,
    fork: Fork,
    gate: Callable[..., Any],
    store_dir: str,
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: slots that are given away at once show the values of who still holds them."""
    monkeypatch.setattr(memory_module, "holders", lambda *_: [])
    neighbour = Neighbour(fork, gate, hits, lambda: hits.labels("old").inc(100))
    hits.labels("first").inc()
    neighbour.go()
    hits.remove("old")

    hits.labels("new").inc()

    assert {"first": 1, "new": 101} == totals(scrape(store_dir))


def test_a_series_that_is_made_again_starts_at_zero(
    hits: mpmetrics.Counter, fork: Fork, store_dir: str, scrape: Scrape
) -> None:
    """Neither this process's values, nor a live or dead one's, nor the retired file's come back with the name."""
    sizes = mpmetrics.Histogram("sizes", "Sizes.", ["code"], buckets=(1, 2), provider=hits._provider)

    def write() -> None:
        hits.labels("200").inc(100)
        sizes.labels("200").observe(1.5)

    for _ in range(3):
        fork(write).result()
        scrape(store_dir)  # folds
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
    """A series in private memory goes with its removal, and does not move into the store later."""
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


def test_a_removal_that_the_store_cannot_take_changes_nothing(
    hits: mpmetrics.Counter, store_dir: str, scrape: Scrape
) -> None:
    """While the append lock is not to be had a removal raises, and the series goes on."""
    hits.labels("200").inc()
    lock = directory_module.AppendLock(str(epoch_of(hits._provider) / "series.lock"), lambda: 0)
    assert lock.acquire(1.0)
    with pytest.raises(mpmetrics.StoreError, match=r"series\.lock"):
        hits.remove("200")
    lock.release()
    lock.close()
    hits.labels("200").inc()

    assert {"200": 2} == totals(scrape(store_dir))


def sizes_of(path: Path) -> dict[str, int]:
    """Bytes of each kind of file."""
    return {entry.name.split("-")[0]: entry.stat().st_size for entry in path.iterdir()}


def test_thirty_thousand_removals_leave_memory_and_files_flat(
    provider: MakeProvider, fork: Fork, store_dir: str, scrape: Scrape
) -> None:
    """After 30,000 create and remove cycles files and memory are what they were after 10,000."""
    mine = provider()
    path = epoch_of(mine)

    def churn() -> list[tuple[int, dict[str, int]]]:
        hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
        hits.labels("kept").inc()
        collector = mpmetrics.Collector(store_dir)
        readings = []
        tracemalloc.start()
        for batch in range(100):
            for number in range(300):
                hits.labels(f"session-{batch}-{number}").inc()
            for number in range(20):
                hits.remove(f"session-{batch}-{number}")
            collector.readings()
            hits.clear()
            hits.labels("kept").inc()
            gc.collect()
            readings.append((tracemalloc.get_traced_memory()[0], sizes_of(path)))
        return readings

    readings = fork(churn).result()
    early, late = readings[: len(readings) // 3], readings[len(readings) // 3 :]

    assert {"kept": 1} == totals(scrape(store_dir))
    assert max(size["slab"] for _, size in late) <= max(size["slab"] for _, size in early) <= 8192
    assert max(size["series"] for _, size in late) <= max(size["series"] for _, size in early) * 1.1 < 1 << 20
    assert max(memory for memory, _ in late) <= max(memory for memory, _ in early) + (64 << 10)


def test_series_that_are_removed_one_by_one_leave_files_flat(
    provider: MakeProvider, store_dir: str, scrape: Scrape
) -> None:
    """Series that are made and removed one after the other take the same few slots again and again."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("kept").inc()
    for number in range(1_500):
        hits.labels(f"session-{number}").inc()
        if number == 1_000:
            assert slots(path)[f"session-{number}"] <= 1 + directory_module.REUSE_AT
        hits.remove(f"session-{number}")

    hits.labels("last").inc()
    assert slots(path)["last"] <= 1 + directory_module.REUSE_AT
    assert {"kept": 1, "last": 1} == totals(scrape(store_dir))
    assert 4096 == sizes_of(path)["slab"]
