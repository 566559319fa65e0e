"""Registries: every kind of metric, by name, over processes; a removed metric is gone in all of them."""

from __future__ import annotations

import math
import random
import statistics
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, ConflictError, Provider, ShutdownError, set_provider
from mpmetrics._cells import TWIN
from mpmetrics.registry import Counter, Registry, Timer, default_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fork = Callable[[Callable[[], object]], Any]


@pytest.fixture
def registry(provider: Provider) -> Registry:
    """A registry with a name, on private memory and on a store."""
    return Registry("test", provider=provider)


@pytest.fixture
def defaults() -> Iterator[Provider]:
    """A default provider for this test."""
    made = Provider()
    set_provider(made)
    yield made
    set_provider(None)


def test_updates_of_each_kind_are_read(registry: Registry) -> None:
    """Each kind of metric shows its updates when it is read."""
    counter = registry.get_or_register_counter("counter")
    counter.inc(50)
    counter.dec(8)
    registry.get_or_register_gauge("gauge").update(-1.5)
    registry.get_or_register_meter("meter").mark(10)
    histogram = registry.get_or_register_histogram("histogram")
    for value in (-2, 0, 1, 5):
        histogram.update(value)

    assert 42 == counter.count
    assert -1.5 == registry.get_or_register_gauge("gauge").value
    assert 10 == registry.get_or_register_meter("meter").count
    assert (4, 4, -2, 5, 1) == (histogram.count, histogram.sum, histogram.min, histogram.max, histogram.mean)
    assert 6.5 == histogram.variance
    assert math.sqrt(6.5) == histogram.stddev
    assert pytest.approx([-2, 0.5, 5], rel=0.01) == histogram.percentiles([0, 0.5, 1])


def test_clear_takes_the_count_away(registry: Registry) -> None:
    """A counter that was cleared continues from zero."""
    counter = registry.get_or_register_counter("counter")
    counter.inc(7)
    counter.clear()
    counter.inc(2)

    assert 2 == counter.count


def test_a_timer_takes_durations_of_all_kinds(registry: Registry) -> None:
    """A timer counts seconds, timedeltas, starts of any clock, a function, a block and a decorated function."""
    timer = registry.get_or_register_timer("timer")
    timer.update(0.5)
    timer.update(timedelta(milliseconds=1500))
    timer.update_since(time.monotonic() - 2)
    timer.update_since(time.time() - 3)
    timer.update_since(datetime.now(UTC) - timedelta(seconds=4))
    assert "done" == timer.time(lambda: "done")
    with timer.time():
        pass
    timer.time()(lambda: None)()

    assert 8 == timer.count
    assert pytest.approx(11, abs=1) == timer.sum


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, 1e200])
def test_a_timer_refuses_what_is_no_duration(registry: Registry, bad: float) -> None:
    """A bad duration raises an error that names the value and the timer, and nothing is counted."""
    timer = registry.get_or_register_timer("timer")

    with pytest.raises(ValueError, match="timer") as caught:
        timer.update(bad)

    assert repr(float(bad)) in str(caught.value)
    assert 0 == timer.count


def test_eight_processes_and_one_distribution(shared: Provider, child: Fork) -> None:
    """Count, sum and variance are exact, percentiles within 1 %, before and after half of the processes are killed."""
    registry = Registry("test", provider=shared)
    timer = registry.get_or_register_timer("timer")
    chance = random.Random(7)
    shares = [[chance.lognormvariate(-3, 2.5) for _ in range(500)] for _ in range(8)]

    def work(values: list[float]) -> None:
        for value in values:
            timer.update(value)

    children = [child(lambda values=values: work(values)) for values in shares]
    values = sorted(value for share in shares for value in share)
    for _ in range(2):
        shown = timer.snapshot().distribution
        assert 4000 == shown.count
        assert math.fsum(values) == shown.sum
        assert (values[0], values[-1]) == (shown.min, shown.max)
        assert math.fsum(values) / 4000 == shown.mean
        assert pytest.approx(statistics.pvariance(values), rel=1e-14) == shown.variance
        exact = statistics.quantiles(values, n=1000)
        got = shown.percentiles([number / 1000 for number in range(1, 1000)])
        assert all(abs(one / other - 1) <= 0.01 for one, other in zip(got, exact, strict=True))
        for one in children[::2]:
            one.kill()


