"""Pushes metrics to a Prometheus Pushgateway."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from prometheus_client import delete_from_gateway, push_to_gateway
from prometheus_client.exposition import default_handler

from mpmetrics.drivers.periodic import Driver, check_interval
from mpmetrics.drivers.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mpmetrics.collector.collection import Collection
    from mpmetrics.drivers.prometheus import PrometheusDriver
    from mpmetrics.drivers.source import Collectable
    from mpmetrics.registry import Registry

__all__ = ["PushgatewayDriver"]


class PushgatewayDriver(Driver):
    """Pushes ``source`` to the ``gateway``, replacing what it pushed before.

    ``source`` is a registry, the driver of one, anything with ``collect`` such as a CollectorRegistry, or None: all
    metrics of the server. ``gateway`` is ``host:port`` or a URL. ``job`` and ``grouping_key`` are the labels that the
    gateway keeps the push under; the key's ``instance`` is this host's name unless it says another. ``interval`` and
    ``timeout``, of one request, are in seconds. ``handler`` sends the request, as prometheus_client has them for
    authentication. On :meth:`stop`, what was pushed is deleted, unless ``delete_on_stop`` is false.

    Totals are pushed, not changes: while the gateway cannot be reached, nothing is lost but the values in between.

    Raises TypeError and ValueError for arguments that are none.
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
                msg = f"{what} is a str, and not empty, not {value!r}"
                raise ValueError(msg)
        self._source = Source(source)
        self._gateway = gateway
        self._job = job
        self._key: dict[str, Any] = {"instance": socket.gethostname(), **(grouping_key or {})}
        self._delete_on_stop = delete_on_stop
        self._handler = handler

    def use(self, collection: Collection) -> None:
        """As in the base class."""
        self._source.use(collection)

    def once(self) -> None:
        """Push now; OSError when the gateway cannot be reached or refuses."""
        # As in a request's case: a push that times out may have arrived.
        self._is_out = True
        registry: Any = _Fixed(list(self._source.collect()))
        with _refusals_closed():
            push_to_gateway(self._gateway, self._job, registry, self._key, self._timeout, self._handler)

    def stop(self, timeout: float = 5.0) -> None:
        """End, wait for the push under way, and delete what was pushed; a failure of that is logged."""
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
    """Families as the push function takes them: collected before, so that what they raise is not the gateway's."""

    def __init__(self, collected: list[Any]) -> None:
        self._collected = collected

    def collect(self) -> list[Any]:
        """The families."""
        return self._collected
