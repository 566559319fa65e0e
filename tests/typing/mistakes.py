"""Mistakes that a type checker shall find: each line that ends in `# wrong` is one. It is never run."""

from __future__ import annotations

from mpmetrics import Collector, Counter, Enum, Gauge, Histogram, Info, UpDownCounter

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