def test_reads_while_busy_processes_are_killed(shared: Provider, child: Fork) -> None:
    """Each read of a timer sees one state of each process, and no count or sum ever falls."""
    registry = Registry("test", provider=shared)
    timer = registry.get_or_register_timer("timer")

    def busy() -> None:
        threading.Thread(target=lambda: [timer.update(0.25) for _ in iter(int, 1)], daemon=True).start()

    count = 0
    for number in range(12):
        one = child(busy)
        for _ in range(4):
            shown = timer.snapshot().distribution
            assert count <= shown.count
            count = int(shown.count)
            if count:
                assert (count / 4, 0.25, 0.25, 0.0) == (shown.sum, shown.min, shown.max, shown.variance)
        if number % 3 == 2:
            one.kill()
    assert count > 0


def test_the_variance_of_large_values_that_differ_little(registry: Registry) -> None:
    """The variance is exact although the squares of the values are large."""
    histogram = registry.get_or_register_histogram("histogram")
    values = [1e9 + 0.001 * step for step in range(100)]
    for value in values:
        histogram.update(value)

    assert pytest.approx(statistics.pvariance(values), rel=1e-12) == histogram.variance


def test_the_range_of_a_timer(registry: Registry) -> None:
    """The percentile of each value from 1 ns to 1 day is within 1 %."""
    for power in range(-90, 49, 3):
        value = 10 ** (power / 10)
        timer = registry.get_or_register_timer(f"timer {power}")
        for amount in (value / 2, value, value * 2):
            timer.update(amount)
        assert abs(timer.percentile(0.5) / value - 1) <= 0.01
    assert 47 == Collector(timer._provider).value("mpmetrics_series")


@pytest.mark.skipif(TWIN != "pure", reason="the compiled core leaves nothing of an operation between two stores")
@pytest.mark.parametrize("step", range(9))
def test_a_timer_killed_in_the_middle_of_an_update(registry: Registry, step: int) -> None:
    """An update that was interrupted before its commit, after any store, does not change what is read."""
    timer = registry.get_or_register_timer("timer")
    for value in (1.0, 3.0):
        timer.update(value)
    cell = timer._series

    class Dying:
        """Words that fail at the n-th store."""

        def __init__(self, words: Any) -> None:
            self.words = words
            self.left = step

        def __getitem__(self, index: int) -> float:
            return float(self.words[index])

        def __setitem__(self, index: int, value: float) -> None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.words[index] = value

    whole, cell._words = cell._words, Dying(cell._words)
    died = False
    try:
        timer.update(10.0)
    except KeyboardInterrupt:
        died = True
    cell._words = whole

    shown = timer.snapshot().distribution
    assert died is (step < 7)
    wanted = (2, 4.0, 1.0, 3.0, 1.0) if died else (3, 14.0, 1.0, 10.0, statistics.pvariance([1, 3, 10]))
    assert wanted == (shown.count, shown.sum, shown.min, shown.max, pytest.approx(shown.variance))
    timer.update(2.0)
    assert wanted[0] + 1 == timer.count
    assert wanted[1] + 2 == timer.sum


def test_a_name_of_another_kind(shared: Provider, store_directory: str) -> None:
    """Within a process, the error names both kinds. Another process may use the other kind: both count."""
    registry = Registry("test", provider=shared)
    registry.get_or_register_timer("it").update(3)
    with pytest.raises(ConflictError, match="'it' cannot be a counter: it is registered as a timer"):
        registry.get_or_register_counter("it")
    other = Provider(store_directory)
    Registry("test", provider=other).get_or_register_counter("it").inc(5)

    assert {("counter", 5), ("timer", 1)} == {(view.role, view.count) for view in registry.read()}
    other.shutdown()


def test_registering_twice(registry: Registry) -> None:
    """``register`` raises for a registered name, and ``get_or_register`` returns the metric."""
    counter = registry.register("it", Counter)

    assert counter is registry.get_or_register_counter("it")
    with pytest.raises(ConflictError, match="registered already"):
        registry.register("it", Counter)
    with pytest.raises(ConflictError, match="'it' cannot be a timer"):
        registry.get_or_register_timer("it")


