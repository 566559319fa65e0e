"""PrometheusDriver: flushes a registry's metrics into a prometheus_client registry every few seconds."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector as PrometheusCollector

from mpmetrics.collector.prometheus_families import prometheus_families
from mpmetrics.drivers.config import Config
from mpmetrics.drivers.driver import FIRST_PAUSE, Driver
from mpmetrics.drivers.registry_readings import registry_readings
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
    """Shows the metrics of ``registry``, merged over all processes, as they were at the last flush.

    ``prometheus_registry`` shows them and can be served or pushed. Without it, :meth:`readings` returns them, which
    ``Collector(sources=[driver.readings])`` serves. Several drivers may share a ``prometheus_registry``; a name that
    two of them have is shown once. While the driver runs, it also ticks the rates when they are due.

    One driver for each host is enough: start it beside the server, not in each worker. Other arguments and errors as in
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
        """Return a driver with the arguments in ``config``."""
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

        Raises :class:`~mpmetrics.errors.ConflictError` if two metrics would have one name; the others are flushed
        nevertheless. ShutdownError if the registry's provider was shut down.
        """
        problems: list[str] = []
        metrics = self.config.registry.read(ask=True)
        self._flushed = registry_readings(metrics, self.config, problems.append)
        if problems:
            raise ConflictError("; ".join(problems))

    def readings(self) -> list[Reading]:
        """Return what was flushed last."""
        return self._flushed

    def collect(self) -> Iterator[Metric]:
        """Return what was flushed last as prometheus_client's metric families."""
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
    """The collector of one prometheus_client registry that shows what its drivers have flushed."""

    def __init__(self) -> None:
        self._drivers: list[PrometheusDriver] = []

    def add(self, driver: PrometheusDriver) -> None:
        """Show what ``driver`` flushes, from now on."""
        self._drivers.append(driver)

    def describe(self) -> list[Metric]:
        """Return nothing. The registry calls this at registration, to check for equal names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families of all drivers; of families with one name, that of the first driver."""
        seen: set[str] = set()
        for driver in list(self._drivers):
            for family in driver.collect():
                if family.name not in seen:
                    seen.add(family.name)
                    yield family


_publishers: weakref.WeakKeyDictionary[CollectorRegistry, Publisher] = weakref.WeakKeyDictionary()
"""The publisher of each prometheus_client registry that a driver was made for."""


def _publisher(registry: CollectorRegistry) -> Publisher:
    publisher = _publishers.get(registry)
    if publisher is None:
        publisher = _publishers[registry] = Publisher()
        registry.register(publisher)
    return publisher
