"""Registry: named metrics, shared by all processes of a provider's store."""

from __future__ import annotations

import copy
import itertools
import time
from typing import TYPE_CHECKING, Any, TypeVar

from mpmetrics import fork
from mpmetrics.callbacks.callback import check_callback
from mpmetrics.errors import ConflictError
from mpmetrics.names.attributes import check_attributes
from mpmetrics.names.naming import check_text
from mpmetrics.provider import get_provider
from mpmetrics.registry.counter import Counter
from mpmetrics.registry.gauge import Gauge
from mpmetrics.registry.healthcheck import Healthcheck
from mpmetrics.registry.histogram import Histogram
from mpmetrics.registry.merged_metrics import MergedMetrics, family_name
from mpmetrics.registry.meter import Meter
from mpmetrics.registry.timer import Timer
from mpmetrics.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mpmetrics.provider import Provider
    from mpmetrics.registry.metric import RegistryMetric
    from mpmetrics.registry.metric_values import MetricValues

__all__ = ["Registry", "default_registry"]

Kind = TypeVar("Kind", bound="RegistryMetric")
Labels = tuple[tuple[str, str], ...]

_KINDS: tuple[type[RegistryMetric], ...] = (Counter, Gauge, Meter, Histogram, Timer, Healthcheck)
_unnamed = itertools.count(1)
"""Numbers the registries without a name. Their order is the same in all workers of one application."""

WINDOW = 300.0


class Registry:
    """Metrics by name. Registries of one name in one store have the same metrics in all processes.

    ``name`` identifies the registry in the store; without one, its number among those that the process makes does.
    ``prefix`` is put before the name of each metric. ``provider`` keeps the values, by default the default provider.
    Sliding percentiles look back ``window`` seconds. ``clock`` is a monotonic clock in seconds.

    Any thread may call the methods. ValueError for a name that is empty, has ``/`` or cannot be encoded in UTF-8, and
    for a window of 0 or less.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        prefix: str = "",
        provider: Provider | None = None,
        window: float = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            msg = f"a registry's name must be a str without '/' that is not empty, not {name!r}"
            raise ValueError(msg)
        check_text(name, "a registry's name")
        if not window > 0:
            msg = f"registry {name!r}: window must be a number of seconds above 0, not {window!r}"
            raise ValueError(msg)
        self.prefix = prefix
        self._shared = _Shared(name or f"unnamed-{next(_unnamed)}", provider, window, clock)

    @property
    def name(self) -> str:
        """The name that identifies it in the store."""
        return self._shared.name

    def child(self, prefix: str) -> Registry:
        """Return the same registry with ``prefix`` added to its own: it has the metrics whose names begin with both."""
        made = copy.copy(self)
        made.prefix = self.prefix + prefix
        return made

    def get_or_register_counter(self, name: str, labels: Mapping[str, object] | None = None) -> Counter:
        """Return the counter with this name and labels; make it if it does not exist.

        This and the methods below raise ValueError for a name that is empty or cannot be encoded in UTF-8, TypeError
        for one that is no str, and :class:`~mpmetrics.errors.ConflictError` if a metric of another kind has the name.
        """
        return self._get_or_register(Counter, name, labels)

    def get_or_register_gauge(
        self, name: str, labels: Mapping[str, object] | None = None, *, function: Callable[[], float] | None = None
    ) -> Gauge:
        """Return the gauge with this name and labels. If ``function`` is given, it returns the gauge's value."""
        return self._get_or_register(Gauge, name, labels, function)

    def get_or_register_meter(self, name: str, labels: Mapping[str, object] | None = None) -> Meter:
        """Return the meter with this name and labels."""
        return self._get_or_register(Meter, name, labels)

    def get_or_register_histogram(self, name: str, labels: Mapping[str, object] | None = None) -> Histogram:
        """Return the histogram with this name and labels."""
        return self._get_or_register(Histogram, name, labels)

    def get_or_register_timer(self, name: str, labels: Mapping[str, object] | None = None) -> Timer:
        """Return the timer with this name and labels."""
        return self._get_or_register(Timer, name, labels)

    def get_or_register_healthcheck(
        self,
        name: str,
        function: Callable[[Healthcheck], object] | None = None,
        labels: Mapping[str, object] | None = None,
    ) -> Healthcheck:
        """Return the healthcheck with this name and labels. Each check calls ``function`` with it."""
        return self._get_or_register(Healthcheck, name, labels, function)

    def register(
        self,
        name: str,
        kind: type[Kind],
        labels: Mapping[str, object] | None = None,
        *,
        function: Callable[..., Any] | None = None,
    ) -> Kind:
        """Return a new metric of the class ``kind``, such as :class:`Timer`.

        :class:`~mpmetrics.errors.ConflictError` if this process has registered the name with these labels already.
        """
        if self.get(name, labels) is not None:
            msg = f"metric {self.prefix + name!r} is registered already; get_or_register_{kind.role} returns it"
            raise ConflictError(msg)
        return self._get_or_register(kind, name, labels, function)

    def _get_or_register(
        self,
        kind: type[Kind],
        name: str,
        labels: Mapping[str, object] | None,
        function: Callable[..., Any] | None = None,
    ) -> Kind:
        if not isinstance(name, str):
            msg = f"a metric's name must be a str, not {name!r}"
            raise TypeError(msg)
        if not self.prefix + name:
            msg = "a metric's name is empty; give it a name"
            raise ValueError(msg)
        check_text(self.prefix + name, "a metric's name")
        if function is not None:
            check_callback(function, f"{kind.role} {name!r}")
        return self._shared.obtain(kind, self.prefix + name, _labels(labels, name), function)

    def get(self, name: str, labels: Mapping[str, object] | None = None) -> RegistryMetric | None:
        """Return the metric that this process has registered with this name and labels, or None."""
        return self._shared.get(self.prefix + name, _labels(labels, name))

    def each(self) -> Iterator[tuple[str, RegistryMetric]]:
        """Yield names and metrics that this process has registered, sorted by name."""
        for metric in self._shared.metrics():
            if metric.name.startswith(self.prefix):
                yield metric.name, metric

    def unregister(self, name: str, labels: Mapping[str, object] | None = None) -> None:
        """Remove a metric that any process has registered, from all processes; does nothing if there is none.

        :class:`~mpmetrics.errors.StoreError`, and nothing is removed, if the store cannot record that.
        """
        self._shared.remove(self.prefix + name, _labels(labels, name))

    def unregister_all(self) -> None:
        """Remove all metrics whose names begin with the prefix, from all processes."""
        for values in self.read():
            self._shared.remove(values.name, values.labels)

    def run_healthchecks(self) -> None:
        """Call the functions of all healthchecks of this process. These may use the registry and register metrics."""
        for _, metric in list(self.each()):
            if isinstance(metric, Healthcheck):
                metric.check()

    def read(self, *, ask: bool = False) -> list[MetricValues]:
        """Return all metrics as they are now, merged over all processes. ``ask``: run the functions of gauges first."""
        return [values for values in self._shared.merged.read(ask=ask) if values.name.startswith(self.prefix)]

    @property
    def next_tick(self) -> float:
        """The time on the registry's clock at which rates and windows are due for their next tick."""
        return self._shared.merged.next_tick

    @property
    def clock(self) -> Callable[[], float]:
        """The monotonic clock of the registry, in seconds."""
        return self._shared.clock

    def __repr__(self) -> str:
        return f"Registry({self.name!r}, prefix={self.prefix!r})"


