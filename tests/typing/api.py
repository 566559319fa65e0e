"""The public names as an application uses them; `test_typing.py` has mypy check this file. It is never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import mpmetrics
from mpmetrics import Counter, Enum, Gauge, Histogram, Info, Meter, Provider, Summary, UpDownCounter
from mpmetrics.instruments.info import InfoSeries
from mpmetrics.instruments.series import CounterSeries, DistributionSeries, EnumSeries, GaugeSeries, UpDownSeries
from mpmetrics.integrations.gunicorn import install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics import MeterObserver

provider = Provider(Path("shop"))

counter = Counter("requests", "Requests.", ["method"], "app", "web", "", None, provider=provider, max_series=10)
assert_type(counter.labels("GET"), CounterSeries)
assert_type(counter.labels(method="GET"), CounterSeries)
counter.labels("GET", 200).inc()
counter.inc(2)
counter.inc(0.5, exemplar={"trace_id": "1"})
counter.remove("GET")
counter.remove_by_labels({"method": 200})
counter.clear()

gauge = Gauge("size", "Size.", ("x",), multiprocess_mode="livemax", unit="bytes", namespace="app", subsystem="pool")
assert_type(gauge.labels("a"), GaugeSeries)
gauge.labels("a").set(1)
gauge.inc()
gauge.dec(0.5)
gauge.set_to_current_time()

open_jobs = UpDownCounter("jobs", "Jobs.", multiprocess_mode="livesum")
assert_type(open_jobs.labels("a"), UpDownSeries)

histogram = Histogram("latency", "Latency.", buckets=(0.1, 1, 10))
assert_type(histogram.labels("a"), DistributionSeries)
histogram.observe(0.5)

summary = Summary("took", "Took.")
assert_type(summary.labels("a"), DistributionSeries)

info = Info("build", "Build.")
assert_type(info.labels("a"), InfoSeries)
info.info({"version": "1"})

enum = Enum("state", "State.", states=["on", "off"])
assert_type(enum.labels("a"), EnumSeries)
enum.state("on")


@counter.count_exceptions()
@open_jobs.track_inprogress()
@histogram.time()
@gauge.labels("a").track_inprogress()
@summary.labels("a").time()
def handle(number: int) -> str:
    """Decorators keep the signature."""
    return str(number)


assert_type(handle(1), str)

with counter.labels("GET").count_exceptions(ValueError), histogram.time(), open_jobs.track_inprogress():
    pass

collector = mpmetrics.Collector("shop")
assert_type(collector.render(accept="text/plain"), tuple[str, bytes])
assert_type(collector.render("text/plain", ["up"]), tuple[str, bytes])
for family in collector.collect():
    assert_type(family.name, str)

meter = mpmetrics.get_meter("shop", version="1", attributes={"region": "eu", "zones": ["a", "b"]})
assert_type(meter, Meter)
assert_type(provider.meter("shop", "1", {"a": 1}), Meter)
orders = meter.counter("orders", "Orders.", "1", attributes={"a": 1.5}, max_series=5)
orders.add(1, {"status": "paid"})
orders.inc({"status": 200})
meter.up_down_counter("open", multiprocess_mode="livesum").dec({"a": None})
meter.gauge("load", multiprocess_mode="max").set(1.5)
meter.histogram("took", buckets=(0.1, 1)).record(0.5)
depth = meter.observable_gauge("depth", callback=lambda observer: observer.observe(1, {"queue": "mail"}))
sent = meter.observable_counter("sent", temporality="delta", scope="worker", timeout=1, max_age=5)
meter.observable_up_down_counter("busy", callback=lambda _: [(1, {"a": 1})])


@meter.callback(depth, sent, timeout=1)
async def read(observer: MeterObserver) -> None:
    """Decorated, it keeps its type."""
    observer.observe(depth, 1)
    observer.observe(sent, 2, {"to": "a"})


def read_again(observer: MeterObserver) -> Iterator[object]:
    """A generator is a valid callback."""
    observer.observe(depth, 1)
    yield sent, 2


meter.register_callback(read_again, depth, sent).unregister()
gauge.labels("a").set_function(lambda: 5)
options = mpmetrics.ExporterOptions(without_units=True, namespace="shop")
mpmetrics.Collector(provider, options=options, max_age=1, worker_timeout=1)
mpmetrics.start_http_server(8000, path="/metrics", source=mpmetrics.Collector(options=options))
security = mpmetrics.Security(tls_cert="cert.pem", tls_key=Path("key.pem"), users_file=None, token_file="token")
mpmetrics.start_http_server(8000, security=security, environ={"MPMETRICS_TLS_CERT": "cert.pem"})
install(globals(), bind="127.0.0.1:9464", security=security)
provider.add_attributes({"a": 1}, meter="shop.*")
Provider(attributes={"a": 1}, resource={"service.name": "shop"})

mpmetrics.set_provider(provider)
mpmetrics.set_provider(None)
assert_type(mpmetrics.get_provider(), Provider)
mpmetrics.make_wsgi_app(provider)
mpmetrics.make_asgi_app(collector)
mpmetrics.make_wsgi_app()
provider.force_flush()
provider.shutdown()
