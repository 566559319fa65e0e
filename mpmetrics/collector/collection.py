"""Collecting: take a snapshot, fold the dead, merge it, add the figures. One at a time, shared by all who ask."""

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
from mpmetrics.collector.callback_modules import CallbackModules
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.exporter_options import ExporterOptions, apply_options
from mpmetrics.collector.prometheus_families import prometheus_families
from mpmetrics.collector.self_metrics import self_metrics
from mpmetrics.collector.shared_call import SharedCall
from mpmetrics.collector.worker_answers import WORKER_TIMEOUT
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

__all__ = ["Collection"]

_LONGEST = 20.0
_SHORTEST = 0.25
_SHARE = 0.8
"""Seconds that callbacks have, at most and at least, and the share of the scraper's patience.

The least is for all who share a collection: one that says it cannot wait at all does not take the time from the others.
"""


class Collection(PrometheusCollector):
    """Collects the metrics of ``source``: a provider, the directory of a store, or by default the default provider.

    Of a directory, the current epoch is collected, whichever that is at the time. Of a provider, the callbacks of its
    asynchronous instruments are run, each once a collection; a store's workers are asked to run theirs.

    ``options`` say how instruments of the Meter API are shown. What callbacks observed less than ``max_age`` seconds
    ago is used again, so that a pair of scrapers costs no more than one; callbacks may have a ``max_age`` of their own.
    ``worker_timeout`` is how many seconds a collection waits for the callbacks of all workers. ``modules`` register
    callbacks, ``watch`` is told which of them run. ``sources`` have more metrics to show, as a registry's driver does.

    Follows the Collector protocol of prometheus_client, so it can be registered with one of its registries. May be used
    from any thread.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` when ``source`` is a directory that is not there or that is
    not to be trusted; ValueError for a ``max_age`` or ``worker_timeout`` that is none.
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
            msg = f"there is no store at {os.fspath(source)!r}; is MPMETRICS_DIR the one that the server uses?"
            raise StoreUnavailableError(msg)
        self._reader: EpochReader | None = None
        self._log = LogOnce()
        self._callbacks = AllCallbacks(self._provider, watch, worker_timeout)
        self._ends: list[float] = []
        """By when those who wait for a collection want to have it, on the monotonic clock."""
        self._shared = SharedCall(self._collect, self._collect_aside, at_work_for)
        fork.register(self)

    def readings(self, timeout: float | None = None) -> list[Reading]:
        """The merged metrics, in the order of their names, and then the collector's figures about itself.

        What cannot be read is missing and counted in ``mpmetrics_unreadable_files``. ``timeout`` is how many seconds
        the caller is going to wait: callbacks get most of that, and never more than 20 s in all.

        Raises :class:`~mpmetrics.errors.ShutdownError` once the provider was shut down.
        """
        if self._provider is not None and self._provider.closed:
            raise ShutdownError("there are no metrics to show: their provider was shut down")
        with self.patience(timeout):
            return self._shared()

    @contextlib.contextmanager
    def patience(self, timeout: float | None) -> Iterator[None]:
        """For as long as it is held, collections keep to the time of one who is going to wait ``timeout`` seconds."""
        end = time.monotonic() + _budget(timeout)
        self._ends.append(end)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # in a child that was forked meanwhile
                self._ends.remove(end)

    @property
    def within(self) -> bool:
        """Whether the caller is in a collection, or works for one, so that it cannot wait for it."""
        return self._shared.within

    def exported(self, readings: list[Reading], *, utf8: bool = False) -> list[Reading]:
        """``readings`` as the options show them; with names in UTF-8 only to a scraper that asked for them."""
        resource = {} if self._provider is None else self._provider.resource

        def complain(message: str) -> None:
            self._log.warn(message, "%s", message)

        return apply_options(readings, self._options, resource=resource, utf8=utf8, complain=complain)

    def collect(self) -> Iterator[Metric]:
        """The same as prometheus_client's metric families."""
        return prometheus_families(self.exported(self.readings()))

    def close(self) -> None:
        """Close the files that are kept open between collections; collecting again opens them again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def describe(self) -> list[Metric]:
        """Nothing: what there is shows when it is collected. A registry asks this when the collector is registered."""
        return []

    def _collect(self) -> list[Reading]:
        start = time.monotonic()
        path = self._current_path()
        # One who has been waiting for the last collection may be out of patience; the others are not.
        ends = [end for end in list(self._ends) if end > start]
        self._callbacks.run(path, max(min(ends, default=0.0), start + _SHORTEST), self._max_age)
        snapshot = self._read(path)
        for name, problem in snapshot.unreadable.items():
            self._log.warn(name, "%s", problem)
        for why in (*snapshot.problems, *(why for _, why in snapshot.hidden)):
            self._log.warn(why, "%s", why)
        merged = self._callbacks.merge(snapshot)
        self._add_sources(merged)
        merged += self._callbacks.self_metrics() + self._modules.readings()
        return merged + self_metrics(snapshot, seconds=time.monotonic() - start)

    def _collect_aside(self) -> list[Reading]:
        """What there is without waiting; the caller may be what keeps up the collection that is going on.

        What that one has half done is left alone: files are opened anew, and no callbacks or sources are asked.
        """
        start = time.monotonic()
        reader = self._new_reader(self._epoch_path())
        snapshot = reader.snapshot()
        merged = self._callbacks.merge_aside(snapshot) + self._modules.readings()
        reader.close()
        return merged + self_metrics(snapshot, seconds=time.monotonic() - start)

    def _add_sources(self, merged: list[Reading]) -> None:
        """Add what the other sources have; a name that is taken is not shown twice."""
        names = {reading.name for reading in merged}
        for source in self._sources:
            for reading in source():
                if reading.name in names:
                    self._log.warn(
                        ("twice", reading.name), "metric %r of a driver is not shown: it is taken", reading.name
                    )
                    continue
                names.add(reading.name)
                merged.append(reading)

    def snapshot(self, *, ask: bool = False) -> Snapshot:
        """What there is at this moment; ``ask`` the workers to run their callbacks first, and no other callbacks.

        One thread at a time, and not beside :meth:`readings`.
        """
        path = self._current_path()
        if ask:
            self._callbacks.ask(path)
        return self._read(path)

    def _current_path(self) -> str | None:
        """The epoch to read; this process itself moves over first, when another epoch took the place of its own."""
        if self._provider is not None and self._provider.memory.process.is_due:
            self._provider.memory.notice()
        return self._epoch_path()

    def _epoch_path(self) -> str | None:
        if self._provider is not None:
            return None if self._provider.epoch is None else self._provider.epoch.path
        try:
            return self._store.current() if self._store is not None else None
        except OSError as error:
            self._log.warn("store", "the store cannot be read: %s", error)
            reader = self._reader  # which another thread may close
            if reader is None or isinstance(error, FileNotFoundError):
                return None
            return reader.path  # of which files are open

    def fold(self) -> int:
        """Fold the dead of the current epoch, up to a batch of them; returns how many were folded.

        A retired file that was read here and that somebody has removed since is written again. What keeps it from doing
        so is said once in the log.
        """
        path, reader = self._epoch_path(), self._reader  # which another thread may close
        try:
            known = None if reader is None or reader.path != path else reader.retired
            return 0 if path is None else fold(path, retired=known)
        except (OSError, StoreError) as error:
            self._log.warn("fold", "the dead cannot be folded: %s", error)
            return 0

    def _read(self, path: str | None) -> Snapshot:
        reader = self._reader  # which another thread may close
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
        """Whoever was collecting is collecting in the parent. Files are opened anew: locks are not to be shared."""
        self._shared.reset()
        self._ends = []
        self._reader = None


def _budget(timeout: float | None) -> float:
    """Seconds that a collection may take for callbacks when its caller waits for so long."""
    return _LONGEST if timeout is None else min(_LONGEST, max(_SHORTEST, timeout * _SHARE))
