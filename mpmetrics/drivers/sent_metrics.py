"""SentMetrics: what a driver sends, the metrics of a registry, of a prometheus_client registry, or of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mpmetrics.collector.collection import Collection
from mpmetrics.drivers.config import Config
from mpmetrics.drivers.prometheus import PrometheusDriver
from mpmetrics.provider import get_provider
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

__all__ = ["Collectable", "SentMetrics"]


class Collectable(Protocol):
    """An object that returns metric families, such as a CollectorRegistry or a Collector."""

    def collect(self) -> Iterable[Metric]:
        """Return the families."""


class SentMetrics:
    """The metrics of ``what``: a registry, its driver, an object with ``collect``, or None for all of the server.

    TypeError for any other object.
    """

    def __init__(self, what: Registry | PrometheusDriver | Collectable | None) -> None:
        if isinstance(what, Registry):
            what = PrometheusDriver.with_config(Config(registry=what))
        if what is not None and not callable(getattr(what, "collect", None)):
            msg = (
                f"source must be a Registry, a driver of one, or have collect() like a CollectorRegistry, not {what!r}"
            )
            raise TypeError(msg)
        self._what = what

    def use(self, collection: Collection) -> None:
        """Take the metrics of ``collection``, if all metrics of the server are sent."""
        if self._what is None:
            self._what = collection

    def collect(self) -> Iterable[Metric]:
        """Return the families as they are now; those of a registry are flushed first."""
        if self._what is None:
            self._what = Collection(get_provider())
        if isinstance(self._what, PrometheusDriver):
            self._what.once()
        return self._what.collect()
