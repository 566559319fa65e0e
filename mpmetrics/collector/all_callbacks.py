"""AllCallbacks: the part of a collection that runs callbacks, here and in workers, and merges what they observed.

Host callbacks run in this process, worker callbacks in the workers. All run before the words are read, because workers
put what they observe into their words.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpmetrics import fork
from mpmetrics.collector.asked_workers import AskedWorkers, WorkerAnswers
from mpmetrics.collector.host_callbacks import HostCallbacks, Observed
from mpmetrics.collector.merge import merge, worker_label
from mpmetrics.collector.reading import Reading, Sample
from mpmetrics.log_once import LogOnce
from mpmetrics.names.naming import RESERVED_PREFIX
from mpmetrics.serving.callback_metrics import ANNOUNCED

if TYPE_CHECKING:
    from mpmetrics.callbacks.runner import Watch
    from mpmetrics.collector.snapshot import Snapshot
    from mpmetrics.provider import Provider
    from mpmetrics.storage.shapes import Shape

__all__ = ["AllCallbacks"]

_LEAST = 0.05
"""Seconds that the workers always have, however long the callbacks of this process took."""


class AllCallbacks:
    """Runs the callbacks of ``provider``, if this process has one, and asks workers to run theirs.

    The workers may take ``worker_timeout`` seconds, all together.

    One collection at a time calls :meth:`run`, takes a snapshot, and calls :meth:`merge` with it. Only
    :meth:`merge_aside` may be called in between; it shares no state with them.
    """

    def __init__(self, provider: Provider | None, watch: Watch | None, worker_timeout: float) -> None:
        self._provider = provider
        self._worker_timeout = worker_timeout
        self._host = None if provider is None else HostCallbacks(provider, watch)
        self._asked_workers = AskedWorkers()
        self._observed = Observed()
        self._answers = WorkerAnswers()
        self._log = LogOnce()
        fork.register(self)

    def run(self, path: str | None, end: float, max_age: float) -> None:
        """Run all callbacks by ``end``, on the monotonic clock, also those of the workers of the epoch at ``path``."""
        self._observed = Observed()
        left = end - time.monotonic()
        # Without a store, this process is the only one.
        for_workers = left if path is None else min(self._worker_timeout, left / 2)
        if self._host is not None:
            self._observed = self._host.observe(left if path is None else left - for_workers, max_age)
        start = time.monotonic()
        mine = self._run_own(for_workers if path is not None else max(0.0, end - start), max_age)
        self._answers = WorkerAnswers()
        if path is not None:
            rest = max(_LEAST, for_workers - (time.monotonic() - start))
            self._answers = self._asked_workers.refresh(path, rest, max_age, mine)

    def ask(self, path: str | None) -> None:
        """Run the worker callbacks of this process, if it is a worker, and of the workers of the epoch at ``path``."""
        mine = self._run_own(self._worker_timeout, 0.0)
        if path is not None:
            self._asked_workers.refresh(path, self._worker_timeout, 0.0, mine)

    def _run_own(self, seconds: float, max_age: float) -> str:
        """Run this process's worker callbacks, if it is a worker; return the identity of its slab, or ""."""
        provider = self._provider
        if provider is None or not provider.service.is_on:
            return ""
        for (_, key), target in provider.service.worker_callbacks.refresh(seconds, max_age).items():
            self._observed.add_stored(target.family, key)
        slab = provider.memory.slab_name
        return "" if slab is None else slab.identity

    def merge(self, snapshot: Snapshot) -> list[Reading]:
        """Return the metrics of a snapshot, with what the callbacks of :meth:`run` observed."""
        answers, observed = self._answers, self._observed

        def shown_rows(shape: Shape) -> set[int]:
            return answers.rows(shape.table, snapshot.columns) | observed.rows(shape)

        return self._with_observed(merge(snapshot, shown_rows, answers.stale), snapshot, observed)

    def merge_aside(self, snapshot: Snapshot) -> list[Reading]:
        """Return the metrics of a snapshot for which no callback ran. May be called in the middle of a collection."""
        return self._with_observed(merge(snapshot, lambda _shape: ()), snapshot, Observed())

    def _with_observed(self, readings: list[Reading], snapshot: Snapshot, observed: Observed) -> list[Reading]:
        merged = []
        for reading in readings:
            shape = snapshot.shapes[reading.name][0]
            # What was observed of a hidden shape of the metric does not count.
            samples = observed.samples(shape)
            if samples:
                reading.samples = samples
            if reading.name == ANNOUNCED:
                self._show_served(reading)
            if not shape.family.scope or reading.samples:
                merged.append(reading)
        return sorted(merged, key=lambda reading: reading.name.startswith(RESERVED_PREFIX))

    def _show_served(self, reading: Reading) -> None:
        """Set the announcements to 1 if the callback runs here, else to 0; then the log names the way out."""
        callbacks = [] if self._provider is None else self._provider.callbacks.of("host")
        served = {(target.family.original, callback.module) for callback in callbacks for target in callback.targets}
        samples = []
        for sample in reading.samples:
            labels = dict(sample.labels)
            instrument, module = labels.get("instrument", ""), labels.get("module", "")
            samples.append(Sample("", sample.labels, float((instrument, module) in served)))
            if (instrument, module) not in served and self._provider is not None:
                self._log.warn(
                    (instrument, module),
                    "the callback of %r does not run here: workers have registered it, but the collector has not"
                    " imported its module; set callbacks=[%r] or MPMETRICS_CALLBACKS=%s, or preload the application",
                    instrument,
                    module,
                    module,
                )
        reading.samples = samples

    def self_metrics(self) -> list[Reading]:
        """Return the self-metric that names the workers which did not answer in time."""
        samples = [Sample("", (("worker", worker_label(ordinal)),), 1.0) for ordinal in sorted(set(self._answers.late))]
        text = "Workers that did not run their callbacks in time for this scrape."
        return [Reading("mpmetrics_late_workers", "gauge", text, samples=samples)] if samples else []

    def after_fork_in_child(self) -> None:
        """Forget the runs, which are the parent's."""
        if self._host is not None:
            self._host.reset()
