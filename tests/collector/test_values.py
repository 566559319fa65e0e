"""``Collector.value``: one value over all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics import Collector, Counter, Gauge, Histogram, Provider

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_value_over_all_processes(shared: Provider, child: Callable[[Callable[[], object]], Any]) -> None:
    """A counter's value is the total of all processes, dead ones included; a gauge has a value for each worker."""
    counter = Counter("hits", "", ["path"], provider=shared)
    gauge = Gauge("size", "", provider=shared)

    def work() -> None:
        counter.labels("/").inc(2)
        gauge.set(3)

    counter.labels("/").inc()
    child(work)
    child(work).kill()
    collector = Collector(shared.directory)

    assert 5.0 == collector.value("hits_total", {"path": "/"})
    assert 3.0 == collector.value("size", {"worker": "1"})
    assert collector.value("size") is None


def test_names_and_labels_are_whole(provider: Provider) -> None:
    """The name is the one that Prometheus sees, with all labels; an empty label is the same as none."""
    Counter("hits", "", ["path", "host"], provider=provider).labels("/", "").inc(4)
    Histogram("took", "", buckets=[1, 2], provider=provider).observe(1.5)
    provider.meter("shop").counter("shop.orders", unit="1").add(6, {"status": "paid"})
    collector = Collector(provider)

    assert (
        4.0 == collector.value("hits_total", {"path": "/", "host": ""}) == collector.value("hits_total", {"path": "/"})
    )
    assert [None] * 4 == [
        collector.value("hits", {"path": "/"}),
        collector.value("hits_total"),
        collector.value("hits_total", {"path": "/", "host": "a"}),
        collector.value("missing"),
    ]
    assert (1.0, 1.5, 0.0) == (
        collector.value("took_count"),
        collector.value("took_sum"),
        collector.value("took_bucket", {"le": "1.0"}),
    )
    assert 6.0 == collector.value("shop_orders_total", {"status": "paid", "otel_scope_name": "shop"})