def test_unregistering_removes_from_all_processes(shared: Provider, store_directory: str) -> None:
    """The series is gone in all processes, writes to the old metric have no effect, and a new one starts at zero."""
    registry = Registry("test", provider=shared)
    mine = registry.get_or_register_timer("it")
    mine.update(1)
    provider = Provider(store_directory)
    elsewhere = Registry("test", provider=provider)
    theirs = elsewhere.get_or_register_timer("it")
    theirs.update(1)
    assert 2 == mine.count

    elsewhere.unregister("it")

    assert [] == registry.read() == elsewhere.read()
    assert registry.get("it") is None
    mine.update(1)
    assert [] == registry.read()
    again = registry.get_or_register_counter("it")  # of another kind, too
    again.inc()
    assert 1 == elsewhere.get_or_register_counter("it").count
    provider.shutdown()


def test_unregistering_what_only_another_process_has(shared: Provider, store_directory: str) -> None:
    """A metric that only another process has registered can be unregistered here."""
    Registry("test", provider=shared).get_or_register_counter("it", {"a": "b"}).inc()
    provider = Provider(store_directory)
    Registry("test", provider=provider).unregister("it", {"a": "b"})
    provider.shutdown()

    assert [] == Registry("test", provider=shared).read()


def test_prefixed_and_child_registries(registry: Registry) -> None:
    """All methods respect the prefix."""
    child = registry.child("shop.")
    grandchild = child.child("cart.")
    registry.get_or_register_counter("one").inc()
    child.get_or_register_counter("two").inc()
    grandchild.get_or_register_counter("three").inc()

    assert ["one", "shop.cart.three", "shop.two"] == [name for name, _ in registry.each()]
    assert ["shop.cart.three", "shop.two"] == [name for name, _ in child.each()]
    assert child.get("two") is registry.get("shop.two")
    assert child.get("one") is None
    grandchild.unregister_all()
    assert ["one", "shop.two"] == [view.name for view in registry.read()]
    assert ["shop.two"] == [view.name for view in child.read()]
    assert "x.y" == Registry("prefixed", prefix="x.", provider=registry._shared._given).get_or_register_meter("y").name


def test_registries_do_not_share_metrics(provider: Provider) -> None:
    """Each registry has its own metrics, with a name or without."""
    for registry in (Registry("a", provider=provider), Registry(provider=provider), Registry(provider=provider)):
        registry.get_or_register_counter("it").inc()
        assert 1 == registry.get_or_register_counter("it").count


def test_the_default_registry_follows_the_default_provider(defaults: Provider) -> None:
    """After the default provider changes, the default registry has none of the old metrics."""
    default_registry.get_or_register_counter("it").inc()
    assert 1 == default_registry.get_or_register_counter("it").count
    fresh = Provider()
    set_provider(fresh)

    assert default_registry.get("it") is None
    assert 0 == default_registry.get_or_register_counter("it").count
    assert defaults is not fresh


def test_healthchecks(registry: Registry) -> None:
    """Healthchecks have the result of their function, which may register metrics while it runs."""

    def broken(check: Any) -> None:
        registry.get_or_register_healthcheck("made meanwhile").healthy()
        check.unhealthy("down")

    good = registry.get_or_register_healthcheck("good", lambda check: check.healthy())
    bad = registry.get_or_register_healthcheck("bad", broken)
    ugly = registry.get_or_register_healthcheck("ugly", lambda _: 1 / 0)
    assert good.is_healthy is None
    registry.run_healthchecks()

    assert (True, False, False) == (good.is_healthy, bad.is_healthy, ugly.is_healthy)
    assert (None, "down") == (good.error, bad.error)
    assert isinstance(ugly.error, ZeroDivisionError)


def test_a_host_is_healthy_if_all_its_processes_are(shared: Provider, child: Fork) -> None:
    """A check is unhealthy for all processes while one living process is unhealthy."""
    check = Registry("test", provider=shared).get_or_register_healthcheck("it")
    check.healthy()
    sick = child(lambda: check.unhealthy("here"))
    assert check.is_healthy is False
    sick.kill()

    assert check.is_healthy is True


def test_functional_gauges(registry: Registry) -> None:
    """The function runs at each read and at no other time; a functional gauge cannot be set."""
    calls = []

    def function() -> float:
        calls.append(1)
        return 40 + len(calls)

    gauge = registry.get_or_register_gauge("it", function=function)
    registry.get_or_register_gauge("bad", function=lambda: 1 / 0)
    assert [] == calls

    values = {view.name: view.value for view in registry.read(ask=True)}
    assert {"it": 41.0, "bad": None} == values
    assert 42.0 == gauge.value
    with pytest.raises(ValueError, match="has a function"):
        gauge.update(1)


