"""Instruments used in signal handlers, garbage collections and finalisers that interrupt other uses."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import turns
from mpmetrics.collector.shared_call import SharedCall
from mpmetrics.drivers.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = ["signal", "collection", "finaliser"]
InChild = "Callable[..., Any]"

FOR_EVER = 60.0
"""Seconds in the place of each bounded wait: code that waits for itself hangs, which fails the test."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for a lock ends early: a test that passes shows that no code waited for what it interrupted."""
    monkeypatch.setattr(turns, "PATIENCE", FOR_EVER)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("where", ["store", "private"])
def test_every_kind_counts_within_every_kind(
    setting: str,
    where: str,
    kit: Any,
    storm: Any,
    rounds: Callable[..., Iterator[int]],
    in_child: Callable[..., Any],
    store_directory: str,
) -> None:
    """Totals are exact after many interruptions that also make and remove series, in a store and in private memory."""

    def act() -> tuple[int, dict[str, float], dict[str, float]]:
        used = kit(mpmetrics.Provider(store_directory if where == "store" else None))

        def interrupt() -> None:
            number = interruptions.count
            used.use(f"handler-{number % 300}")
            if number % 20 == 0:
                used.churn(f"handler-{number}")

        own = 0
        with storm(setting, interrupt) as interruptions:
            for own in rounds(lambda _: interruptions.count > 100):
                used.use(f"own-{own % 500}")
                if own % 50 == 0:
                    used.churn(f"own-{own}")
                interruptions.litter()
        used.provider.force_flush()
        counted = used.counted(store_directory if where == "store" else None)
        return interruptions.count, used.expected(own + 1 + interruptions.count), counted

    interruptions, expected, counted = in_child(act)

    assert interruptions > 100
    assert expected == counted


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("source", ["store", "provider"])
def test_a_collector_that_interrupts_itself_answers(
    setting: str,
    source: str,
    storm: Any,
    rounds: Callable[..., Iterator[int]],
    in_child: Callable[..., Any],
    store_directory: str,
) -> None:
    """A scrape that interrupts a scrape of the same collector is answered, with all that was counted before it."""

    def act() -> tuple[int, list[float]]:
        provider = mpmetrics.Provider(store_directory)
        hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider)
        if setting == "signal":  # collections and finalisers come in threads, too, that have but begun
            observe = provider.meter("kit").observable_gauge
            observe("depth", callback=lambda observer: observer.observe(1))
        collector = mpmetrics.Collector(store_directory if source == "store" else provider)
        missed: list[float] = []
        done = 0

        def scrape() -> None:
            nonlocal done
            done += 1
            hits.labels(str(done % 50)).inc()
            before = done
            readings = {reading.name: reading for reading in collector.readings(0.2)}
            shown = sum(sample.value for sample in readings["hits"].samples if sample.suffix == "_total")
            if shown < before - 1:  # one that this one interrupts is before its increment
                missed.append(before - shown)

        with storm(setting, scrape, pause=0.0005) as interruptions:
            for _ in rounds(lambda _: interruptions.count > 20):
                scrape()
                interruptions.litter()
        return interruptions.count, missed

    interruptions, missed = in_child(act)

    assert interruptions > 20
    assert missed == []


def test_without_the_way_aside_a_scrape_waits_for_itself(
    storm: Any, in_child: Callable[..., Any], store_directory: str
) -> None:
    """The control: a scrape that waits for the scrape it interrupts never ends."""

    def act() -> str:
        collector = mpmetrics.Collector(mpmetrics.Provider(store_directory))
        nested: list[str] = []

        class Late(Exception):  # noqa: N818 (not an error)
            pass

        def wait() -> Any:
            deadline = time.monotonic() + 1.0
            while collector._shared._runner is not None:  # as a condition variable does
                if time.monotonic() > deadline:
                    nested.append("hangs")
                    raise Late
                time.sleep(0.001)
            return []

        collector._shared = SharedCall(collector._collect, wait)
        try:
            with storm("signal", collector.readings, pause=0.0005):
                while not nested:
                    collector.readings()
        except Late:
            pass
        return nested[0]

    assert in_child(act) == "hangs"


def test_a_driver_is_stopped_by_a_handler_that_interrupts_its_wait(in_child: Callable[..., Any]) -> None:
    """A signal handler may end the wait that it interrupts, at any point of that wait."""

    def act() -> int:
        stop = Stop()
        waits = 0

        def interrupt(*_: object) -> None:
            stop.set()

        signal.signal(signal.SIGALRM, interrupt)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            stop = Stop()
            signal.setitimer(signal.ITIMER_REAL, 0.00005)
            while not stop.wait(0.00001):
                pass
            assert stop.is_set()
            waits += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert not Stop().wait(0.01)
        return waits

    assert in_child(act) > 100
