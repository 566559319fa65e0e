"""Collection: runs callbacks, takes a snapshot, folds dead processes, merges, and adds self-metrics.

One collection runs at a time; all threads that ask meanwhile share the next one.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector as PrometheusCollector

from mpmetrics import fork
from mpmetrics.callbacks.callback import check_limits
from mpmetrics.callbacks.runner import at_work_for
from mpmetrics.collector.all_callbacks import AllCallbacks
from mpmetrics.collector.asked_workers import WORKER_TIMEOUT
from mpmetrics.collector.callback_modules import CallbackModules
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.exporter_options import ExporterOptions, apply_options
from mpmetrics.collector.prometheus_families import prometheus_families
from mpmetrics.collector.self_metrics import self_metrics
from mpmetrics.collector.shared_call import SharedCall
from mpmetrics.errors import ShutdownError, StoreError, StoreUnavailableError
from mpmetrics.log_once import LogOnce
from mpmetrics.provider import Provider, get_provider
from mpmetrics.storage.fold import fold
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.core import Metric

    from mpmetrics.callbacks.runner import Watch
    from mpmetrics.collector.reading import Reading
    from mpmetrics.collector.snapshot import Snapshot

__all__ = ["Collected", "Collection"]

_LONGEST = 20.0
_SHORTEST = 0.25
_SHARE = 0.8
"""Most and fewest seconds that callbacks get, and their share of the time that the scraper waits.

