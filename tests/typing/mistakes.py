"""Mistakes that a type checker must find: each line that ends in `# wrong` is one. It is never run."""

from __future__ import annotations

from mpmetrics import Collector, Counter, Enum, Gauge, Histogram, Info, Security, UpDownCounter, get_meter

counter = Counter("a", "")
counter.inc("1")  # wrong
counter.labels("x").inc(None)  # wrong
counter.labels("x").dec()  # wrong
counter.set(1)  # wrong
counter.dec()  # wrong
counter.labels("x").labels("y")  # wrong
counter.observe(1)  # wrong
Counter(1, "")  # wrong
Counter("a")  # wrong
Counter("a", "", labels=["x"])  # wrong
Counter("a", "", provider="shop")  # wrong
Gauge("a", "", multiprocess_mode="average")  # wrong
Gauge("a", "").observe(1)  # wrong
UpDownCounter("a", "").set(1)  # wrong
UpDownCounter("a", "", multiprocess_mode="max")  # wrong
Histogram("a", "").inc()  # wrong
Histogram("a", "", buckets=1)  # wrong
Enum("a", "", states=[1, 2])  # wrong
Enum("a", "").state(1)  # wrong
Info("a", "").info("version")  # wrong
Info("a", "").set(1)  # wrong
Collector(1)  # wrong
Collector().render(1)  # wrong
Security("cert.pem")  # wrong
Security(password="secret")  # wrong
Security(tls_cert=1)  # wrong
meter = get_meter("a")
get_meter(1)  # wrong
meter.counter(1)  # wrong
meter.counter("a").add("1")  # wrong
meter.counter("a").dec()  # wrong
meter.counter("a").inc("status")  # wrong
meter.counter("a").inc({1: "a"})  # wrong
meter.gauge("a").add(1)  # wrong
meter.histogram("a").observe(1)  # wrong
meter.observable_gauge("a", callback=5)  # wrong
meter.observable_gauge("a", scope="thread")  # wrong
meter.observable_gauge("a", temporality="delta")  # wrong
meter.observable_counter("a", temporality="gamma")  # wrong
meter.observable_counter("a").add(1)  # wrong
meter.register_callback(print, meter.counter("a"))  # wrong
Gauge("a", "").set_function(lambda: "5")  # wrong