def test_past_the_cap_the_overflow_series_counts(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amounts past the cap count in the overflow series."""
    monkeypatch.setattr("mpmetrics.registry.metric.DEFAULT_MAX_SERIES", 2)
    monkeypatch.setattr("mpmetrics.registry.counter.DEFAULT_MAX_SERIES", 2)
    for number in range(5):
        counter = registry.get_or_register_counter("it", {"a": number})
        counter.inc(10)
        assert counter is registry.get_or_register_counter("it", {"a": number})
    for number in reversed(range(5)):
        registry.get_or_register_counter("it", {"a": number}).dec(1)

    shown = {dict(view.labels).get("a", "overflow"): view.count for view in registry.read()}
    assert {"0": 9, "1": 9, "overflow": 27} == shown


def test_after_the_shutdown() -> None:
    """After the shutdown, counting raises nothing, and reading is an error instead of an empty result."""
    clock = [0.0]
    provider = Provider()
    registry = Registry("test", provider=provider, clock=lambda: clock[0])
    meter, timer = registry.get_or_register_meter("meter"), registry.get_or_register_timer("timer")
    provider.shutdown()
    clock[0] = 60.0
    meter.mark()
    timer.update(1)

    with pytest.raises(ShutdownError):
        _ = meter.rate1


def test_a_mark_in_the_middle_of_a_read(provider: Provider) -> None:
    """A signal handler may mark and read while its thread reads; no tick is made twice."""
    clock = [0.0]
    inside: list[object] = []

    def interrupted() -> float:
        if reading and not inside:
            inside.append(1)
            meter.mark(5)
            inside.append(registry.read())
        return clock[0]

    reading = False
    registry = Registry("test", provider=provider, clock=interrupted)
    meter = registry.get_or_register_meter("it")
    registry.read()
    meter.mark(10)
    clock[0] = 5.0
    reading = True
    registry.read()
    reading = False

    assert 2 == len(inside)
    assert 2.0 == meter.rate1
    clock[0] = 10.0
    registry.read()
    assert 15 == meter.count
    assert meter.rate1 < 2.0


def test_labels_are_series_of_their_own(registry: Registry) -> None:
    """Each set of labels is a series, in any order of the labels."""
    registry.get_or_register_counter("it", {"a": "1", "b": "2"}).inc()
    registry.get_or_register_counter("it", {"b": "2", "a": "1"}).inc()
    registry.get_or_register_counter("it", {"c": 3}).inc()

    assert [((("a", "1"), ("b", "2")), 2), ((("c", "3"),), 1)] == [
        (view.labels, view.count) for view in registry.read()
    ]


def test_registries_do_not_show_in_a_scrape_by_themselves(registry: Registry, provider: Provider) -> None:
    """A scrape without a driver does not show a registry's metrics."""
    registry.get_or_register_timer("it").update(1)

    assert b"registry/" not in Collector(provider).render()[1]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda _: Registry("a/b"), ValueError, "a/b"),
        (lambda _: Registry(""), ValueError, "''"),
        (lambda _: Registry(window=0), ValueError, "0"),
        (lambda registry: registry.get_or_register_timer(""), ValueError, "name"),
        (lambda registry: registry.get_or_register_timer(None), TypeError, "None"),
        (lambda registry: registry.get_or_register_gauge("g", function=3), TypeError, "3"),
        (lambda registry: registry.get_or_register_timer("t").percentile(99), ValueError, "99"),
        (lambda registry: registry.get_or_register_timer("t").percentile(0.9, over="x"), ValueError, "'x'"),
        (lambda registry: registry.get_or_register_meter("m").mark(-1), ValueError, "-1"),
    ],
)
def test_bad_input(registry: Registry, make: Callable[[Registry], object], error: type[Exception], words: str) -> None:
    """Bad input raises an error that names the value."""
    with pytest.raises(error, match=words):
        make(registry)


def test_threads(registry: Registry) -> None:
    """No update of any thread is lost."""
    timer: Timer = registry.get_or_register_timer("it")
    threads = [threading.Thread(target=lambda: [timer.update(0.25) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (2000, 500.0) == (timer.count, timer.sum)
