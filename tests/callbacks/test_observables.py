"""Observable instruments in one process: which callbacks run when, and what a scrape shows of their observations."""

from __future__ import annotations

import asyncio
import logging
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Gauge, Provider
from mpmetrics.collector.epoch_reader import EpochReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Seen = Callable[[Any], dict[str, float]]


def test_the_three_kinds(provider: Provider) -> None:
    """One callback observes all three kinds; each scrape shows its new values, as a counter and two gauges."""
    meter = provider.meter("test")
    counter = meter.observable_counter("demo.counter", help="C", unit="%")
    up_down = meter.observable_up_down_counter("demo.up_down", help="U", unit="%")
    gauge = meter.observable_gauge("demo.gauge", help="G", unit="%")

    @meter.callback(counter, up_down, gauge)
    def read(observer: Any) -> None:
        observer.observe(counter, 10)
        observer.observe(up_down, 20)
        observer.observe(gauge, 30)

    collector = Collector(provider)
    for _ in range(2):
        lines = [line for line in collector.render()[1].decode().splitlines() if "demo_" in line]
        assert [
            "# HELP demo_counter_percent_total C",
            "# TYPE demo_counter_percent_total counter",
            'demo_counter_percent_total{otel_scope_name="test"} 10.0',
            "# HELP demo_gauge_percent G",
            "# TYPE demo_gauge_percent gauge",
            'demo_gauge_percent{otel_scope_name="test"} 30.0',
            "# HELP demo_up_down_percent U",
            "# TYPE demo_up_down_percent gauge",
            'demo_up_down_percent{otel_scope_name="test"} 20.0',
        ] == lines


def test_callbacks_run_once_for_each_collection(provider: Provider, seen: Seen) -> None:
    """A callback runs once for each collection and at no other time; one that is registered later runs, too."""
    runs: list[str] = []
    meter = provider.meter("test")
    meter.observable_gauge("a", callback=lambda _: runs.append("a"))
    assert [] == runs

    collector = Collector(provider)
    seen(collector)
    meter.observable_gauge("b", callback=lambda _: runs.append("b"))
    seen(collector)

    assert ["a", "a", "b"] == runs


def test_callbacks_of_instruments_run_before_those_of_meters(provider: Provider, seen: Seen) -> None:
    """Callbacks of instruments run first, then those of meters, each in the order of registration."""
    runs: list[str] = []
    first, second = provider.meter("first"), provider.meter("second")
    one = first.observable_gauge("one")
    first.register_callback(lambda _: runs.append("meter 1"), one)
    two = second.observable_gauge("two", callback=lambda _: runs.append("instrument 2"))
    second.register_callback(lambda _: runs.append("meter 2"), two)
    first.observable_gauge("three", callback=lambda _: runs.append("instrument 3"))

    seen(provider)

    assert ["instrument 2", "instrument 3", "meter 1", "meter 2"] == runs


