"""Synchronous instruments of the Meter API: attributes, their precedence, names, conflicts, and many processes."""

from __future__ import annotations

import os
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import Collector, ConflictError, Counter, Gauge, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]
    Start = Callable[[Callable[[], object]], Any]

SCOPE = ("otel_scope_name", "m")


def labels(**more: str) -> tuple[tuple[str, str], ...]:
    """Return sorted labels, with those of the meter."""
    return tuple(sorted([SCOPE, *more.items()]))


def test_the_four_kinds(provider: Provider, shown: Shown) -> None:
    """Counter, up-down counter, gauge and histogram count with all their methods."""
    meter = provider.meter("m")
    counter = meter.counter("c", help="C")
    counter.add(2, {"k": "v"})
    counter.inc({"k": "v"})
    counter.inc()
    up_down = meter.up_down_counter("u")
    up_down.add(-5)
    up_down.inc()
    up_down.dec({"k": "v"})
    gauge = meter.gauge("g", multiprocess_mode="sum")
    gauge.set(3)
    gauge.set(4)
    histogram = meter.histogram("h", buckets=[1, 2])
    histogram.record(1.5)
    histogram.record(9, {"k": "v"})
    values = shown(provider)

    assert 3.0 == values["c_total", labels(k="v")]
    assert 1.0 == values["c_total", labels()]
    assert (-4.0, -1.0) == (values["u", labels()], values["u", labels(k="v")])
    assert 4.0 == values["g", labels()]
    assert [0.0, 1.0, 1.0] == [values["h_bucket", labels(le=le)] for le in ("1.0", "2.0", "+Inf")]
    assert (9.0, 1.0) == (values["h_sum", labels(k="v")], values["h_count", labels(k="v")])


def test_default_buckets(provider: Provider, shown: Shown) -> None:
    """The default buckets are those of OpenTelemetry."""
    provider.meter("m").histogram("h").record(1)
    bounds = [dict(key)["le"] for name, key in shown(provider) if name == "h_bucket"]
    expected = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000, float("inf"))

    assert list(expected) == [float(bound) for bound in bounds]


def test_precedence(shown: Shown) -> None:
    """A call's attributes override the instrument's, the meter's and the provider's; patterns select meters."""
    provider = Provider(attributes={"a": "provider", "b": "provider", "c": "provider", "d": "provider"})
    provider.add_attributes({"p": "named"}, meter="m*", version="1.*")
    provider.add_attributes({"q": "other"}, meter="other")
    provider.add_attributes({"r": "any", "a": "later"})
    meter = provider.meter("m", version="1.2", attributes={"b": "meter", "c": "meter", "d": "meter"})
    counter = meter.counter("c", attributes={"c": "instrument", "d": "instrument"})
    counter.add(1, {"d": "call"})
    ((_, key),) = shown(provider)

    assert {
        "a": "later",
        "b": "meter",
        "c": "instrument",
        "d": "call",
        "p": "named",
        "r": "any",
        "otel_scope_name": "m",
        "otel_scope_version": "1.2",
    } == dict(key)


class Colour(StrEnum):
    """An enumeration of strings."""

    RED = "red"


VALUES: list[tuple[object, str]] = [
    ("text", "text"),
    (Colour.RED, "red"),
    (True, "true"),
    (False, "false"),
    (1, "1"),
    (1.0, "1.0"),
    (1.5, "1.5"),
    (None, "None"),
    (["a", "é", 1, True], '["a", "é", 1, true]'),
    ((1.5, None), "[1.5, null]"),
    (b"x", "b'x'"),
    ({"k": 1}, "{'k': 1}"),
    ("\ud800", "\ufffd"),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[repr(value) for value, _ in VALUES])
def test_values_of_attributes(value: object, text: str, provider: Provider, shown: Shown) -> None:
    """Each type of value has its text, at the first and at later uses."""
    counter = provider.meter("m").counter("c")
    for _ in range(3):
        counter.inc({"k": value})

    assert {("c_total", labels(k=text)): 3.0} == shown(provider)


def test_equal_values_of_different_types(provider: Provider, shown: Shown) -> None:
    """Equal values of different types, such as 1, 1.0, True and "1", count in the series of their texts."""
    counter = provider.meter("m").counter("c")
    for _ in range(2):
        for value in (1, True, 1.0, "1", 1.0, True, 1):
            counter.inc({"k": value})

    assert {
        ("c_total", labels(k="1")): 6.0,
        ("c_total", labels(k="true")): 4.0,
        ("c_total", labels(k="1.0")): 4.0,
    } == shown(provider)


