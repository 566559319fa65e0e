"""Reads a registry's metrics over all processes, and ticks their rates and sliding windows.

Rates and windows are made of merged counts, so a mark counts whatever process made it, also one that is dead by the
tick. They belong to whoever reads: the state is in the memory of this process and begins when it first looks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics._cells import LAYOUTS
from mpmetrics.collector.collection import Collection
from mpmetrics.collector.merge import Merger
from mpmetrics.collector.rows import labels_of
from mpmetrics.errors import ShutdownError
from mpmetrics.registry.distribution import Distribution
from mpmetrics.registry.rates import TICK, Rates
from mpmetrics.registry.view import View
from mpmetrics.storage import fork
from mpmetrics.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.collector.snapshot import Snapshot
    from mpmetrics.provider import Provider
    from mpmetrics.storage.catalog import Family, Key, Series

__all__ = ["Reader", "decrease_name", "family_name"]

Buckets = dict[int, float]


def family_name(role: str, registry: str, name: str) -> str:
    """What the family of a registry's metric is called in the store."""
    return f"registry/{role}/{registry}/{name}"


def decrease_name(name: str) -> str:
    """What the family is called that holds what the counters of the family ``name`` went down by."""
    return name.replace("/counter/", "/decrease/", 1)


@dataclass
class _Track:
    """What the ticks made of one series: it is another one when ``created`` is."""

    created: float
    rates: Rates
    last: Buckets
    window: deque[tuple[float, Buckets]] = field(default_factory=deque)


class Reader:
    """Reads the metrics of the registry called ``registry`` of ``provider``. Any thread may call its methods.

    ``clock`` is a monotonic one in seconds; ``window`` is how many of them the sliding window has, to a tick of 5 s.
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
        self._tracks: dict[tuple[str, Key], _Track] = {}
        self._has_functions = False
        self._is_reading = False
        self._latest: list[View] = []
        fork.register(self)

    @property
    def next_tick(self) -> float:
        """When the next tick is due, on the clock."""
        return self._ticked + TICK

    def before_mark(self) -> None:
        """Where this process is all there is, have what comes next count for the tick that it belongs to."""
        provider = self._provider
        if provider.epoch is None and self._clock() >= self.next_tick and not (self._is_reading or provider.closed):
            self.read()

    def read(self, *, ask: bool = False) -> list[View]:
        """All metrics, by name and labels; ``ask`` for the values of functional gauges, too.

        Ticks that are due are made good. Where this process is all there is, what was counted since the last one was so
        before the first of them; else nobody knows when, and it counts for all of them evenly.

        Raises :class:`~mpmetrics.errors.ShutdownError` once the provider was shut down.
        """
        if self._provider.closed:
            raise ShutdownError("the registry has no metrics to show: their provider was shut down")
        with self._lock:
            if self._is_reading:  # a signal handler or a finaliser interrupted this very method, or it is stuck
                return self._latest
            self._is_reading = True
            try:
                self._latest = self._read(ask=ask)
            finally:
                self._is_reading = False
            return self._latest

    def _snapshot(self, *, ask: bool) -> Snapshot:
        """What there is, once the functions of gauges were asked for their values, if there are any."""
        snapshot = self._collection.snapshot(ask=ask and self._has_functions)
        has_functions = any(map(self._has_function, snapshot.catalog.families.values()))
        if ask and has_functions and not self._has_functions:
            snapshot = self._collection.snapshot(ask=True)
        self._has_functions = has_functions
        return snapshot

    def _is_ours(self, family: Family) -> bool:
        return bool(family.role) and family.name.split("/", 3)[2] == self._registry

    def _has_function(self, family: Family) -> bool:
        return self._is_ours(family) and family.temporality == "observed"

    def _read(self, *, ask: bool) -> list[View]:
        snapshot = self._snapshot(ask=ask)
        now = self._clock()
        due = int((now - self._ticked) / TICK)
        first = self._provider.epoch is None
        merger = Merger(snapshot)
        views = []
        known = self._tracks
        self._tracks = {}
        for number, family in snapshot.catalog.families.items():
            if not self._is_ours(family) or family.role == "decrease":
                continue
            if family.role == "counter":
                views += self._counters(family, merger, snapshot, number)
                continue
            for series in merger.settled(snapshot.catalog.series[number].values()):
                views.append(self._view(family, series, merger, known, due, now, first=first))
            for series in snapshot.catalog.series[number].values():
                held = known.get((family.name, series.key))
                if held is not None:  # unsettled: at the next look
                    self._tracks.setdefault((family.name, series.key), held)
        self._ticked += due * TICK
        return sorted(views, key=lambda view: (view.name, view.labels))

    def _counters(self, family: Family, merger: Merger, snapshot: Snapshot, number: int) -> list[View]:
        catalog = snapshot.catalog
        other = catalog.numbers.get(decrease_name(family.name))
        decreases = {} if other is None else catalog.series[other]
        settled = {series.first for series in merger.settled(decreases.values())}
        views = []
        for series in merger.settled(catalog.series[number].values()):
            decrease = decreases.get(series.key)
            if decrease is not None and decrease.first not in settled:
                continue
            down = 0.0 if decrease is None else merger.sum(decrease, 0)
            labels = labels_of(family, series.key)
            count = _whole(merger.sum(series, 0) - down)
            views.append(View(_name(family), family.role, labels, series.created, count, has_fallen=down > 0))
        return views

    def _view(
        self,
        family: Family,
        series: Series,
        merger: Merger,
        known: dict[tuple[str, Key], _Track],
        due: int,
        now: float,
        *,
        first: bool,
    ) -> View:
        name, role = _name(family), family.role
        labels = labels_of(family, series.key)
        if role in ("gauge", "healthcheck"):
            samples = merger.reading(family, [series]).samples
            return View(name, role, labels, series.created, value=samples[0].value if samples else None)
        distribution = None
        buckets: Buckets = {}
        if role == "meter":
            count = merger.sum(series, 0)
        else:
            record, counts = merger.sketch(series)
            buckets = {index: value for index, value in enumerate(counts) if value}
            distribution = Distribution(LAYOUTS[family.mode], record, buckets)
            count = float(sum(buckets.values()))
        track = known.get((family.name, series.key))
        if track is None or track.created != series.created:
            # What was counted before anyone looked has no place in time.
            is_new = series.created >= self._began
            track = _Track(series.created, Rates(0.0 if is_new else count), {} if is_new else buckets)
        self._tracks[family.name, series.key] = track
        if due > 0:
            track.rates.tick(count, due, first=first)
            track.window.append((now, _difference(buckets, track.last)))
            track.last = buckets
        while track.window and track.window[0][0] <= now - self._window:
            track.window.popleft()
        window = _difference(buckets, track.last)
        for _, counted in track.window:
            for index, value in counted.items():
                window[index] = window.get(index, 0.0) + value
        age = self._provider.clock() - series.created
        return View(
            name,
            role,
            labels,
            series.created,
            _whole(count),
            distribution=distribution or View("", "").distribution,
            window=window,
            rates=track.rates.rates,
            rate_mean=count / age if age > 0 else 0.0,
        )

    def after_fork_in_child(self) -> None:
        """A thread that held the lock is not here."""
        self._lock.after_fork_in_child()
        self._is_reading = False


def _name(family: Family) -> str:
    return family.name.split("/", 3)[3]


def _whole(value: float) -> float:
    return int(value) if value == value // 1 else value


def _difference(new: Buckets, old: Buckets) -> Buckets:
    return {index: value - old.get(index, 0.0) for index, value in new.items() if value > old.get(index, 0.0)}
