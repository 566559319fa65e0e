"""Metric: the base of all instruments, a family and the series that this process has of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from mpmetrics.instruments.series import cell_type
from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from mpmetrics._cells import Children
    from mpmetrics.names.family import Family, Key
    from mpmetrics.provider_base import ProviderBase

__all__ = ["DEFAULT_MAX_SERIES", "Context", "Metric", "check_max_series"]

Child = TypeVar("Child")

MAX_VALUE = 1024
"""Most characters of a label value; the compiled look-up has the same number."""

DEFAULT_MAX_SERIES = 10_000
"""How many series a metric may have in a process; further ones count in its overflow series."""

LEAST_BUDGET = 4 << 20
BYTES_A_SERIES = 128
"""Bytes that the label values of a metric may take in a process: so many for each of ``max_series``, at least 4 MiB."""


class Context:
    """What all instruments of one family in this process share: the provider, and what was logged of the metric."""

    def __init__(self, provider: ProviderBase) -> None:
        self.provider = provider
        self._log = LogOnce()

    def cut(self, metric: str, value: str) -> str:
        """Return a label value of at most :data:`MAX_VALUE` characters; a longer one is cut and ends in an ellipsis."""
        if len(value) <= MAX_VALUE:
            return value
        self._log.warn(
            "cut",
            "metric %r: a label value of %d characters is cut to %d; it begins with %r",
            metric,
            len(value),
            MAX_VALUE,
            value[:40],
        )
        return value[: MAX_VALUE - 1] + "…"


class Metric(Generic[Child]):
    """The series of ``family`` in this process. ``provider`` is where their values go.

    A family may have any number of these objects; ``max_series`` of the first one counts. All methods may be called
    from any thread.

    Raises :class:`~mpmetrics.errors.ConflictError` if this process has declared a different family of this name.
    """

    def __init__(self, family: Family, provider: ProviderBase, max_series: int) -> None:
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
        """The declaration of the metric."""
        return self._family

    def series(self, key: Key) -> Child:
        """Return the series with these label values; make it if it is new. Past the cap: the overflow series."""
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
    """Raise ValueError unless ``max_series`` is a whole number, at least 1."""
    if not isinstance(max_series, int) or max_series < 1:
        msg = f"metric {metric!r}: max_series must be a whole number, at least 1, not {max_series!r}"
        raise ValueError(msg)
