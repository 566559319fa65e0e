"""What a driver sends out: the metrics of a registry, of a Prometheus registry, or of the whole server."""

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
    """What has metric families to give: a CollectorRegistry, a Collector."""

    def collect(self) -> Iterable[Metric]:
        """The families."""


class SentMetrics:
    """``what`` to send: a registry, its driver, anything with ``collect``, or by default all metrics of the server.

    TypeError for what is none of these.
    """

    def __init__(self, what: Registry | PrometheusDriver | Collectable | None) -> None:
        if isinstance(what, Registry):
            what = PrometheusDriver.with_config(Config(registry=what))
        if what is not None and not callable(getattr(what, "collect", None)):
            msg = (
                f"what to send is a Registry, a driver of one, or has a collect() as a CollectorRegistry, not {what!r}"
            )
            raise TypeError(msg)
        self._what = what

    def use(self, collection: Collection) -> None:
        """What all metrics of the server are."""
        if self._what is None:
            self._what = collection

    def collect(self) -> Iterable[Metric]:
        """The families as they are now; a registry's are flushed first."""
        if self._what is None:
            self._what = Collection(get_provider())
        if isinstance(self._what, PrometheusDriver):
            self._what.once()
        return self._what.collect()