def test_order_and_emptiness(provider: Provider, shown: Shown) -> None:
    """The order of attributes does not matter, and an empty value is the same as no attribute."""
    counter = provider.meter("m").counter("c")
    counter.inc({"a": "1", "b": "2", "c": ""})
    counter.inc({"b": "2", "a": "1"})

    assert {("c_total", labels(a="1", b="2")): 2.0} == shown(provider)


def test_bad_attributes(provider: Provider, shown: Shown) -> None:
    """Bad attributes raise an error, and nothing is counted."""
    meter = provider.meter("m")
    counter, gauge, histogram = meter.counter("c"), meter.gauge("g"), meter.histogram("h")
    for wrong in ([("a", 1)], "a", 5):
        with pytest.raises(TypeError, match="attributes must be a mapping"):
            counter.add(1, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an attribute's name must be a str, not 1"):
        counter.inc({1: "a"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="has an empty name"):
        counter.inc({"": "a"})
    for reserved in ("otel_scope_name", "otel.scope.version", "otel_metric_overflow"):
        with pytest.raises(ValueError, match="reserved"):
            counter.inc({reserved: "a"})
    with pytest.raises(ValueError, match="'worker', which is reserved"):
        gauge.set(1, {"worker": "a"})
    with pytest.raises(ValueError, match="'le', which is reserved"):
        histogram.record(1, {"le": "a"})
    with pytest.raises(ValueError, match="can only go up"):
        counter.add(-1)
    with pytest.raises(ValueError, match="can only go up"):
        counter.add(float("nan"))
    with pytest.raises(ValueError, match="belongs to no bucket"):
        histogram.record(float("nan"))
    with pytest.raises(ValueError, match="'g': attribute 'worker' would be the label"):
        provider.meter("n", attributes={"worker": "a"}).gauge("g")
    with pytest.raises(ValueError, match="reserved"):
        provider.meter("n", attributes={"otel_scope_name": "a"})

    assert {} == shown(provider)


def test_bad_names(provider: Provider) -> None:
    """Invalid names, units, buckets, modes and caps raise errors that name the value; nothing is made."""
    meter = provider.meter("m")
    for make in (meter.counter, meter.up_down_counter, meter.gauge, meter.histogram, meter.observable_gauge):
        with pytest.raises(ValueError, match="invalid instrument name '1a'"):
            make("1a")  # type: ignore[operator]
        with pytest.raises(TypeError, match="a unit must be a str"):
            make("a", unit=5)  # type: ignore[operator]
        with pytest.raises(ValueError, match="are reserved"):
            make("mpmetrics.a")  # type: ignore[operator]
        with pytest.raises(ValueError, match="max_series must be a whole number, at least 1, not 0"):
            make("a", max_series=0)  # type: ignore[operator]
    with pytest.raises(ValueError, match="strictly increase"):
        meter.histogram("a", buckets=[2, 1])
    with pytest.raises(ValueError, match="multiprocess_mode must be one of"):
        meter.gauge("a", multiprocess_mode="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be .sum. or .livesum."):
        meter.up_down_counter("a", multiprocess_mode="max")  # type: ignore[arg-type]
    for name, version in (("", "1"), (5, ""), ("m", 1)):
        with pytest.raises((TypeError, ValueError), match="a meter"):
            provider.meter(name, version)  # type: ignore[arg-type]

    assert [] == [family.name for family in Collector(provider).collect() if not family.name.startswith("mpmetrics_")]


def test_the_same_again(provider: Provider, shown: Shown) -> None:
    """The same arguments return the same meter, and make another object of the same metric."""
    assert provider.meter("m", "1", {"a": 1}) is provider.meter("m", "1", {"a": 1})
    assert provider.meter("m", "1") is not provider.meter("m", "2")
    for _ in range(2):
        provider.meter("m").counter("c", unit="s").inc()
    provider.meter("other").counter("c", unit="s").inc()

    assert {("c_seconds_total", labels()): 2.0, ("c_seconds_total", (("otel_scope_name", "other"),)): 1.0} == shown(
        provider
    )


def test_conflicts(provider: Provider) -> None:
    """A name in Prometheus that another kind of metric has is an error that names both places."""
    meter = provider.meter("m")
    meter.counter("shop.orders")
    Gauge("plain", "", provider=provider)
    for make in (
        lambda: meter.gauge("shop.orders.total"),
        lambda: meter.gauge("shop.orders"),
        lambda: meter.counter("shop_orders"),
        lambda: provider.meter("other").up_down_counter("shop.orders"),
        lambda: meter.observable_counter("shop.orders"),
        lambda: Counter("shop_orders", "", provider=provider),
        lambda: meter.gauge("plain"),
    ):
        with pytest.raises(ConflictError) as caught:
            make()
        assert 2 == str(caught.value).count("test_meter.py:")
    with pytest.raises(ConflictError, match=r"differs from 'shop.orders'.*in the case of letters alone"):
        meter.counter("Shop.Orders")
    meter.observable_counter("o")
    with pytest.raises(ConflictError, match="temporality 'delta', not 'cumulative'"):
        meter.observable_counter("o", temporality="delta")


def test_different_instruments_of_two_processes(shared: Provider, child: Start, shown: Shown) -> None:
    """Two processes may declare different instruments: both count, and the later one is shown."""
    child(lambda: shared.meter("m").counter("a.b").add(1))
    shared.meter("m").gauge("a.b", multiprocess_mode="max").set(5)

    assert {("a_b", labels()): 5.0} == shown(shared)


def test_long_values_of_attributes_are_cut(provider: Provider, shown: Shown, caplog: Any) -> None:
    """A longer value is cut to 1,024 characters with an ellipsis, and logged once for each instrument."""
    counter = provider.meter("m").counter("c")
    for more in (0, 1, 70_000):
        counter.inc({"k": "x" * (1024 + more)})

    kept, cut = labels(k="x" * 1024), labels(k="x" * 1023 + "…")
    assert {("c_total", kept): 1.0, ("c_total", cut): 2.0} == shown(provider)
    assert 1 == len(caplog.messages)


def test_past_the_cap(provider: Provider, shown: Shown) -> None:
    """Attributes past ``max_series`` count in the overflow series."""
    counter = provider.meter("m").counter("c", max_series=2)
    for number in range(5):
        counter.inc({"n": number})
        counter.inc({"n": str(number)})

    assert {
        ("c_total", labels(n="0")): 2.0,
        ("c_total", labels(n="1")): 2.0,
        ("c_total", (("otel_metric_overflow", "true"),)): 6.0,
    } == shown(provider)


def test_removal(provider: Provider, shown: Shown) -> None:
    """A removed series starts again at zero; removing one that does not exist is no error; clear removes all."""
    counter = provider.meter("m").counter("c")
    counter.add(5, {"k": "v"})
    counter.add(7)
    counter.remove({"k": "v"})
    counter.remove({"k": "never"})
    assert {("c_total", labels()): 7.0} == shown(provider)

    counter.inc({"k": "v"})
    assert 1.0 == shown(provider)["c_total", labels(k="v")]

    counter.clear()
    assert {} == shown(provider)


def test_removal_by_another_process(shared: Provider, shown: Shown, child: Start) -> None:
    """After another process has removed a series, an instrument that used it counts in a new one."""
    counter = shared.meter("m").counter("c")
    counter.add(5, {"k": "v"})
    child(lambda: counter.remove({"k": "v"}))
    counter.inc({"k": "v"})

    assert {("c_total", labels(k="v")): 1.0} == shown(shared)


def test_processes_and_threads(shared: Provider, shown: Shown, child: Start) -> None:
    """Threads of several processes count exactly, with both kinds of instruments in one scrape."""
    counter = shared.meter("m").counter("c")
    plain = Counter("plain", "", provider=shared)

    def count() -> None:
        def run() -> None:
            for _ in range(500):
                counter.inc({"k": "v"})
                plain.inc()

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(3):
        child(count)
    count()

    assert {("c_total", labels(k="v")): 8000.0, ("plain_total", ()): 8000.0} == shown(shared)


def test_get_meter(monkeypatch: pytest.MonkeyPatch, shown: Shown) -> None:
    """get_meter() returns a meter of the default provider."""
    provider = Provider()
    mpmetrics.set_provider(provider)
    try:
        mpmetrics.get_meter("m", version="1", attributes={"region": "eu"}).counter("c").inc()
    finally:
        mpmetrics.set_provider(None)
    monkeypatch.undo()

    assert {("c_total", labels(otel_scope_version="1", region="eu")): 1.0} == shown(provider)


def test_fork_in_the_middle(shared: Provider, shown: Shown) -> None:
    """Values that a forked child inherits are not counted twice."""
    counter = shared.meter("m").counter("c")
    counter.inc({"k": "v"})
    pid = os.fork()
    if not pid:
        counter.inc({"k": "v"})
        os._exit(0)
    os.waitpid(pid, 0)
    counter.inc({"k": "v"})

    assert {("c_total", labels(k="v")): 3.0} == shown(Collector(shared))


def test_a_default_provider_is_a_provider() -> None:
    """Another object as the default provider raises TypeError, and the default stays."""
    before = mpmetrics.get_provider()
    with pytest.raises(TypeError, match="not 'typo'"):
        mpmetrics.set_provider("typo")  # type: ignore[arg-type]
    assert before is mpmetrics.get_provider()
