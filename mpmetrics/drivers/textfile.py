"""TextfileDriver: writes metrics to a file for node_exporter's textfile collector every few seconds."""

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
    """Writes ``source`` to the file ``path``, whose name must end with ``.prom``. The file is replaced atomically.

    ``source`` as in :class:`PushgatewayDriver`. ``interval`` is in seconds. :meth:`stop` removes the file, unless
    ``delete_on_stop`` is false, because node_exporter would show its values without end.

    Raises TypeError and ValueError for invalid arguments.
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
            msg = f"the path must end with '.prom', as node_exporter reads no other files, but it is {self._path!r}"
            raise ValueError(msg)
        self._source = SentMetrics(source)
        self._delete_on_stop = delete_on_stop

    def use(self, collection: Collection) -> None:
        """As in the base class."""
        self._source.use(collection)

    def once(self) -> None:
        """Write now; OSError if the file cannot be written."""
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
