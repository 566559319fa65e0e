"""What all instruments have in common: a family that all processes agree on, and one cell for each of its series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpmetrics.instruments.series import make_series

if TYPE_CHECKING:
    from mpmetrics._cells import Guard, Removals, Segment
    from mpmetrics.provider import Provider
    from mpmetrics.storage.catalog import Family, Key

__all__ = ["DEFAULT_MAX_SERIES", "Internal", "Metric", "check_length", "check_max_series"]

Child = TypeVar("Child")

MAX_LABELS = 65_536
"""Characters that the label values of a series may have in all."""

DEFAULT_MAX_SERIES = 10_000
"""Series a metric may have; what comes past it goes to one series labelled ``otel_metric_overflow="true"``."""


class Metric(Generic[Child]):
    """The series of ``family`` in this process; ``provider`` is where their values go.

    Any number of objects may stand for one family. All methods may be called from any thread.

    Raises :class:`~mpmetrics.errors.ConflictError` when the family's name belongs to a different one, in this process
    or another.
    """

    def __init__(self, family: Family, provider: Provider, max_series: int) -> None:
        self._family = family
        self._provider = provider
        self._memory = provider.memory
        self._max_series = max_series
        # Where the kind has label names, these two are Labelled's.
        self._removals: Removals = self._memory.removals
        self._children: dict[Key, Any] = self._memory.declare(family)

    def _make(self, guard: Guard, segment: Segment, index: int) -> Any:
        """The cell of a series."""
        return make_series(self._family, guard, segment, index)

    def _bind(self, key: Key) -> Child:
        cell = self._memory.bind(self._family, key, self._make, self._max_series)
        if cell is None:
            cell = self._bind_overflow()
        return cell  # type: ignore[return-value]

    @property
    def family(self) -> Family:
        """The family."""
        return self._family

    def series(self, key: Key) -> Child:
        """The series with these label values, made unless it is there; past the cap, the overflow series."""
        self._notice_removals()
        child = self._children.get(key)
        return self._bind(key) if child is None else child

    def _bind_overflow(self) -> Any:
        """The series for what is past the cap, and one more in the count of how often that was."""
        _overflows(self._provider, self._family.name)
        return self._memory.bind(self._family, None, self._make, self._max_series)

    def _notice_removals(self) -> None:
        """Take in what other processes removed, before a series is looked up."""
        if self._removals.is_due:
            self._memory.sync()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._family.original or self._family.name!r})"


def check_max_series(metric: str, max_series: int) -> None:
    """ValueError unless ``max_series`` is a number of series that a metric may have."""
    if not isinstance(max_series, int) or max_series < 1:
        msg = f"metric {metric!r}: max_series is a whole number from 1, not {max_series!r}"
        raise ValueError(msg)


def check_length(metric: object, key: tuple[str, ...]) -> None:
    """ValueError when the label values of a series are too long for a record of the store."""
    if sum(map(len, key)) > MAX_LABELS:
        msg = f"{metric!r}: label values of {sum(map(len, key))} characters are over the limit of {MAX_LABELS}"
        raise ValueError(msg)


class Internal:
    """Marks the library's own instruments, whose names start with the reserved prefix."""


def _overflows(provider: Provider, metric: str) -> None:
    from mpmetrics.instruments.overflow import count  # noqa: PLC0415 (it is an instrument itself)

    count(provider, metric)
