"""Instruments as prometheus_client has them: label names that are fixed, and a series for each set of label values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mpmetrics._cells import Labelled
from mpmetrics.destination import default
from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric, check_max_series
from mpmetrics.instruments.series import cell_type
from mpmetrics.names.family import Family
from mpmetrics.names.naming import RESERVED_PREFIX, check_label_names, declared_at, full_name, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mpmetrics.destination import Destination

__all__ = ["DEFAULT_MAX_SERIES", "Instrument"]

Child = TypeVar("Child")


class Instrument(Metric[Child], Labelled):
    """A metric, or with label names the parent of its series.

    ``name``, ``documentation``, ``labelnames``, ``namespace``, ``subsystem`` and ``unit`` as in prometheus_client.
    ``registry`` must be None: to serve the metrics from a prometheus_client registry, register a
    :class:`mpmetrics.Collector` there once. ``provider`` is where values go, the default provider unless
    given. ``max_series`` is how many label sets the metric may have in a process; what comes past them counts in one
    series labelled ``otel_metric_overflow="true"``, which is said once in the log. Label values of more than 1,024
    characters are cut to that many, the last one an ellipsis.

    Making the same metric twice gives two objects for one metric. All methods may be called from any thread.

    Raises ValueError for a bad name or label name, TypeError for a str in the place of a sequence of label names, and
    :class:`~mpmetrics.errors.ConflictError` when this process has a metric of this name that is of another kind, or has
    other labels, unit, buckets, states or mode.
    """

    _kind: ClassVar[str]
    _hot: ClassVar[tuple[str, ...]] = ()
    """Methods that a metric without labels takes straight from its one series: the fast path, past this class."""

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
        provider: Destination | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        whole = full_name(self._kind, name, namespace, subsystem, unit)
        if whole.startswith(RESERVED_PREFIX):
            msg = f"metric {whole!r}: names that start with {RESERVED_PREFIX!r} are the collector's own"
            raise ValueError(msg)
        check_max_series(whole, max_series)
        if registry is not None:
            msg = f"metric {whole!r}: register mpmetrics.Collector(provider) with {registry!r} instead of each metric"
            raise ValueError(msg)
        labels = check_label_names(whole, labelnames, self._reserved_labels(whole))
        family = Family(whole, self._kind, text(documentation), text(unit), labels, origin=declared_at())
        family = replace(family, **self._particulars())
        super().__init__(family, provider if provider is not None else default.get(), max_series)
        if not labels:
            self._alone: Child = self._single()
            for method in self._hot:
                self.__dict__[method] = getattr(self._alone, method)
        # The interpreter keeps what it has looked up: so a process's first use does not go through all bases for it.
        for owner, methods in ((type(self), ("labels",)), (cell_type(family), self._hot)):
            for method in methods:
                getattr(owner, method)

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        """Labels that the exposition of a metric of this name adds itself."""
        return ()

    def _particulars(self) -> dict[str, Any]:
        """The fields of the family that only some kinds have."""
        return {}

    def _single(self) -> Child:
        """The one series of a metric without labels."""
        return self.series(())

    def _only(self) -> Child:
        """The one series of a metric without labels; ValueError when it has labels."""
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
            msg = f"{self!r} has no labels; it was made without label names"
            raise ValueError(msg)
        if named and values:
            msg = f"{self!r}: give label values by position or by name, not both"
            raise ValueError(msg)
        if named:
            if set(named) != set(names):
                msg = f"{self!r} has the labels {names}, not {tuple(named)}"
                raise ValueError(msg)
            values = tuple(named[name] for name in names)
        elif len(values) != len(names):
            msg = f"{self!r} has the {len(names)} labels {names}, {len(values)} values were given: {values}"
            raise ValueError(msg)
        return tuple(self._cut(text(value)) for value in values)

    def remove(self, *labelvalues: object) -> None:
        """Remove the series with these label values in all processes; nothing happens when there is none.

        Whoever still holds the series may write to it, to no effect. A later ``labels`` begins it anew, at zero.
        ValueError when the number of values is wrong; :class:`~mpmetrics.errors.StoreError`, with nothing removed,
        when the store cannot take the removal.
        """
        self._remove(self._key(labelvalues, {}))

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Remove, in all processes, the series whose labels include ``labels``; an empty mapping removes none.

        TypeError unless it is a mapping, ValueError for a label the metric does not have; else as :meth:`remove`.
        """
        names = self._family.labels
        if not hasattr(labels, "items"):
            msg = f"{self!r}: labels is a mapping of label names to values, not {labels!r}"
            raise TypeError(msg)
        unknown = [name for name in labels if name not in names]
        if unknown or not names:
            msg = f"{self!r} has the labels {names}, not {unknown}"
            raise ValueError(msg)
        wanted = [(name, self._cut(text(value))) for name, value in labels.items()]
        if wanted:
            self._memory.remove(self._family, wanted, is_subset=True)

    def clear(self) -> None:
        """Remove all series of a metric with labels, the overflow series too, in all processes; else do nothing."""
        if self._family.labels:
            self._memory.remove(self._family, [], is_subset=True)
