"""MergedMetrics: reads a registry's metrics, merged over all processes, and ticks their rates and sliding windows.

Rates and windows are computed from merged counts, so a mark counts whichever process made it, also one that dies before
the tick. Their state is in the memory of the process that reads, and begins with its first read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics import fork
from mpmetrics._cells import LAYOUTS
from mpmetrics.collector.collection import Collection
from mpmetrics.collector.merge import Merger
from mpmetrics.errors import ShutdownError
from mpmetrics.registry.distribution import Distribution
from mpmetrics.registry.metric_values import MetricValues
from mpmetrics.registry.rates import TICK, Rates
from mpmetrics.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics.collector.reading import Labels
    from mpmetrics.collector.snapshot import Snapshot
    from mpmetrics.names.family import Family
    from mpmetrics.provider import Provider
    from mpmetrics.storage.shapes import Shape

__all__ = ["MergedMetrics", "decrease_name", "family_name"]

Buckets = dict[int, float]


def family_name(role: str, registry: str, name: str) -> str:
    """Return the name in the store of the family of a registry's metric."""
    return f"registry/{role}/{registry}/{name}"


def decrease_name(name: str) -> str:
    """Return the name of the family with the decrements of the counters of the family ``name``."""
    return name.replace("/counter/", "/decrease/", 1)


@dataclass
class _Track:
    """The rates and the window of one series. A series that was created later is another one."""

    created: float
    rates: Rates
    last: Buckets
    window: deque[tuple[float, Buckets]] = field(default_factory=deque)

    def counted(self, buckets: Buckets) -> Buckets:
        """Return what was counted within the window, up to ``buckets``."""
        counted = _difference(buckets, self.last)
        for _, tick in self.window:
            for index, value in tick.items():
                counted[index] = counted.get(index, 0.0) + value
        return counted