The minimum protects the others that share a collection from a scraper that says it cannot wait at all.
"""


class Collected:
    """The result of one collection, which all callers that waited for it share."""

    def __init__(self, readings: list[Reading]) -> None:
        self.readings = readings
        self.bodies: dict[object, tuple[str, bytes]] = {}
        """What was made of the readings, by format: a content coding or "", and the bytes."""


class Collection(PrometheusCollector):
    """Collects the metrics of ``source``: a provider, the directory of a store, or by default the default provider.

    Of a directory, it collects the epoch that is current at the time. Of a provider, it runs the host callbacks, each
    once a collection. In both cases it asks the store's workers to run their worker callbacks.

    ``options`` decide how instruments of the Meter API are shown. What callbacks observed less than ``max_age`` seconds
    ago is used again, so two scrapers cost no more than one; a callback may have a ``max_age`` of its own. A collection
    waits ``worker_timeout`` seconds for the callbacks of all workers. ``modules`` register callbacks, ``watch`` is told
    which callback runs. Each of ``sources`` returns further metrics, as a registry's driver does.

    It follows the Collector protocol of prometheus_client, so it can be registered with a prometheus_client registry.
    Any thread may call its methods.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` if ``source`` is a directory that does not exist or cannot
    be trusted; ValueError for an invalid ``max_age`` or ``worker_timeout``.
    """

    def __init__(
        self,
        source: Provider | str | os.PathLike[str] | None = None,
        *,
        options: ExporterOptions | None = None,
        max_age: float = 0.0,
        worker_timeout: float = WORKER_TIMEOUT,
        modules: CallbackModules | None = None,
        watch: Watch | None = None,
        sources: Sequence[Callable[[], list[Reading]]] = (),
    ) -> None:
        self._sources = sources
        self._options = options or ExporterOptions()
        check_limits(worker_timeout, max_age, "a collector")
        self._max_age = max_age
        self._modules = modules or CallbackModules(())
        self._provider: Provider | None = None
        self._store: Store | None = None
        if source is None:
            self._provider = get_provider()
        elif isinstance(source, Provider):
            self._provider = source
        elif os.path.isdir(source):
            self._store = Store(source)
        else:
            msg = f"no store exists at {os.fspath(source)!r}; use the MPMETRICS_DIR of the server"
            raise StoreUnavailableError(msg)
        self._reader: EpochReader | None = None
        self._log = LogOnce()
        self._callbacks = AllCallbacks(self._provider, watch, worker_timeout)
        self._ends: list[float] = []
        """For each caller that waits for a collection, the time on the monotonic clock by which it wants one."""
        self._shared = SharedCall(self._collect, self._collect_aside, at_work_for)
        fork.register(self)

    def readings(self, timeout: float | None = None) -> list[Reading]:
        """Return the merged metrics in the order of their names, then the self-metrics.

        Files that cannot be read are missing and counted in ``mpmetrics_unreadable_files``. ``timeout`` is how many
        seconds the caller will wait: callbacks get 80 % of that, and never more than 20 s in all.

        Raises :class:`~mpmetrics.errors.ShutdownError` if the provider was shut down.
        """
        return self.collected(timeout).readings

    def collected(self, timeout: float | None = None) -> Collected:
        """Return the result of a collection that begins after this call; arguments and errors as in ``readings``."""
        if self._provider is not None and self._provider.closed:
            raise ShutdownError("no metrics can be shown: their provider was shut down; collect from a new one")
        end = time.monotonic() + _budget(timeout)
        self._ends.append(end)
        try:
            return self._shared()
        finally:
            with contextlib.suppress(ValueError):  # a child that was forked meanwhile has an empty list
                self._ends.remove(end)

    def exported(self, readings: list[Reading], *, utf8: bool = False) -> list[Reading]:
        """Return ``readings`` as the options show them. ``utf8``: the scraper accepts names in UTF-8."""
        resource = {} if self._provider is None else self._provider.resource

        def complain(message: str) -> None:
            self._log.warn(message, "%s", message)

        return apply_options(readings, self._options, resource=resource, utf8=utf8, complain=complain)

    def collect(self) -> Iterator[Metric]:
        """Return the same as prometheus_client's metric families."""
        return prometheus_families(self.exported(self.readings()))

    def close(self) -> None:
        """Close the files that stay open between collections. The next collection opens them again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def describe(self) -> list[Metric]:
        """Return nothing. A registry of prometheus_client calls this at registration, to check for equal names."""
        return []

    def _collect(self) -> Collected:
        start = time.monotonic()
        path = self._current_path()
        # A caller that has waited through the last collection may be past its time; the others still have theirs.
        ends = [end for end in list(self._ends) if end > start]
        self._callbacks.run(path, max(min(ends, default=0.0), start + _SHORTEST), self._max_age)
        snapshot = self._read(path)
        for name, problem in snapshot.unreadable.items():
            self._log.warn(name, "%r in the store %s: %s", name, path, problem)
        for why in (*snapshot.problems, *(why for _, why in snapshot.hidden)):
            self._log.warn(why, "%s", why)
        merged = self._callbacks.merge(snapshot)
        self._add_sources(merged)
        merged += self._callbacks.self_metrics() + self._modules.readings()
        return Collected(merged + self_metrics(snapshot, seconds=time.monotonic() - start))

    def _collect_aside(self) -> Collected:
        """Return what is available without waiting; the caller may be blocking the running collection.

        Nothing of the running collection is used: files are opened anew, and no callbacks or sources are called.
        """
        start = time.monotonic()
        reader = self._new_reader(self._epoch_path())
        snapshot = reader.snapshot()
        merged = self._callbacks.merge_aside(snapshot) + self._modules.readings()
        reader.close()
        return Collected(merged + self_metrics(snapshot, seconds=time.monotonic() - start))

    def _add_sources(self, merged: list[Reading]) -> None:
        """Add the metrics of the other sources, without those whose names are already in use."""
        names = {reading.name for reading in merged}
        for source in self._sources:
            for reading in source():
                if reading.name in names:
                    self._log.warn(
                        ("twice", reading.name),
                        "metric %r of a driver is not shown: another metric has this name; give one another namespace",
                        reading.name,
                    )
                    continue
                names.add(reading.name)
                merged.append(reading)

    def snapshot(self, *, ask: bool = False) -> Snapshot:
        """Return the state at this moment. With ``ask``, workers run their callbacks first; no other callbacks run.

        For one thread at a time, and not together with :meth:`readings`.
        """
        path = self._current_path()
        if ask:
            self._callbacks.ask(path)
        return self._read(path)

    def _current_path(self) -> str | None:
        """Return the epoch to read. If another epoch has replaced this process's own, the process moves there first."""
        if self._provider is not None and self._provider.memory.process.is_due:
            self._provider.memory.catch_up()
        return self._epoch_path()

    def _epoch_path(self) -> str | None:
        if self._provider is not None:
            return None if self._provider.epoch is None else self._provider.epoch.path
        try:
            return self._store.current() if self._store is not None else None
        except OSError as error:
            self._log.warn("store", "the store cannot be read: %s", error)
            reader = self._reader  # another thread may close it
            if reader is None or isinstance(error, FileNotFoundError):
                return None
            return reader.path  # its files are open

    def fold(self) -> int:
        """Fold dead processes of the current epoch, at most a batch; return how many were folded.

        If the retired file was read here and is gone since, it is written again. A failure is logged once.
        """
        path, reader = self._epoch_path(), self._reader  # another thread may close it
        try:
            known = None if reader is None or reader.path != path else reader.retired
            return 0 if path is None else fold(path, retired=known)
        except (OSError, StoreError) as error:
            self._log.warn("fold", "dead processes cannot be folded, the next scrape will try again: %s", error)
            return 0

    def _read(self, path: str | None) -> Snapshot:
        reader = self._reader  # another thread may close it
        if reader is None or reader.path != path:
            if reader is not None:
                reader.close()
            reader = self._reader = self._new_reader(path)
        snapshot = reader.snapshot()
        has_dead = not all(column.alive or column.is_retired for column in snapshot.columns)
        if has_dead or snapshot.has_leftovers or snapshot.lacks_retired:
            return reader.snapshot() if self.fold() or snapshot.lacks_retired else snapshot
        return snapshot

    def _new_reader(self, path: str | None) -> EpochReader:
        return EpochReader(path, None if self._provider is None else self._provider.memory)

    def after_fork_in_child(self) -> None:
        """Forget the running collection, which is the parent's, and open files anew, so that no lock is shared."""
        self._shared.reset()
        self._ends = []
        self._reader = None


def _budget(timeout: float | None) -> float:
    """Return the seconds that callbacks may take in a collection whose caller waits for ``timeout`` seconds."""
    return _LONGEST if timeout is None else min(_LONGEST, max(_SHORTEST, timeout * _SHARE))
