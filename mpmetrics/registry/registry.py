"""Registry: the metrics of a name, shared by all processes of a provider's store."""

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
"""Registries without a name are told apart by their order, which is the same in all workers of one application."""

WINDOW = 300.0


class Registry:
    """Metrics by name. Those of the same registry name and store are the same in all processes.

    ``name`` tells it from other registries of the store; without one it is the n-th that the process makes. ``prefix``
    stands before each name that is given to it. ``provider`` is where values are kept, by default the default one.
    ``window`` is how many seconds sliding percentiles look back. ``clock`` is a monotonic one in seconds.

    Any thread may call its methods. ValueError for a name with ``/``, one that UTF-8 cannot carry, and a window of 0 or
    less.
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
            msg = f"a registry's name is a str without '/', not {name!r}"
            raise ValueError(msg)
        check_text(name, "a registry's name")
        if not window > 0:
            msg = f"registry {name!r}: window is a number of seconds above 0, not {window!r}"
            raise ValueError(msg)
        self.prefix = prefix
        self._shared = _Shared(name or f"unnamed-{next(_unnamed)}", provider, window, clock)

    @property
    def name(self) -> str:
        """What tells it from other registries of the store."""
        return self._shared.name

    def child(self, prefix: str) -> Registry:
        """The same registry, seen through names that begin with ``prefix``, which stands behind this one's."""
        made = copy.copy(self)
        made.prefix = self.prefix + prefix
        return made

    def get_or_register_counter(self, name: str, labels: Mapping[str, object] | None = None) -> Counter:
        """The counter of this name and labels, made unless it is there.

        Raises ValueError for a name that is empty or that UTF-8 cannot carry, TypeError for one that is no str, and
        :class:`~mpmetrics.errors.ConflictError` when it is that of a metric of another kind; so do the methods below.
        """
        return self._get_or_register(Counter, name, labels)

    def get_or_register_gauge(
        self, name: str, labels: Mapping[str, object] | None = None, *, function: Callable[[], float] | None = None
    ) -> Gauge:
        """The gauge of this name and labels, which has the value that ``function`` returns if there is one."""
        return self._get_or_register(Gauge, name, labels, function)

    def get_or_register_meter(self, name: str, labels: Mapping[str, object] | None = None) -> Meter:
        """The meter of this name and labels."""
        return self._get_or_register(Meter, name, labels)

    def get_or_register_histogram(self, name: str, labels: Mapping[str, object] | None = None) -> Histogram:
        """The histogram of this name and labels."""
        return self._get_or_register(Histogram, name, labels)

    def get_or_register_timer(self, name: str, labels: Mapping[str, object] | None = None) -> Timer:
        """The timer of this name and labels."""
        return self._get_or_register(Timer, name, labels)

    def get_or_register_healthcheck(
        self,
        name: str,
        function: Callable[[Healthcheck], object] | None = None,
        labels: Mapping[str, object] | None = None,
    ) -> Healthcheck:
        """The healthcheck of this name and labels; ``function`` is called with it whenever it is to check."""
        return self._get_or_register(Healthcheck, name, labels, function)

    def register(
        self,
        name: str,
        kind: type[Kind],
        labels: Mapping[str, object] | None = None,
        *,
        function: Callable[..., Any] | None = None,
    ) -> Kind:
        """A new metric of the class ``kind``, such as :class:`Timer`.

        :class:`~mpmetrics.errors.ConflictError` when this process has registered the name with these labels already.
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
            msg = f"a metric's name is a str, not {name!r}"
            raise TypeError(msg)
        if not self.prefix + name:
            msg = "a metric needs a name"
            raise ValueError(msg)
        check_text(self.prefix + name, "a metric's name")
        if function is not None:
            check_callback(function, f"{kind.role} {name!r}")
        return self._shared.obtain(kind, self.prefix + name, _labels(labels, name), function)

    def get(self, name: str, labels: Mapping[str, object] | None = None) -> RegistryMetric | None:
        """The metric that this process registered by this name and labels; None when there is none."""
        return self._shared.get(self.prefix + name, _labels(labels, name))

    def each(self) -> Iterator[tuple[str, RegistryMetric]]:
        """Names and metrics that this process has registered, by name."""
        for metric in self._shared.metrics():
            if metric.name.startswith(self.prefix):
                yield metric.name, metric

    def unregister(self, name: str, labels: Mapping[str, object] | None = None) -> None:
        """Remove a metric, whoever registered it, from all processes; nothing happens when there is none.

        :class:`~mpmetrics.errors.StoreError`, with nothing removed, when the store cannot take that.
        """
        self._shared.remove(self.prefix + name, _labels(labels, name))

    def unregister_all(self) -> None:
        """Remove all metrics whose names begin with the prefix, whoever registered them, from all processes."""
        for values in self.read():
            self._shared.remove(values.name, values.labels)

    def run_healthchecks(self) -> None:
        """Have all healthchecks of this process check. They may use the registry, and register."""
        for _, metric in list(self.each()):
            if isinstance(metric, Healthcheck):
                metric.check()

    def read(self, *, ask: bool = False) -> list[MetricValues]:
        """All metrics as they are now, over all processes; ``ask`` for the values of functional gauges, too."""
        return [values for values in self._shared.merged.read(ask=ask) if values.name.startswith(self.prefix)]

    @property
    def next_tick(self) -> float:
        """When rates and windows are due for their next tick, on the registry's clock."""
        return self._shared.merged.next_tick

    @property
    def clock(self) -> Callable[[], float]:
        """The clock, in seconds."""
        return self._shared.clock

    def __repr__(self) -> str:
        return f"Registry({self.name!r}, prefix={self.prefix!r})"


