"""Instruments of the Meter API: each measurement has attributes, which are the labels of its series.

Two instruments of one name are one metric and share its series. Any thread may call the methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.metric import Child, Metric, check_max_series
from mpmetrics.instruments.series import CounterSeries, DistributionSeries, GaugeSeries, UpDownSeries
from mpmetrics.names.attributes import SCOPE_NAME, SCOPE_VERSION, check_attributes, pairs_key
from mpmetrics.names.family import Family
from mpmetrics.names.naming import RESERVED_PREFIX, declared_at, text
from mpmetrics.names.translation import check_name, exposed_name, unit_words

if TYPE_CHECKING:
    from mpmetrics.names.attributes import Attributes
    from mpmetrics.names.family import Key
    from mpmetrics.provider_base import ProviderBase

__all__ = [
    "Description",
    "MeterCounter",
    "MeterGauge",
    "MeterHistogram",
    "MeterInstrument",
    "MeterScope",
    "MeterUpDownCounter",
]


_TEXT = frozenset({str})
_REMEMBERED = frozenset({str, int, bool, type(None)})
"""Types of attributes whose keys are cached: equal values of one type have the same text."""


@dataclass(frozen=True)
class MeterScope:
    """What an instrument gets from its meter: provider, name, version, and attributes of each measurement."""

    provider: ProviderBase
    name: str
    version: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Description:
    """The arguments that make an instrument, see :class:`mpmetrics.meter.Meter`."""

    name: str
    help: str
    unit: str
    attributes: Attributes | None
    max_series: int


class MeterInstrument(Metric[Child]):
    """An instrument of a meter. ``particulars`` are the fields of the family that its kind has.

    The attributes of a measurement override those of the instrument, these override the meter's, and these the
    provider's.

    Raises TypeError and ValueError for an invalid name, unit or attribute, and
    :class:`~mpmetrics.errors.ConflictError` if this process uses the name in Prometheus for a different metric, or a
    name that differs in the case of letters alone.
    """

    def __init__(self, meter_scope: MeterScope, kind: str, description: Description, **particulars: Any) -> None:
        original = check_name(description.name)
        unit = unit_words(description.unit, is_gauge=kind == "gauge")
        name = exposed_name(kind, original, unit)
        if name.startswith(RESERVED_PREFIX):
            msg = f"instrument {original!r}: names that start with {RESERVED_PREFIX!r} are reserved; use another name"
            raise ValueError(msg)
        check_max_series(original, description.max_series)
        mode = particulars.get("mode", "")
        self._reserved = {"histogram": ("le",)}.get(kind, ("worker",) if mode.endswith("all") else ())
        check_attributes(meter_scope.attributes, original, self._reserved)
        own = check_attributes(description.attributes, original, self._reserved)
        scope = {SCOPE_NAME: meter_scope.name, SCOPE_VERSION: meter_scope.version}
        self.meter_scope = meter_scope
        self._fixed = {**meter_scope.attributes, **own, **scope}
        self._fixed_key = pairs_key(self._fixed)
        self._keys: dict[tuple[object, ...], tuple[str, ...]] = {}
        family = Family(
            name, kind, text(description.help), unit, original=original, origin=declared_at(), **particulars
        )
        super().__init__(family, meter_scope.provider, description.max_series)

    @property
    def name(self) -> str:
        """The name that was given when the instrument was made."""
        return self._family.original

    def _series(self, attributes: Attributes | None) -> Child:
        """Return the series with these attributes; make it at its first use. TypeError or ValueError if invalid."""
        key: Key = self._fixed_key
        if attributes:
            try:
                items = tuple(attributes.items())
                key = self._keys.get(items)
                if key is None:
                    key = self._keys.get((items, tuple(map(type, attributes.values()))))
            except (TypeError, AttributeError):  # a value cannot be hashed, or attributes are no mapping
                key = None
            if key is None:
                key = self._key(attributes)
        return self.series(key)

    def _key(self, attributes: Attributes | None) -> tuple[str, ...]:
        pairs = {**self._fixed, **check_attributes(attributes, self, self._reserved)}
        key = pairs_key({name: self._cut(value) for name, value in pairs.items()})
        if attributes:
            types = tuple(map(type, attributes.values()))
            if _REMEMBERED.issuperset(types):
                if len(self._keys) >= self._children.limit:
                    self._keys.clear()
                items = tuple(attributes.items())
                # 1 and True are equal, but their texts differ: unless all values are str, the key needs their types.
                self._keys[items if _TEXT.issuperset(types) else (items, types)] = key
        return key

    def remove(self, attributes: Attributes | None = None) -> None:
        """Remove the series with exactly these attributes in all processes; does nothing if no process has it.

        Guarantees and errors as :meth:`mpmetrics.Counter.remove`.
        """
        self._remove(self._key(attributes))

    def clear(self) -> None:
        """Remove all series in all processes, also those of other meters with this instrument."""
        self._memory.remove(self._family, [], is_subset=True)


class MeterCounter(MeterInstrument[CounterSeries]):
    """A total that only grows, summed over all processes, dead ones included."""

    def add(self, amount: float, attributes: Attributes | None = None) -> None:
        """Add ``amount``. ValueError, and nothing changes, if it is negative or NaN."""
        if not amount >= 0:  # before the series is made
            msg = f"{self!r} can only go up: it cannot be increased by {amount!r}; an up-down counter can go down"
            raise ValueError(msg)
        self._series(attributes).inc(amount)

    def inc(self, attributes: Attributes | None = None) -> None:
        """Add 1."""
        self._series(attributes).inc()


class MeterUpDownCounter(MeterInstrument[UpDownSeries]):
    """A total that goes up and down, summed over processes. Exposed as a gauge."""

    def add(self, amount: float, attributes: Attributes | None = None) -> None:
        """Add ``amount``, which may be negative."""
        self._series(attributes).inc(amount)

    def inc(self, attributes: Attributes | None = None) -> None:
        """Add 1."""
        self._series(attributes).inc()

    def dec(self, attributes: Attributes | None = None) -> None:
        """Subtract 1."""
        self._series(attributes).dec()


class MeterGauge(MeterInstrument[GaugeSeries]):
    """A current value, merged over processes by its mode."""

    def set(self, value: float, attributes: Attributes | None = None) -> None:
        """Set this process's value."""
        self._series(attributes).set(value)


class MeterHistogram(MeterInstrument[DistributionSeries]):
    """Counts values by buckets, and their sum."""

    def record(self, value: float, attributes: Attributes | None = None) -> None:
        """Count ``value``. ValueError, and nothing changes, if it is NaN."""
        if value != value:  # noqa: PLR0124 (only NaN differs from itself)
            msg = f"{self!r} cannot record {value!r}: NaN belongs to no bucket"
            raise ValueError(msg)
        self._series(attributes).observe(value)
