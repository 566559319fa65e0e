"""Rates, compared with a reference that knows the time of every mark, over simulated time."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Provider
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def reference(marks: list[tuple[float, float]], end: float, minutes: float) -> float:
    """Return the rate at ``end`` after these marks (time since the start, amount), by the definition."""
    share = 1 - math.exp(-5 / 60 / minutes)
    rate = None
    for tick in range(1, int(end / 5) + 1):
        now = math.fsum(amount for when, amount in marks if 5 * (tick - 1) <= when < 5 * tick) / 5
        rate = now if rate is None else rate + share * (now - rate)
    return rate or 0.0


@pytest.mark.parametrize("kind", ["meter", "timer"])
def test_odd_intervals(kind: str) -> None:
    """In one process, a mark at any time counts for the tick in which it falls."""
    clock = Clock()
    registry = Registry("test", provider=Provider(clock=clock), clock=clock)
    metric: Any = getattr(registry, f"get_or_register_{kind}")("it")
    chance = random.Random(3)
    marks = []
    while clock.now < 3000:
        clock.now += chance.choice([0.1, 1.7, 6.0, 6.0, 31.4])
        if kind == "meter":
            amount = chance.randint(1, 20)
            metric.mark(amount)
        else:
            amount = 1
            metric.update(0.1)
        marks.append((clock.now - 1000, amount))
        clock.now += chance.choice([0, 0, 3.3, 17.0])
        if chance.random() < 0.2:
            _ = metric.rate1

    end = clock.now - 1000
    wanted = [reference(marks, end, minutes) for minutes in (1, 5, 15)]
    assert pytest.approx(wanted, abs=1e-9, rel=0) == [metric.rate1, metric.rate5, metric.rate15]
    assert pytest.approx(sum(amount for _, amount in marks) / end, abs=1e-9, rel=0) == metric.rate_mean


def test_marks_of_dead_processes_count(shared_clock: tuple[Clock, Provider], child: Callable[..., Any]) -> None:
    """The marks of a worker that was killed before the tick are in the rate of the process that ticks."""
    clock, provider = shared_clock
    registry = Registry("test", provider=provider, clock=clock)
    meter = registry.get_or_register_meter("it")
    registry.read()
    marks = []
    for tick in range(24):
        # 10 marks every 6 s, by a process that is dead at the tick.
        if tick % 6 != 5:
            clock.now += 0.5
            child(lambda: meter.mark(10)).kill()
            marks.append((clock.now - 1000, 10.0))
            clock.now += 4.5
        else:
            clock.now += 5
        registry.read()

    wanted = [reference(marks, 120, minutes) for minutes in (1, 5, 15)]
    assert pytest.approx(wanted, abs=1e-9, rel=0) == [meter.rate1, meter.rate5, meter.rate15]
    assert wanted[0] > 1


@pytest.fixture
def shared_clock(store_directory: str) -> Any:
    """A provider on a store, with a clock that the test sets."""
    clock = Clock()
    provider = Provider(store_directory, clock=clock)
    yield clock, provider
    provider.shutdown()


def test_a_late_tick_loses_nothing(shared_clock: tuple[Clock, Provider]) -> None:
    """A steady rate is right, however rarely it is read."""
    clock, provider = shared_clock
    registry = Registry("test", provider=provider, clock=clock)
    meter = registry.get_or_register_meter("it")
    registry.read()
    for _ in range(10):
        clock.now += 60
        meter.mark(100)
        registry.read()

    assert pytest.approx([100 / 60] * 3, abs=1e-9) == [meter.rate1, meter.rate5, meter.rate15]


def test_a_late_reader_counts_from_then_on(shared_clock: tuple[Clock, Provider], store_directory: str) -> None:
    """Marks from before the first read are in no rate, because their time is unknown."""
    clock, provider = shared_clock
    Registry("test", provider=provider, clock=clock).get_or_register_meter("it").mark(1_000_000)
    clock.now += 100
    other = Provider(store_directory, clock=clock)
    registry = Registry("test", provider=other, clock=clock)
    registry.read()
    clock.now += 5
    (view,) = registry.read()
    other.shutdown()

    assert (0.0, 0.0, 0.0) == view.rates
    assert pytest.approx(1_000_000 / 105) == view.rate_mean


def test_the_sliding_window() -> None:
    """Percentiles over the window leave out older values; those over the lifetime do not."""
    clock = Clock()
    registry = Registry("test", provider=Provider(clock=clock), clock=clock, window=60)
    timer = registry.get_or_register_timer("it")
    for _ in range(90):
        timer.update(1.0)
    assert pytest.approx(1.0, rel=0.01) == timer.percentile(0.5, over="window")
    for _ in range(20):
        clock.now += 5
        registry.read()
    for _ in range(10):
        timer.update(8.0)

    assert pytest.approx(8.0, rel=0.01) == timer.percentile(0.5, over="window")
    assert pytest.approx(1.0, rel=0.01) == timer.percentile(0.5)
    clock.now += 100
    registry.read()
    clock.now += 100
    assert 0.0 == timer.percentile(0.5, over="window")