def test_concurrent_scrapes_share_collections(provider: Provider) -> None:
    """When many threads scrape at the same time, each callback runs exactly once for each collection."""
    runs = []
    entered = threading.Event()

    def callback(observer: Any) -> None:
        runs.append(1)
        entered.wait(0.01)
        observer.observe(1)

    provider.meter("test").observable_gauge("a", callback=callback)
    collector = Collector(provider)
    threads = [threading.Thread(target=collector.render) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    text = collector.render()[1].decode()
    assert f"\nmpmetrics_collections_total {len(runs)}.0\n" in text
    assert f'\nmpmetrics_callback_duration_seconds_count{{callback="a"}} {len(runs)}.0\n' in text
    assert len(runs) < 51


def test_values_that_are_observed_twice(provider: Provider, seen: Seen) -> None:
    """In one collection, totals add up, also over callbacks; the last value of a gauge counts."""
    meter = provider.meter("test")

    def twice(observer: Any) -> None:
        observer.observe(1, {"k": "v"})
        observer.observe(2, {"k": "v"})
        observer.observe(5)

    counter = meter.observable_counter("c", callback=twice)
    meter.observable_up_down_counter("u", callback=twice)
    meter.observable_gauge("g", callback=twice)
    meter.register_callback(lambda observer: observer.observe(counter, 10), counter)

    assert {'c_total{k="v"}': 3.0, "c_total": 15.0, 'u{k="v"}': 3.0, "u": 5.0, 'g{k="v"}': 2.0, "g": 5.0} == seen(
        provider
    )


def test_a_series_that_is_not_observed_is_absent(provider: Provider, seen: Seen) -> None:
    """A series that no callback observed is missing in that scrape, whatever its temporality."""
    meter = provider.meter("test")
    observed = [True]

    def callback(observer: Any) -> None:
        if observed[0]:
            observer.observe(1)

    meter.observable_counter("cumulative", callback=callback)
    meter.observable_counter("delta", callback=callback, temporality="delta")
    meter.observable_gauge("gauge", callback=callback)
    collector = Collector(provider)
    assert {"cumulative_total": 1.0, "delta_total": 1.0, "gauge": 1.0} == seen(collector)

    observed[0] = False
    assert {} == seen(collector)

    observed[0] = True
    assert {"cumulative_total": 1.0, "delta_total": 2.0, "gauge": 1.0} == seen(collector)


@pytest.mark.usefixtures("shared")
def test_delta_moves_a_stored_total(store_directory: str, seen: Seen) -> None:
    """Deltas are added to a total in the store, which a later collector of another process continues."""
    for expected in (5.0, 10.0):
        provider = Provider(store_directory)
        meter = provider.meter("test")
        meter.observable_counter("c", callback=lambda observer: observer.observe(5), temporality="delta")
        meter.observable_up_down_counter("u", callback=lambda observer: observer.observe(-5), temporality="delta")

        assert {"c_total": expected, "u": -expected} == seen(provider)
        provider.shutdown()


def test_functions_generators_and_coroutines_report(provider: Provider, seen: Seen) -> None:
    """Plain functions, generators, coroutine functions and async generators all report."""
    meter = provider.meter("test")

    def plain(observer: Any) -> None:
        observer.observe(1)

    def generator(_: Any) -> Iterator[object]:
        yield 2
        yield 20, {"k": "v"}

    async def coroutine(observer: Any) -> None:
        await asyncio.sleep(0)
        observer.observe(3)

    async def async_generator(_: Any) -> AsyncIterator[object]:
        await asyncio.sleep(0)
        yield 4

    def listing(_: Any) -> list[object]:
        return [5]

    for function in (plain, generator, coroutine, async_generator, listing):
        meter.observable_gauge(function.__name__, callback=function)
    several = meter.observable_gauge("several")

    @meter.callback(several)
    def for_meter(_: Any) -> Iterator[object]:
        yield several, 6
        yield several, 7, {"k": "v"}

    assert {
        "plain": 1.0,
        "generator": 2.0,
        'generator{k="v"}': 20.0,
        "coroutine": 3.0,
        "async_generator": 4.0,
        "listing": 5.0,
        "several": 6.0,
        'several{k="v"}': 7.0,
    } == seen(provider)


def test_a_callback_that_raises(provider: Provider, scrape: Seen, caplog: pytest.LogCaptureFixture) -> None:
    """Its earlier observations are shown, the others run, and the error is counted each time and logged once."""
    meter = provider.meter("test")

    def bad(observer: Any) -> None:
        observer.observe(1)
        raise OSError("the disk is gone")

    async def exits(_: Any) -> None:
        raise SystemExit(3)

    meter.observable_gauge("bad", callback=bad)
    meter.observable_gauge("exits", callback=exits)
    meter.observable_gauge("good", callback=lambda observer: observer.observe(2))
    collector = Collector(provider)
    scrape(collector)
    shown = scrape(collector)

    assert (1.0, 2.0) == (shown["bad"], shown["good"])
    assert 2.0 == shown['mpmetrics_callback_errors_total{callback="bad"}']
    assert 2.0 == shown['mpmetrics_callback_errors_total{callback="exits"}']
    assert 0.0 == shown['mpmetrics_callback_errors_total{callback="good"}']
    assert 1 == sum("the disk is gone" in record.getMessage() for record in caplog.records)


BAD: list[tuple[str, object]] = [
    ("counter", "5"),
    ("counter", None),
    ("counter", object()),
    ("counter", 1j),
    ("counter", float("nan")),
    ("counter", float("inf")),
    ("counter", -1),
    ("counter", 10**400),
    ("updown", float("nan")),
    ("updown", b"5"),
    ("gauge", [1]),
    ("gauge", "nan"),
]


@pytest.mark.parametrize(("kind", "value"), BAD, ids=lambda value: repr(value)[:20])
def test_a_bad_value_is_dropped(
    kind: str, value: object, provider: Provider, scrape: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad value is dropped, counted, and logged once with the value; all other observations are shown."""
    meter = provider.meter("test")
    make: Any = {
        "counter": meter.observable_counter,
        "updown": meter.observable_up_down_counter,
        "gauge": meter.observable_gauge,
    }[kind]

    def callback(observer: Any) -> None:
        observer.observe(value, {"k": "bad"})
        observer.observe(1, {"k": "good"})

    make("a", callback=callback)
    collector = Collector(provider)
    scrape(collector)
    shown = scrape(collector)

    assert 1 == sum(name.startswith(("a{", "a_total{")) for name in shown)
    assert 2.0 == shown['mpmetrics_callback_dropped_observations_total{callback="a"}']
    assert 0.0 == shown['mpmetrics_callback_errors_total{callback="a"}']
    assert 1 == sum("observed" in record.getMessage() for record in caplog.records)
    assert [logging.WARNING] == [record.levelno for record in caplog.records]


def test_good_values(provider: Provider, seen: Seen) -> None:
    """Everything that float() converts counts: bool, Decimal, objects with ``__float__``; a gauge may be NaN."""
    meter = provider.meter("test")
    meter.observable_gauge("d", callback=lambda observer: observer.observe(Decimal("1.5")))
    meter.observable_gauge("b", callback=lambda observer: observer.observe(True))
    meter.observable_gauge("n", callback=lambda observer: observer.observe(float("nan")))
    shown = seen(provider)

    assert (1.5, 1.0) == (shown["d"], shown["b"])
    assert shown["n"] != shown["n"]


@pytest.mark.parametrize("attributes", [5, ["a"], {1: "a"}, {"": "a"}, {"otel_scope_name": "x"}], ids=repr)
def test_bad_attributes_are_dropped(attributes: object, provider: Provider, scrape: Seen) -> None:
    """An observation with bad attributes is dropped; the others are shown."""
    meter = provider.meter("test")

    def callback(observer: Any) -> None:
        observer.observe(1, attributes)
        observer.observe(2)

    meter.observable_gauge("a", callback=callback)
    shown = scrape(provider)

    assert 2.0 == shown["a"]
    assert 1.0 == shown['mpmetrics_callback_dropped_observations_total{callback="a"}']


def test_an_instrument_that_is_not_registered(provider: Provider, scrape: Seen) -> None:
    """Observing another instrument or yielding no arguments is dropped and counted; returning a value is an error."""
    meter = provider.meter("test")
    mine, other = meter.observable_gauge("mine"), meter.observable_gauge("other")

    @meter.callback(mine)
    def callback(observer: Any) -> Iterator[object]:
        observer.observe(other, 1)
        observer.observe("mine", 1)
        observer.observe(mine, 2)
        yield ()
        yield mine, 1, {}, "too many"

    meter.observable_gauge("returns", callback=lambda _: 5)
    shown = scrape(provider)
    name = f"{__name__}.{callback.__qualname__}"

    assert 2.0 == shown["mine"]
    assert "other" not in shown
    assert 4.0 == shown[f'mpmetrics_callback_dropped_observations_total{{callback="{name}"}}']
    assert 1.0 == shown['mpmetrics_callback_errors_total{callback="returns"}']


def test_a_counter_that_falls(provider: Provider, scrape: Seen) -> None:
    """A lower value is dropped once and counted; the next one counts. An up-down counter may fall."""
    meter = provider.meter("test")
    values = [10.0, 4.0, 4.0, 6.0]
    now: list[float] = []
    meter.observable_counter("c", callback=lambda observer: observer.observe(now[-1]))
    meter.observable_up_down_counter("u", callback=lambda observer: observer.observe(now[-1]))
    collector = Collector(provider)
    shown = []
    for value in values:
        now.append(value)
        shown.append(scrape(collector))

    assert [10.0, None, 4.0, 6.0] == [each.get("c_total") for each in shown]
    assert values == [each["u"] for each in shown]
    assert 1.0 == shown[-1]['mpmetrics_callback_dropped_observations_total{callback="c"}']


def test_registration_errors(provider: Provider) -> None:
    """A wrong registration raises an error at once, and nothing is registered."""
    meter, other = provider.meter("test"), provider.meter("other")
    gauge, foreign = meter.observable_gauge("g"), other.observable_gauge("f")
    worker = meter.observable_gauge("w", scope="worker")

    for function in (None, 5, "f"):
        with pytest.raises(TypeError, match="the callback must be a function"):
            meter.register_callback(function, gauge)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'bad'.*the callback must be a function, not 5"):
        meter.observable_gauge("bad", callback=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the observable instruments"):
        meter.register_callback(print)
    with pytest.raises(TypeError, match=r"MeterCounter.*is not observable"):
        meter.register_callback(print, meter.counter("c"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one callback for each meter"):
        meter.register_callback(print, gauge, foreign)
    with pytest.raises(ValueError, match="differ in scope"):
        meter.register_callback(print, gauge, worker)
    for timeout in (0, -1, float("nan"), float("inf"), "5"):
        with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
            meter.register_callback(print, gauge, timeout=timeout)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_age must be a number of seconds, at least 0, not -1"):
        meter.observable_gauge("old", callback=print, max_age=-1)
    with pytest.raises(ValueError, match="scope must be one of host, worker, not 'thread'"):
        meter.observable_gauge("s", scope="thread")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temporality must be one of cumulative, delta, not 'gamma'"):
        meter.observable_counter("t", temporality="gamma")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"multiprocess_mode .max. needs scope=.worker."):
        meter.observable_gauge("m", multiprocess_mode="max")
    assert [] == list(provider.callbacks)
    path = None if provider.epoch is None else provider.epoch.path
    assert {"g", "f", "w", "c"} == set(EpochReader(path, provider.memory).snapshot().shapes)


def test_names_of_callbacks(provider: Provider) -> None:
    """Two functions of one name get two names, by which self-metrics and CrashedCallbacks tell them apart."""
    meter = provider.meter("test")
    gauge = meter.observable_gauge("g")
    for _ in range(3):
        meter.register_callback(lambda _: None, gauge)
    name = f"{__name__}.test_names_of_callbacks.<locals>.<lambda>"

    assert [name, f"{name}#2", f"{name}#3"] == [callback.name for callback in provider.callbacks]


def test_unregister(provider: Provider, seen: Seen) -> None:
    """A callback that was unregistered runs no more; unregistering it again does nothing."""
    meter = provider.meter("test")
    gauge = meter.observable_gauge("g")
    registration = meter.register_callback(lambda observer: observer.observe(gauge, 1), gauge)
    collector = Collector(provider)
    assert {"g": 1.0} == seen(collector)

    registration.unregister()
    registration.unregister()

    assert {} == seen(collector)


def test_the_callback_of_an_instrument_that_is_made_again(provider: Provider, seen: Seen) -> None:
    """It replaces the earlier callback, so nothing counts twice."""
    for value in (1, 2):
        provider.meter("test").observable_counter("c", callback=lambda observer, value=value: observer.observe(value))  # type: ignore[misc]
    provider.meter("test").observable_counter("c", attributes={"k": "v"}, callback=lambda observer: observer.observe(3))

    assert {"c_total": 2.0, 'c_total{k="v"}': 3.0} == seen(provider)


def test_max_age(provider: Provider, seen: Seen) -> None:
    """Younger values are used again, and deltas not added twice; a callback's max_age overrides the collector's."""
    runs: list[str] = []
    meter = provider.meter("test")

    def callback(name: str) -> Callable[[Any], None]:
        def run(observer: Any) -> None:
            runs.append(name)
            observer.observe(1)

        return run

    meter.observable_counter("kept", callback=callback("kept"), temporality="delta")
    meter.observable_counter("fresh", callback=callback("fresh"), temporality="delta", max_age=0)
    collector = Collector(provider, max_age=3600)

    assert {"kept_total": 1.0, "fresh_total": 1.0} == seen(collector)
    assert {"kept_total": 1.0, "fresh_total": 2.0} == seen(collector)
    assert ["kept", "fresh", "fresh"] == runs


def test_max_age_is_none_for_failures(provider: Provider, seen: Seen) -> None:
    """A callback that raised runs again in the next collection, whatever the max_age."""
    runs = []

    def callback(observer: Any) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise OSError
        observer.observe(1)

    provider.meter("test").observable_gauge("g", callback=callback, max_age=3600)
    collector = Collector(provider)

    assert [{}, {"g": 1.0}, {"g": 1.0}] == [seen(collector) for _ in range(3)]
    assert 2 == len(runs)


def test_more_series_than_the_cap(provider: Provider, seen: Seen) -> None:
    """Observations past the cap add up in the overflow series."""
    meter = provider.meter("test")

    def callback(observer: Any) -> None:
        for number in range(5):
            observer.observe(1, {"n": number})

    meter.observable_counter("c", callback=callback, max_series=2)
    meter.observable_counter("d", callback=callback, max_series=2, temporality="delta")
    shown = seen(provider)

    for name in ("c_total", "d_total"):
        assert 3.0 == shown[f'{name}{{otel_metric_overflow="true"}}']
        assert 3 == sum(key.startswith(f"{name}{{") for key in shown)


def test_set_function_in_one_process(provider: Provider, seen: Seen) -> None:
    """The gauge has the function's value; a later function replaces it; a removed series stays removed."""
    gauge = Gauge("g", "", ["k"], provider=provider, multiprocess_mode="sum")
    gauge.labels("a").set_function(lambda: 1)
    gauge.labels("b").set_function(lambda: 2)
    gauge.labels("b").set_function(lambda: 3)
    collector = Collector(provider)
    assert {'g{k="a"}': 1.0, 'g{k="b"}': 3.0} == seen(collector)

    gauge.remove("a")
    assert {'g{k="b"}': 3.0} == seen(collector)
    assert {'g{k="b"}': 3.0} == seen(collector)
    assert 1 == len(list(provider.callbacks))

    with pytest.raises(TypeError, match="the callback must be a function, not 5"):
        gauge.labels("b").set_function(5)  # type: ignore[arg-type]
