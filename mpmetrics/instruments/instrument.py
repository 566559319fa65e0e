"""Instrument: the base of the instruments with prometheus_client's signatures.

An instrument has fixed label names and a series for each set of label values. Any thread may call the methods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mpmetrics._cells import Labelled
from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric, check_max_series
from mpmetrics.instruments.series import cell_type
from mpmetrics.names.family import Family
from mpmetrics.names.naming import RESERVED_PREFIX, check_label_names, declared_at, full_name, text
from mpmetrics.provider_base import default_provider

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mpmetrics.provider_base import ProviderBase

__all__ = ["DEFAULT_MAX_SERIES", "Instrument"]

Child = TypeVar("Child")


class Instrument(Metric[Child], Labelled):
    """A metric. Without label names it has one series; with label names, :meth:`labels` returns its series.

    ``name``, ``documentation``, ``labelnames``, ``namespace``, ``subsystem`` and ``unit`` as in prometheus_client.
    ``registry`` must be None: to serve the metrics from a prometheus_client registry, register one
    :class:`mpmetrics.Collector` there. ``provider`` is where values go, by default the default provider. ``max_series``
    is how many sets of label values the metric may have in a process; further ones count in one series labelled
    ``otel_metric_overflow="true"``, and the log says so once. A label value of more than 1,024 characters is cut to
    1,024, the last one an ellipsis.

    The same arguments again make another object of the same metric. All methods may be called from any thread.

    Raises ValueError for an invalid name or label name, TypeError if ``labelnames`` is a str, and
    :class:`~mpmetrics.errors.ConflictError` if this process has a metric of this name with another kind, labels, unit,
    buckets, states or mode.
    """

    _kind: ClassVar[str]
    _hot: ClassVar[tuple[str, ...]] = ()
    """Methods that a metric without labels takes directly from its one series, so the fast path skips this class."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: None = None,
        *,
        provider: ProviderBase | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        whole = full_name(self._kind, name, namespace, subsystem, unit)
        if whole.startswith(RESERVED_PREFIX):
            msg = f"metric {whole!r}: names that start with {RESERVED_PREFIX!r} are reserved; use another name"
            raise ValueError(msg)
        check_max_series(whole, max_series)
        if registry is not None:
            msg = f"metric {whole!r}: register mpmetrics.Collector(provider) with {registry!r} instead of each metric"
            raise ValueError(msg)
        labels = check_label_names(whole, labelnames, self._reserved_labels(whole))
        family = Family(whole, self._kind, text(documentation), text(unit), labels, origin=declared_at())
        family = replace(family, **self._particulars())
        super().__init__(family, provider if provider is not None else default_provider.get(), max_series)
        if not labels:
            self._alone: Child = self._single()
            for method in self._hot:
                self.__dict__[method] = getattr(self._alone, method)
        # The interpreter caches attribute look-ups of types. This fills the cache, so the first use is not slower.
        for owner, methods in ((type(self), ("labels",)), (cell_type(family), self._hot)):
            for method in methods:
                getattr(owner, method)

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        """Labels that the exposition of a metric of this name adds itself, so the metric cannot have them."""
        return ()

    def _particulars(self) -> dict[str, Any]:
        """The fields of the family that only some kinds have."""
        return {}

    def _single(self) -> Child:
        """The one series of a metric without labels."""
        return self.series(())

    def _only(self) -> Child:
        """Return the one series of a metric without labels; ValueError if the metric has labels."""
        if self._family.labels:
            msg = f"{self!r} has labels: call labels({', '.join(self._family.labels)}) first"
            raise ValueError(msg)
        return self._alone

    if TYPE_CHECKING:

        def labels(self, *labelvalues: object, **labelkwargs: object) -> Child:
            """As in the base class."""

    def _resolve(self, values: tuple[object, ...], named: Mapping[str, object]) -> Child:
        return self.series(self._key(values, named))

    def _key(self, values: tuple[object, ...], named: Mapping[str, object]) -> tuple[str, ...]:
        names = self._family.labels
        if not names:
            msg = f"{self!r} has no labels: it was made without label names; call its methods directly"
            raise ValueError(msg)
        if named and values:
            msg = f"{self!r}: give all label values by position or all by name, not {values} and {dict(named)}"
            raise ValueError(msg)
        if named:
            if set(named) != set(names):
                msg = f"{self!r} has the labels {names}, but {tuple(named)} were given"
                raise ValueError(msg)
            values = tuple(named[name] for name in names)
        elif len(values) != len(names):
            msg = f"{self!r} has the {len(names)} labels {names}, but {len(values)} values were given: {values}"
            raise ValueError(msg)
        return tuple(self._cut(text(value)) for value in values)

    def remove(self, *labelvalues: object) -> None:
        """Remove the series with these label values in all processes; does nothing if no process has it.

        Writes to a series object that the caller still holds have no effect. A later ``labels`` makes a new series that
        starts at zero. ValueError if the number of values is wrong; :class:`~mpmetrics.errors.StoreError`, and nothing
        is removed, if the store cannot record the removal.
        """
        self._remove(self._key(labelvalues, {}))

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Remove the series whose labels include ``labels``, in all processes; an empty mapping removes none.

        TypeError unless ``labels`` is a mapping, ValueError for a label that the metric does not have. Otherwise as
        :meth:`remove`.
        """
        names = self._family.labels
        if not hasattr(labels, "items"):
            msg = f"{self!r}: labels must be a mapping of label names to values, not {labels!r}"
            raise TypeError(msg)
        unknown = [name for name in labels if name not in names]
        if unknown or not names:
            msg = f"{self!r} has the labels {names}, but {unknown} were given"
            raise ValueError(msg)
        wanted = [(name, self._cut(text(value))) for name, value in labels.items()]
        if wanted:
            self._memory.remove(self._family, wanted, is_subset=True)

    def clear(self) -> None:
        """Remove all series in all processes, the overflow series too. Does nothing to a metric without labels."""
        if self._family.labels:
            self._memory.remove(self._family, [], is_subset=True)