class MergedMetrics:
    """Reads the metrics of the registry called ``registry`` of ``provider``. Any thread may call the methods.

    ``clock`` is a monotonic clock in seconds. The sliding window is ``window`` seconds long, in ticks of 5 s.
    """

    def __init__(self, provider: Provider, registry: str, clock: Callable[[], float], window: float) -> None:
        self._provider = provider
        self._registry = registry
        self._clock = clock
        self._window = window
        self._collection = Collection(provider)
        self._lock = Turns(patience=5.0)
        self._ticked = clock()
        self._began = provider.clock()
        self._tracks: dict[tuple[str, Labels], _Track] = {}
        self._has_functions = False
        self._is_reading = False
        self._latest: list[MetricValues] = []
        fork.register(self)

    @property
    def next_tick(self) -> float:
        """The time on the clock at which the next tick is due."""
        return self._ticked + TICK

    def before_mark(self) -> None:
        """Without a store, make ticks that are due, so that the next mark counts for the tick it belongs to."""
        provider = self._provider
        if provider.epoch is None and self._clock() >= self.next_tick and not (self._is_reading or provider.closed):
            self.read()

    def read(self, *, ask: bool = False) -> list[MetricValues]:
        """Return all metrics, by name and labels. With ``ask``, workers run the functions of gauges first.

        Ticks that are due are made. Without a store, :meth:`before_mark` ticks in time, so what was counted since the
        last tick belongs to the first of them; with a store the time is not known, so it is spread evenly.

        Raises :class:`~mpmetrics.errors.ShutdownError` if the provider was shut down.
        """
        if self._provider.closed:
            raise ShutdownError("the registry's metrics cannot be read: their provider was shut down; use a new one")
        with self._lock:
            if self._is_reading:  # a signal handler or finaliser has interrupted this method, or a read is stuck
                return self._latest
            self._is_reading = True
            try:
                self._latest = self._read(ask=ask)
            finally:
                self._is_reading = False
            return self._latest

    def _snapshot(self, *, ask: bool) -> Snapshot:
        """Return a snapshot; with ``ask``, after the workers ran the functions of gauges, if any gauge has one."""
        snapshot = self._collection.snapshot(ask=ask and self._has_functions)
        has_functions = any(shape.family.temporality == "observed" for shape in self._ours(snapshot))
        if ask and has_functions and not self._has_functions:
            snapshot = self._collection.snapshot(ask=True)
        self._has_functions = has_functions
        return snapshot

    def _ours(self, snapshot: Snapshot) -> list[Shape]:
        """Return the shapes of the metrics of this registry."""
        shapes = [shapes[0] for shapes in snapshot.shapes.values()]
        return [each for each in shapes if each.family.role and each.family.name.split("/", 3)[2] == self._registry]

    def _read(self, *, ask: bool) -> list[MetricValues]:
        snapshot = self._snapshot(ask=ask)
        shapes = {shape.family.name: shape for shape in self._ours(snapshot)}
        now = self._clock()
        due = int((now - self._ticked) / TICK)
        all_values: list[MetricValues] = []
        known, self._tracks = self._tracks, {}
        for name, shape in shapes.items():
            merger = Merger(shape, snapshot.columns)
            role = shape.family.role
            if role == "counter":
                decrease = shapes.get(decrease_name(name))
                all_values += _counters(merger, None if decrease is None else Merger(decrease, snapshot.columns))
            elif role in ("gauge", "healthcheck"):
                all_values += _gauges(merger)
            elif role != "decrease":
                all_values += self._distributions(merger, known, due, now)
        self._ticked += due * TICK
        return sorted(all_values, key=lambda values: (values.name, values.labels))

    def _distributions(
        self, merger: Merger, known: dict[tuple[str, Labels], _Track], due: int, now: float
    ) -> Iterator[MetricValues]:
        """Yield the values of meters, histograms and timers, with their rates."""
        family = merger.family
        is_meter = family.role == "meter"
        counts = merger.sums() if is_meter else []
        for row, labels, created in _present(merger):
            distribution = MetricValues("", "").distribution
            buckets: Buckets = {}
            if is_meter:
                count = counts[row]
            else:
                record, words = merger.sketch(row)
                buckets = {index: value for index, value in enumerate(words) if value}
                distribution = Distribution(LAYOUTS[family.mode], record, buckets)
                count = float(sum(buckets.values()))
            track = known.get((family.name, labels))
            if track is None or created > track.created:
                # What an older series counted before the first read has no known time, so it is in no rate or window.
                is_new = created >= self._began
                track = _Track(created, Rates(0.0 if is_new else count), {} if is_new else buckets)
            self._tracks[family.name, labels] = track
            self._tick(track, count, buckets, due, now)
            age = self._provider.clock() - created
            yield MetricValues(
                _name(family),
                family.role,
                labels,
                created,
                _whole(count),
                distribution=distribution,
                window=track.counted(buckets),
                rates=track.rates.rates,
                rate_mean=count / age if age > 0 else 0.0,
            )

    def _tick(self, track: _Track, count: float, buckets: Buckets, due: int, now: float) -> None:
        """Make the ticks that are due, and drop what has left the window."""
        if due > 0:
            track.rates.tick(count, due, first=self._provider.epoch is None)
            track.window.append((now, _difference(buckets, track.last)))
            track.last = buckets
        while track.window and track.window[0][0] <= now - self._window:
            track.window.popleft()

    def after_fork_in_child(self) -> None:
        """The thread that held the lock does not exist here."""
        self._lock.after_fork_in_child()
        self._is_reading = False


def _present(merger: Merger) -> Iterator[tuple[int, Labels, float]]:
    """Yield row, labels and creation time of each series."""
    rows = merger.rows
    for row, is_there in enumerate(rows.present):
        if is_there:
            yield row, rows.labels(row), rows.created[row]


def _counters(up: Merger, down: Merger | None) -> Iterator[MetricValues]:
    """Yield the values of counters: the increments in ``up`` less the decrements in ``down``, by labels."""
    counts, created = _by_labels(up), {labels: created for _, labels, created in _present(up)}
    decreases = {} if down is None else _by_labels(down)
    for labels, count in counts.items():
        decrease = decreases.get(labels, 0.0)
        whole = _whole(count - decrease)
        yield MetricValues(_name(up.family), up.family.role, labels, created[labels], whole, has_fallen=decrease > 0)


def _by_labels(counters: Merger) -> dict[Labels, float]:
    """Return the sum of each series."""
    counts = counters.sums()
    return {labels: counts[row] for row, labels, _ in _present(counters)}


def _gauges(merger: Merger) -> Iterator[MetricValues]:
    """Yield the values of gauges and healthchecks; None if no process has set one."""
    values = {sample.labels: sample.value for sample in merger.reading().samples}
    for _, labels, created in _present(merger):
        yield MetricValues(_name(merger.family), merger.family.role, labels, created, value=values.get(labels))


def _name(family: Family) -> str:
    return family.name.split("/", 3)[3]


def _whole(value: float) -> float:
    return int(value) if value == value // 1 else value


def _difference(new: Buckets, old: Buckets) -> Buckets:
    return {index: value - old.get(index, 0.0) for index, value in new.items() if value > old.get(index, 0.0)}
