"""The public names as an application uses them; `test_typing.py` has mypy check this file. It is never run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import mpmetrics
from mpmetrics import Counter, Enum, Gauge, Histogram, Info, Provider, Summary, UpDownCounter
from mpmetrics.instruments.enum import EnumSeries
from mpmetrics.instruments.info import InfoSeries
from mpmetrics.instruments.series import CounterSeries, DistributionSeries, GaugeSeries, UpDownSeries

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
    """Decorators leave the signature as it is."""
    return str(number)


assert_type(handle(1), str)

with counter.labels("GET").count_exceptions(ValueError), histogram.time(), open_jobs.track_inprogress():
    pass

collector = mpmetrics.Collector("shop")
assert_type(collector.render(accept="text/plain"), tuple[str, bytes])
assert_type(collector.render("text/plain", ["up"]), tuple[str, bytes])
for family in collector.collect():
    assert_type(family.name, str)

mpmetrics.set_provider(provider)
mpmetrics.set_provider(None)
assert_type(mpmetrics.get_provider(), Provider)
mpmetrics.make_wsgi_app(provider)
mpmetrics.make_asgi_app(collector)
mpmetrics.make_wsgi_app()
provider.force_flush()
provider.shutdown()
