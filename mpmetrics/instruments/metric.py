"""What all instruments have in common: a family, and the series that this process has of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from mpmetrics.instruments.series import cell_type
from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from mpmetrics._cells import Children
    from mpmetrics.destination import Destination
    from mpmetrics.names.family import Family, Key

__all__ = ["DEFAULT_MAX_SERIES", "Context", "Metric", "check_max_series"]

Child = TypeVar("Child")

MAX_VALUE = 1024
"""Characters of a label value that are kept; the compiled look-up has the same number."""

DEFAULT_MAX_SERIES = 10_000
"""Series a metric may have; what comes past it goes to one series labelled ``otel_metric_overflow="true"``."""

LEAST_BUDGET = 4 << 20
BYTES_A_SERIES = 128
"""Bytes that a metric's label values may have in a process: so many for each series, and no less than the least."""


class Context:
    """What the instruments of one family and process share: their provider, and what was said of the metric."""

    def __init__(self, provider: Destination) -> None:
        self.provider = provider
        self._log = LogOnce()

    def cut(self, metric: str, value: str) -> str:
        """A label value of at most :data:`MAX_VALUE` characters: an ellipsis stands for what is cut off."""
        if len(value) <= MAX_VALUE:
            return value
        self._log.warn(
            "cut",
            "metric %r: a label value of %d characters is cut to %d; the first ones are %r",
            metric,
            len(value),
            MAX_VALUE,
            value[:40],
        )
        return value[: MAX_VALUE - 1] + "…"


class Metric(Generic[Child]):
    """The series of ``family`` in this process; ``provider`` is where their values go.

    Any number of objects may stand for one family; ``max_series`` is that of the first. All methods may be called from
    any thread.

    Raises :class:`~mpmetrics.errors.ConflictError` when this process has declared the family's name differently.
    """

    def __init__(self, family: Family, provider: Destination, max_series: int) -> None:
        self._family = family
        self._provider = provider
        self._memory = memory = provider.memory
        budget = max(LEAST_BUDGET, BYTES_A_SERIES * max_series)
        self._children: Children = memory.declare(
            family, cell_type(family), limit=max_series, budget=budget, context=Context(provider)
        )
        self._context: Context = self._children.context

    @property
    def family(self) -> Family:
        """The family."""
        return self._family

    def series(self, key: Key) -> Child:
        """The series with these label values, made unless it is there; past the cap, the overflow series."""
        child: Child = self._children.make(key)
        return child

    def _cut(self, value: str) -> str:
        return self._context.cut(self._family.original or self._family.name, value)

    def _remove(self, key: tuple[str, ...]) -> None:
        """Remove the series with exactly these label values, in all processes."""
        pairs = [(name, value) for name, value in self._family.pairs(key) if value]
        self._memory.remove(self._family, pairs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._family.original or self._family.name!r})"


def check_max_series(metric: str, max_series: int) -> None:
    """ValueError unless ``max_series`` is a number of series that a metric may have."""
    if not isinstance(max_series, int) or max_series < 1:
        msg = f"metric {metric!r}: max_series is a whole number from 1, not {max_series!r}"
        raise ValueError(msg)
