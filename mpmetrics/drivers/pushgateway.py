"""PushgatewayDriver: pushes metrics to a Prometheus Pushgateway every few seconds."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from prometheus_client import delete_from_gateway, push_to_gateway
from prometheus_client.exposition import default_handler

from mpmetrics.drivers.driver import Driver, check_interval
from mpmetrics.drivers.sent_metrics import SentMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mpmetrics.collector.collection import Collection
    from mpmetrics.drivers.prometheus import PrometheusDriver
    from mpmetrics.drivers.sent_metrics import Collectable
    from mpmetrics.registry import Registry

__all__ = ["PushgatewayDriver"]


class PushgatewayDriver(Driver):
    """Pushes ``source`` to the ``gateway``; each push replaces the one before.

    ``source`` is a registry, the driver of one, an object with ``collect`` such as a CollectorRegistry, or None: all
    metrics of the server. ``gateway`` is ``host:port`` or a URL. ``job`` and ``grouping_key`` are the labels under
    which the gateway keeps the push; the label ``instance`` is by default this host's name. ``interval`` and
    ``timeout``, of one request, are in seconds. ``handler`` sends the request, such as prometheus_client's handlers
    for authentication. :meth:`stop` deletes what was pushed, unless ``delete_on_stop`` is false.

    The driver pushes totals, not changes. So while the gateway cannot be reached, only the values in between are lost.

    Raises TypeError and ValueError for invalid arguments.
    """

    def __init__(
        self,
        source: Registry | PrometheusDriver | Collectable | None,
        gateway: str,
        job: str,
        *,
        interval: float = 15.0,
        grouping_key: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        delete_on_stop: bool = True,
        handler: Callable[..., Callable[[], None]] = default_handler,
    ) -> None:
        super().__init__(check_interval("interval", interval))
        self._timeout = check_interval("timeout", timeout)
        for what, value in (("gateway", gateway), ("job", job)):
            if not isinstance(value, str) or not value:
                msg = f"{what} must be a str that is not empty, not {value!r}"
                raise ValueError(msg)
        self._source = SentMetrics(source)
        self._gateway = gateway
        self._job = job
        self._key: dict[str, Any] = {"instance": socket.gethostname(), **(grouping_key or {})}
        self._delete_on_stop = delete_on_stop
        self._handler = handler

    def use(self, collection: Collection) -> None:
        """As in the base class."""
        self._source.use(collection)

    def once(self) -> None:
        """Push now; OSError if the gateway cannot be reached or refuses."""
        # Set before the push: one that times out may have arrived.
        self._is_out = True
        registry: Any = _Fixed(list(self._source.collect()))
        with _refusals_closed():
            push_to_gateway(self._gateway, self._job, registry, self._key, self._timeout, self._handler)

    def stop(self, timeout: float = 5.0) -> None:
        """End, wait for the push in progress, and delete what was pushed; a failure of that is logged."""
        super().stop(timeout)
        if self._delete_on_stop:
            self._take_back(lambda: self._delete(timeout))

    def _delete(self, timeout: float) -> None:
        with _refusals_closed():
            delete_from_gateway(self._gateway, self._job, self._key, timeout, self._handler)

    def __repr__(self) -> str:
        return f"PushgatewayDriver({self._gateway!r}, job={self._job!r})"


@contextlib.contextmanager
def _refusals_closed() -> Iterator[None]:
    """Close the answer of a gateway that refuses: an HTTPError holds its connection until then."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise


class _Fixed:
    """Families that were collected before the push, so that an error of collecting is not taken for the gateway's."""

    def __init__(self, collected: list[Any]) -> None:
        self._collected = collected

    def collect(self) -> list[Any]:
        """Return the families."""
        return self._collected
