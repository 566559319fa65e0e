"""Flushes a registry's metrics into a Prometheus registry, every few seconds."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector as PrometheusCollector

from mpmetrics.collector.prometheus_families import prometheus_families
from mpmetrics.drivers.config import Config
from mpmetrics.drivers.driver import FIRST_PAUSE, Driver
from mpmetrics.drivers.registry_readings import readings
from mpmetrics.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from mpmetrics.collector.reading import Reading
    from mpmetrics.drivers.config import Span, Style
    from mpmetrics.drivers.stop import Stop
    from mpmetrics.registry import Registry

__all__ = ["PrometheusDriver"]


class PrometheusDriver(Driver):
    """Shows the metrics of ``registry``, over all processes, as they were at the last flush.

    They show in ``prometheus_registry``, which can be served or pushed; without one, in :meth:`readings`, which
    ``Collector(sources=[driver.readings])`` serves. Several drivers may have one ``prometheus_registry``: a name that
    another of them shows already is not shown twice. While it runs, the driver also ticks the rates, when they are due.

    One driver a host is enough: start it beside the server, not in each worker. Other arguments and errors as in
    :class:`Config`.
    """

    def __init__(
        self,
        registry: Registry,
        flush_interval: float,
        namespace: str = "",
        subsystem: str = "",
        prometheus_registry: CollectorRegistry | None = None,
        *,
        style: Style = "native",
        duration_unit: str = "s",
        percentiles: Span = "lifetime",
    ) -> None:
        self.config = Config(namespace, subsystem, registry, flush_interval, duration_unit, style, percentiles)
        super().__init__(flush_interval)
        self._flushed: list[Reading] = []
        if prometheus_registry is not None:
            _publisher(prometheus_registry).add(self)

    @classmethod
    def with_config(cls, config: Config, prometheus_registry: CollectorRegistry | None = None) -> PrometheusDriver:
        """A driver that does what ``config`` says."""
        return cls(
            config.registry,
            config.flush_interval,
            config.namespace,
            config.subsystem,
            prometheus_registry,
            style=config.style,
            duration_unit=config.duration_unit,
            percentiles=config.percentiles,
        )

    def once(self) -> None:
        """Flush now.

        Raises :class:`~mpmetrics.errors.ConflictError` when two metrics would have one name; the others are flushed
        nevertheless. ShutdownError once the registry's provider was shut down.
        """
        problems: list[str] = []
        metrics = self.config.registry.read(ask=True)
        self._flushed = readings(metrics, self.config, problems.append)
        if problems:
            raise ConflictError("; ".join(problems))

    def readings(self) -> list[Reading]:
        """What was flushed last."""
        return self._flushed

    def collect(self) -> Iterator[Metric]:
        """What was flushed last as prometheus_client's metric families."""
        return prometheus_families(self._flushed)

    def _wait_until(self, due: float, stop: Stop) -> None:
        registry = self.config.registry
        while not stop.is_set():
            to_tick = registry.next_tick - registry.clock()
            to_flush = due - time.monotonic()
            if to_flush <= 0 or to_flush <= to_tick:
                super()._wait_until(due, stop)
                return
            if not stop.wait(max(0.0, to_tick)) and not self._attempt(registry.read):
                stop.wait(FIRST_PAUSE)

    def __repr__(self) -> str:
        return f"PrometheusDriver({self.config.registry!r})"


class Publisher(PrometheusCollector):
    """What the drivers of one Prometheus registry have flushed."""

    def __init__(self) -> None:
        self._drivers: list[PrometheusDriver] = []

    def add(self, driver: PrometheusDriver) -> None:
        """Show what ``driver`` flushes."""
        self._drivers.append(driver)

    def describe(self) -> list[Metric]:
        """Nothing: what there is shows when it is collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of all drivers; of those with one name, the first driver's."""
        seen: set[str] = set()
        for driver in list(self._drivers):
            for family in driver.collect():
                if family.name not in seen:
                    seen.add(family.name)
                    yield family


_publishers: weakref.WeakKeyDictionary[CollectorRegistry, Publisher] = weakref.WeakKeyDictionary()
"""One for each Prometheus registry that a driver was made for."""


def _publisher(registry: CollectorRegistry) -> Publisher:
    publisher = _publishers.get(registry)
    if publisher is None:
        publisher = _publishers[registry] = Publisher()
        registry.register(publisher)
    return publisher
