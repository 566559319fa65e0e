"""Writes metrics to a file that node_exporter's textfile collector reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prometheus_client import write_to_textfile

from mpmetrics.drivers.driver import Driver, check_interval
from mpmetrics.drivers.sent_metrics import SentMetrics

if TYPE_CHECKING:
    from mpmetrics.collector.collection import Collection
    from mpmetrics.drivers.prometheus import PrometheusDriver
    from mpmetrics.drivers.sent_metrics import Collectable
    from mpmetrics.registry import Registry

__all__ = ["TextfileDriver"]


class TextfileDriver(Driver):
    """Writes ``source`` to the file ``path``, whose name ends with ``.prom``, as a whole or not at all.

    ``source`` as in :class:`PushgatewayDriver`. ``interval`` is in seconds. On :meth:`stop` the file is removed, unless
    ``delete_on_stop`` is false: node_exporter would show its values for ever.

    Raises TypeError and ValueError for arguments that are none.
    """

    def __init__(
        self,
        source: Registry | PrometheusDriver | Collectable | None,
        path: str | os.PathLike[str],
        *,
        interval: float = 15.0,
        delete_on_stop: bool = True,
    ) -> None:
        super().__init__(check_interval("interval", interval))
        self._path = os.fspath(path)
        if not self._path.endswith(".prom"):
            msg = f"node_exporter reads files whose names end with '.prom', not {self._path!r}"
            raise ValueError(msg)
        self._source = SentMetrics(source)
        self._delete_on_stop = delete_on_stop

    def use(self, collection: Collection) -> None:
        """As in the base class."""
        self._source.use(collection)

    def once(self) -> None:
        """Write now; OSError when the file cannot be written."""
        registry: Any = self._source
        write_to_textfile(self._path, registry)
        self._is_out = True

    def stop(self, timeout: float = 5.0) -> None:
        """End, and remove the file; a failure of that is logged."""
        super().stop(timeout)
        if self._delete_on_stop:
            self._take_back(lambda: os.unlink(self._path))

    def __repr__(self) -> str:
        return f"TextfileDriver({self._path!r})"
