"""A whole scrape by a collector that goes on afterwards, interrupted at every step."""

from __future__ import annotations

from typing import Any

import pytest

import mpmetrics
from mpmetrics.collector import epoch_reader
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.storage.slab import list_slabs


def change_everything(world: Any, ledger: Any) -> None:
    """Have the collector know the store, and then change all that it goes by: series, values, the dead."""
    for number in range(3):
        world.passing.labels(f"gone-{number}").inc()
    world.collector.scrape(None, "gzip")
    world.passing.remove("gone-1")
    ledger.do("h", lambda: world.hits.labels(f"new-{ledger.step}").inc())
    ledger.do("s", lambda: world.sizes.labels(f"new-{ledger.step}").observe(0.25))
    mpmetrics.Counter(f"more_{ledger.step}", "More.", provider=world.provider).inc()
    world.bury(2, lambda: ledger.do("h", lambda: world.hits.labels("dead").inc()))


def scrape(world: Any, _: Any) -> None:
    """Scrape it."""
    world.collector.scrape(None, "gzip")


def look(world: Any) -> None:
    """Fail unless the collector shows what a new collector shows."""
    fresh = mpmetrics.Collector(world.provider.directory)
    both = [collector.render()[1].decode().splitlines() for collector in (world.collector, fresh)]
    shown, expected = ([line for line in lines if not line.startswith("mpmetrics_scrape_")] for lines in both)
    assert expected == shown
    fresh.close()


@pytest.fixture
def whole(sweep_everywhere: Any) -> Any:
    """A sweep through all code that a scrape runs."""
    sweep_everywhere.inspect = look
    return sweep_everywhere


def test_interrupted_anywhere(whole: Any) -> None:
    """An exception from a signal handler costs that scrape; later scrapes, in any thread, are whole and exact."""
    whole.interrupt(scrape, change_everything)


def test_interrupted_in_the_library_of_locks(whole: Any) -> None:
    """The same holds for an exception inside the lock library."""
    whole.where, whole.often = whole.where[-1:], 3
    whole.interrupt(scrape, change_everything)


def test_the_sweep_finds_a_collector_that_goes_on_with_half_a_reading(
    whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a collector that keeps a half-read slab shows wrong numbers in later scrapes."""
    begin = EpochReader._begin
    monkeypatch.setattr(EpochReader, "_begin", lambda self: getattr(self, "_is_torn", False) or begin(self))
    whole.only = ("storage/reader.py:SlabReader._parse", "storage/reader.py:SlabReader.read")
    with pytest.raises(AssertionError, match="interrupted at"):
        whole.interrupt(scrape, change_everything)


@pytest.mark.parametrize("looks_again", [True, False], ids=["", "control"])
def test_a_slab_that_is_set_aside_while_slabs_are_read(
    world: Any, monkeypatch: pytest.MonkeyPatch, *, looks_again: bool
) -> None:
    """A reader reads both slabs when a new process takes a dead one's name between the listing and the opening."""

    def count(_: Any) -> None:
        world.hits.labels("there").inc()

    listings: list[Any] = []

    def interfere(directory: int) -> Any:
        names = list_slabs(directory)
        if not listings:
            assert world.child(count).status == 0
        listings.append(names)
        return names if looks_again else listings[0]

    assert world.child(count).status == 0
    monkeypatch.setattr(epoch_reader, "list_slabs", interfere)

    assert world.peek()["h"] == (2 if looks_again else 1)
