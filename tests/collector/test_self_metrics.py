"""Self-metrics of the collector: they are present and right, and promtool accepts their names."""

from __future__ import annotations

import gc
import logging
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpmetrics.endpoint.collector import Collector
from mpmetrics.instruments import Counter, Histogram, Info
from mpmetrics.provider import Provider
from mpmetrics.storage.locks import Mutex

Start = Callable[[Callable[[], object]], Any]

ALWAYS = {
    "mpmetrics_scrape_duration_seconds",
    "mpmetrics_damaged_records",
    "mpmetrics_drops_total",
    "mpmetrics_folds_total",
    "mpmetrics_hidden_shapes",
    "mpmetrics_processes",
    "mpmetrics_series",
    "mpmetrics_store_bytes",
    "mpmetrics_store_files",
    "mpmetrics_store_up",
    "mpmetrics_unreadable_files",
}


def self_metrics(collector: Collector) -> dict[str, float]:
    """Return the self-metrics without prefix; the processes by their state."""
    return {
        sample.name.removeprefix("mpmetrics_").removesuffix("_total") + sample.labels.get("state", ""): sample.value
        for family in collector.collect()
        for sample in family.samples
        if family.name.startswith("mpmetrics_")
    }


def test_always_there(provider: Provider) -> None:
    """All self-metrics exist from the first scrape on, with help texts."""
    collector = Collector(provider)
    families = [family for family in collector.collect() if family.name.startswith("mpmetrics_")]

    assert {sample.name for family in families for sample in family.samples} == ALWAYS
    assert all(family.documentation for family in families)
    assert {"counter", "gauge"} == {family.type for family in families}


def test_private_memory_is_not_a_store() -> None:
    """Without a store, store_up is 0, and no files or bytes are counted."""
    provider = Provider()
    Counter("a", "", provider=provider).inc()
    actual = self_metrics(Collector(provider))

    assert 0.0 == actual["store_up"]
    assert 0.0 == actual["store_files"] == actual["store_bytes"] == actual["unreadable_files"]


def test_a_private_process_counts_as_live() -> None:
    """A process with private values counts as one live process."""
    provider = Provider()
    Counter("a", "", provider=provider).inc()
    actual = self_metrics(Collector(provider))

    assert (1.0, 0.0) == (actual["processeslive"], actual["processesdead"])


def test_processes(shared: Provider, child: Start) -> None:
    """Live and dead processes are counted separately; a fold removes the dead ones and increases the count of folds."""
    counter = Counter("a", "", provider=shared)
    collector = Collector(shared)
    counter.inc()
    one, two = child(counter.inc), child(counter.inc)
    assert shared.epoch is not None
    with Mutex(str(Path(shared.epoch.path) / "fold.lock"), 1.0):
        before = self_metrics(collector)
        one.kill()
        two.kill()
        between = self_metrics(collector)
    after = self_metrics(collector)

    assert (3.0, 0.0, 0.0) == (before["processeslive"], before["processesdead"], before["folds"])
    assert (1.0, 2.0, 0.0) == (between["processeslive"], between["processesdead"], between["folds"])
    assert (1.0, 0.0, 2.0) == (after["processeslive"], after["processesdead"], after["folds"])
    assert 1.0 == before["store_up"] == after["store_up"]


def test_series_files_and_bytes(shared: Provider) -> None:
    """Series that are not removed are counted; files and bytes are those of the epoch's directory."""
    collector = Collector(shared)
    counter = Counter("a", "", ["x"], provider=shared)
    for number in range(5):
        counter.labels(number).inc()
    Histogram("h", "", provider=shared)
    counter.remove(0)
    actual = self_metrics(collector)
    assert shared.epoch is not None
    files = list(Path(shared.epoch.path).iterdir())

    assert 5.0 == actual["series"]
    assert len(files) == actual["store_files"]
    assert sum(file.stat().st_blocks * 512 for file in files) == actual["store_bytes"]