class _Shared:
    """What a registry and its children share. If the default provider changes, the metrics are made anew."""

    def __init__(self, name: str, provider: Provider | None, window: float, clock: Callable[[], float]) -> None:
        self.name = name
        self.clock = clock
        self._given = provider
        self._window = window
        self._provider: Provider | None = None
        self._metrics: dict[tuple[str, Labels], RegistryMetric] = {}
        self._merged: MergedMetrics
        self._lock = Turns()
        fork.register(self)
        if provider is not None:
            self._bind()

    def _bind(self) -> Provider:
        """Return the provider in use; if it is another one than before, begin with no metrics."""
        provider = self._given or get_provider()
        if provider is not self._provider:
            self._metrics = {}
            self._merged = MergedMetrics(provider, self.name, self.clock, self._window)
            self._provider = provider
        return provider

    @property
    def merged(self) -> MergedMetrics:
        with self._lock:
            self._bind()
            return self._merged

    def obtain(self, kind: type[Kind], name: str, labels: Labels, function: Callable[..., Any] | None) -> Kind:
        with self._lock:
            provider = self._bind()
            held = self._metrics.get((name, labels))
            if isinstance(held, kind) and held.is_registered():
                return held
            self._check_kind(provider, kind, name)
            made = kind(name, labels, self.name, provider, self._merged, function)
            self._metrics[name, labels] = made
            return made

    def _check_kind(self, provider: Provider, kind: type[RegistryMetric], name: str) -> None:
        """Raise ConflictError if this process has a metric of another kind with this name."""
        memory = provider.memory
        if memory.process.is_due:
            memory.catch_up()
        for role in (other.role for other in _KINDS if other is not kind):
            if memory.find(family_name(role, self.name, name)):
                msg = f"metric {name!r} cannot be a {kind.role}: it is registered as a {role}; give it another name"
                raise ConflictError(msg)

    def get(self, name: str, labels: Labels) -> RegistryMetric | None:
        with self._lock:
            self._bind()
            held = self._metrics.get((name, labels))
            return held if held is not None and held.is_registered() else None

    def metrics(self) -> list[RegistryMetric]:
        with self._lock:
            self._bind()
            held = sorted(self._metrics.items())
            return [metric for _, metric in held if metric.is_registered()]

    def remove(self, name: str, labels: Labels) -> None:
        with self._lock:
            provider = self._bind()
            held = self._metrics.get((name, labels))
            if held is not None and held.is_registered():
                held.remove()
                del self._metrics[name, labels]
                return
            # Another process has registered it: find out its kind.
            for values in self._merged.read():
                if (values.name, values.labels) == (name, labels):
                    kind = next(kind for kind in _KINDS if kind.role == values.role)
                    kind(name, labels, self.name, provider, self._merged).remove()

    def after_fork_in_child(self) -> None:
        """The thread that held the lock does not exist here."""
        self._lock.after_fork_in_child()


def _labels(labels: Mapping[str, object] | None, name: str) -> Labels:
    checked = check_attributes(labels, f"labels of {name!r}")
    return tuple(sorted((label, value) for label, value in checked.items() if value))


default_registry = Registry("default")
"""The registry of the default provider."""
