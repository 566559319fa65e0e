"""Enum: which one of a set of states is true. The state that any process set last counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.instrument import DEFAULT_MAX_SERIES, Instrument
from mpmetrics.instruments.series import EnumSeries
from mpmetrics.names.naming import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpmetrics.provider_base import ProviderBase

__all__ = ["Enum"]


class Enum(Instrument[EnumSeries]):
    """Which one of ``states`` is true: the first one until another is set. Exposed as one series for each state.

    The state that any process set last counts. Other arguments as in
    :class:`~mpmetrics.instruments.instrument.Instrument`. ValueError if ``states`` is empty or has one twice.
    """

    _kind = "enum"

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
        states: Sequence[str] | None = None,
        provider: ProviderBase | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        if not states or isinstance(states, str):
            msg = f"enum {name!r}: states must be a sequence of at least one str, not {states!r}"
            raise ValueError(msg)
        self._states = tuple(map(text, states))
        if len(set(self._states)) != len(self._states):
            msg = f"enum {name!r}: the states {self._states} are not all different"
            raise ValueError(msg)
        super().__init__(
            name,
            documentation,
            labelnames,
            namespace,
            subsystem,
            unit,
            registry,
            provider=provider,
            max_series=max_series,
        )

    def _reserved_labels(self, name: str) -> tuple[str, ...]:
        if ":" in name:
            msg = f"enum {name!r}: the name is also the label of its states, and no label name may contain ':'"
            raise ValueError(msg)
        return (name,)

    def _particulars(self) -> dict[str, Any]:
        return {"states": self._states}

    def state(self, state: str) -> None:
        """Set the current state. ValueError if it is not one of the metric's states."""
        self._only().state(state)