class _Shared:
    """What a registry and its children share. Its metrics are made anew when the default provider is another."""

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
            self._settle()

    def _settle(self) -> Provider:
        provider = self._given or get_provider()
        if provider is not self._provider:
            self._metrics = {}
            self._merged = MergedMetrics(provider, self.name, self.clock, self._window)
            self._provider = provider
        return provider

    @property
    def merged(self) -> MergedMetrics:
        with self._lock:
            self._settle()
            return self._merged

    def obtain(self, kind: type[Kind], name: str, labels: Labels, function: Callable[..., Any] | None) -> Kind:
        with self._lock:
            provider = self._settle()
            held = self._metrics.get((name, labels))
            if isinstance(held, kind) and held.is_registered():
                return held
            self._check_kind(provider, kind, name)
            made = kind(name, labels, self.name, provider, self._merged, function)
            self._metrics[name, labels] = made
            return made

    def _check_kind(self, provider: Provider, kind: type[RegistryMetric], name: str) -> None:
        """ConflictError when this process has a metric of another kind by this name."""
        memory = provider.memory
        if memory.process.is_due:
            memory.notice()
        for role in (other.role for other in _KINDS if other is not kind):
            if memory.find(family_name(role, self.name, name)):
                msg = f"metric {name!r} cannot be a {kind.role}: it is registered as a {role}; give it another name"
                raise ConflictError(msg)

    def get(self, name: str, labels: Labels) -> RegistryMetric | None:
        with self._lock:
            self._settle()
            held = self._metrics.get((name, labels))
            return held if held is not None and held.is_registered() else None

    def metrics(self) -> list[RegistryMetric]:
        with self._lock:
            self._settle()
            held = sorted(self._metrics.items())
            return [metric for _, metric in held if metric.is_registered()]

    def remove(self, name: str, labels: Labels) -> None:
        with self._lock:
            provider = self._settle()
            held = self._metrics.get((name, labels))
            if held is not None and held.is_registered():
                held.remove()
                del self._metrics[name, labels]
                return
            # Another process registered it: its kind shows in what there is.
            for values in self._merged.read():
                if (values.name, values.labels) == (name, labels):
                    kind = next(kind for kind in _KINDS if kind.role == values.role)
                    kind(name, labels, self.name, provider, self._merged).remove()

    def after_fork_in_child(self) -> None:
        """A thread that held the lock is not here."""
        self._lock.after_fork_in_child()


def _labels(labels: Mapping[str, object] | None, name: str) -> Labels:
    checked = check_attributes(labels, f"labels of {name!r}")
    return tuple(sorted((label, value) for label, value in checked.items() if value))


default_registry = Registry("default")
"""The registry of the default provider."""