def _slabs(provider: Provider) -> list[Path]:
    assert provider.epoch is not None
    return sorted(path for path in Path(provider.epoch.path).iterdir() if path.name.startswith("slab-"))


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "flipped magic"])
@pytest.mark.parametrize("state", ["live", "killed"])
def test_unreadable_slab(
    shared: Provider, child: Start, caplog: pytest.LogCaptureFixture, damage: str, state: str
) -> None:
    """A slab that cannot be read is counted and logged once, and only its own values are missing."""
    counter = Counter("a", "", provider=shared)
    counter.inc()
    mine = _slabs(shared)
    other = child(counter.inc)
    (slab,) = set(_slabs(shared)) - set(mine)
    if state == "killed":
        other.kill()
    content = slab.read_bytes()
    if damage == "empty":
        slab.write_bytes(b"")
    elif damage == "cut":
        slab.write_bytes(content[:20])
    elif damage == "foreign":
        slab.write_bytes(b"<html>" * 2000)
    else:
        slab.write_bytes(bytes([content[0] ^ 1]) + content[1:])

    collector = Collector(shared.directory)
    with caplog.at_level(logging.WARNING, "mpmetrics"):
        bodies = [collector.render()[1].decode() for _ in range(3)]
    for body in bodies:
        assert "\na_total 1.0\n" in body
        assert "\nmpmetrics_unreadable_files 1.0\n" in body
    assert 1 == sum(slab.name in record.getMessage() for record in caplog.records)


def test_a_store_without_epoch(store_directory: str) -> None:
    """A directory without an epoch is no error: the scrape has store_up 0, until an epoch begins."""
    collector = Collector(store_directory)
    assert 0.0 == self_metrics(collector)["store_up"]

    provider = Provider(store_directory)
    Counter("a", "", provider=provider).inc()
    assert 1.0 == self_metrics(collector)["store_up"]
    assert b"\na_total 1.0\n" in collector.render()[1]
    provider.shutdown()


def test_a_deleted_store(store_directory: str) -> None:
    """If the directory is deleted under a server, scrapes work, and the application continues."""
    provider = Provider(store_directory)
    counter = Counter("a", "", ["x"], provider=provider)
    counter.labels("1").inc()
    collector, own = Collector(store_directory), Collector(provider)
    collector.render()
    own.render()
    shutil.rmtree(store_directory)
    counter.labels("1").inc()
    counter.labels("2").inc()

    assert 0.0 == self_metrics(collector)["store_up"]
    assert own.render()[1]
    provider.shutdown()


def test_duration_and_own_metrics_are_linted(shared: Provider, child: Start) -> None:
    """Promtool has no complaint about the self-metrics, those of overflows included."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    counter = Counter("a", "A.", ["x"], max_series=1, provider=shared)
    child(lambda: counter.labels("1").inc()).kill()
    for value in ("2", "past the cap"):
        counter.labels(value).inc()
    Info("b", "B.", provider=shared).info({"v": "1"})
    body = Collector(shared).render()[1]
    assert b"mpmetrics_series_overflows_total{" in body

    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=50, check=False)
    assert (b"", b"", 0) == (done.stdout, done.stderr, done.returncode)


def test_collects_from_many_threads(shared: Provider) -> None:
    """Scrapes of many threads while others count: each is complete, and totals never go backwards."""
    counter = Counter("a", "", ["x"], provider=shared)
    collector = Collector(shared)
    done = threading.Event()
    seen: list[list[float]] = [[] for _ in range(4)]
    failed: list[BaseException] = []

    def count() -> None:
        while not done.is_set():
            for value in "xyz":
                counter.labels(value).inc()

    def scrape(into: list[float]) -> None:
        try:
            for _ in range(30):
                family = next((family for family in collector.collect() if family.name == "a"), None)
                assert family is not None
                into.append(sum(sample.value for sample in family.samples if sample.name == "a_total"))
        except BaseException as error:  # noqa: BLE001 (told to the parent or the test)
            failed.append(error)

    counting = threading.Thread(target=count)
    scraping = [threading.Thread(target=scrape, args=[into]) for into in seen]
    counting.start()
    for thread in scraping:
        thread.start()
    for thread in scraping:
        thread.join()
    done.set()
    counting.join()

    assert [] == failed
    assert all(values == sorted(values) and len(values) == 30 for values in seen)


def test_collector_gives_back_its_files(shared: Provider, child: Start) -> None:
    """Collectors that are garbage leave no open files behind."""
    counter = Counter("a", "", provider=shared)
    counter.inc()
    child(counter.inc).kill()
    Collector(shared).render()

    def opened() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    for _ in range(20):
        Collector(shared).render()
    assert opened() <= before + 5
