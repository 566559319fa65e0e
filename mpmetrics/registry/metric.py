"""RegistryMetric: the base of the metrics of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric
from mpmetrics.names.family import Family
from mpmetrics.registry.merged_metrics import family_name
from mpmetrics.registry.metric_values import MetricValues

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.provider import Provider
    from mpmetrics.registry.merged_metrics import MergedMetrics

__all__ = ["RegistryMetric"]


class RegistryMetric(Metric[Any]):
    """A metric of a registry, which makes it. Any thread may call the methods.

    Its values are in the store of the registry's provider. Reading it merges all processes, dead ones included, which
    costs as much as a scrape. Once it is unregistered, writes to it have no effect.
    """

    role: ClassVar[str]
    _layout: ClassVar[str] = ""
    _storage: ClassVar[dict[str, Any]]

    def __init__(
        self,
        name: str,
        labels: tuple[tuple[str, str], ...],
        registry: str,
        provider: Provider,
        merged: MergedMetrics,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        particulars = dict(self._storage)
        if self.role == "gauge" and function is not None:
            particulars["temporality"] = "observed"
        family = Family(name=family_name(self.role, registry, name), help="", role=self.role, **particulars)
        super().__init__(family, provider, DEFAULT_MAX_SERIES)
        self.labels = tuple((label, self._cut(value)) for label, value in labels)
        self._merged = merged
        self._function = function
        self._open()

    def _key(self) -> tuple[str, ...]:
        return tuple(text for pair in self.labels for text in pair)

    def _open(self) -> None:
        """Make the series, at zero."""
        self._series = self.series(self._key())

    def is_registered(self) -> bool:
        """True unless a process has unregistered it."""
        if self._memory.process.is_due:
            self._memory.catch_up()
        # Past the cap, its series is the overflow series.
        return any(self._series is one for one in (self._children.get(self._key()), self._children.get(None)))

    def remove(self) -> None:
        """Remove its series in all processes. StoreError, and nothing is removed, if the store cannot record that."""
        self._remove(self._key())

    def snapshot(self) -> MetricValues:
        """Return the values as they are now, merged over all processes."""
        for values in self._merged.read(ask=self._function is not None):
            if (values.name, values.role, values.labels) == (self.name, self.role, self.labels):
                return values
        return MetricValues(self.name, self.role, self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
