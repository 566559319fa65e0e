"""Instruments of the Meter API: each measurement brings its attributes. They share their series with all others."""

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
    from mpmetrics.destination import Destination
    from mpmetrics.names.attributes import Attributes
    from mpmetrics.names.family import Key

__all__ = ["Attributed", "Description", "MeterCounter", "MeterGauge", "MeterHistogram", "MeterUpDownCounter", "Owner"]


_TEXT = frozenset({str})
_REMEMBERED = frozenset({str, int, bool, type(None)})
"""Types whose equal values are the same as label values."""


@dataclass(frozen=True)
class Owner:
    """What an instrument has from its meter: the provider, name and version, and attributes for each measurement."""

    provider: Destination
    name: str
    version: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Description:
    """What an instrument is made of: see :meth:`mpmetrics.meter.Meter.counter`."""

    name: str
    help: str
    unit: str
    attributes: Attributes | None
    max_series: int


class Attributed(Metric[Child]):
    """An instrument of a meter, by ``description``; ``particulars`` are the fields of the family its kind has.

    Attributes of a measurement win over the instrument's, those over the meter's, and those over the provider's.

    Raises TypeError and ValueError for a name, unit or attribute that is none, and
    :class:`~mpmetrics.errors.ConflictError` when the name in Prometheus is that of a different metric of this process,
    or differs from another instrument's in the case of letters alone.
    """

    def __init__(self, owner: Owner, kind: str, description: Description, **particulars: Any) -> None:
        original = check_name(description.name)
        unit = unit_words(description.unit, is_gauge=kind == "gauge")
        name = exposed_name(kind, original, unit)
        if name.startswith(RESERVED_PREFIX):
            msg = f"instrument {original!r}: names that start with {RESERVED_PREFIX!r} are the collector's own"
            raise ValueError(msg)
        check_max_series(original, description.max_series)
        mode = particulars.get("mode", "")
        self._reserved = {"histogram": ("le",)}.get(kind, ("worker",) if mode.endswith("all") else ())
        check_attributes(owner.attributes, original, self._reserved)
        own = check_attributes(description.attributes, original, self._reserved)
        scope = {SCOPE_NAME: owner.name, SCOPE_VERSION: owner.version}
        self.owner = owner
        self._fixed = {**owner.attributes, **own, **scope}
        self._fixed_key = pairs_key(self._fixed)
        self._keys: dict[tuple[object, ...], tuple[str, ...]] = {}
        family = Family(
            name, kind, text(description.help), unit, original=original, origin=declared_at(), **particulars
        )
        super().__init__(family, owner.provider, description.max_series)

    @property
    def name(self) -> str:
        """The name that the instrument was made with."""
        return self._family.original

    def _series(self, attributes: Attributes | None) -> Child:
        """The series with these attributes, made at its first use; TypeError or ValueError when they are none."""
        key: Key = self._fixed_key
        if attributes:
            try:
                items = tuple(attributes.items())
                key = self._keys.get(items)
                if key is None:
                    key = self._keys.get((items, tuple(map(type, attributes.values()))))
            except (TypeError, AttributeError):  # a value that cannot be hashed, or no mapping
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
                # 1 and True are equal, but not as label values: unless all are text, their types count.
                self._keys[items if _TEXT.issuperset(types) else (items, types)] = key
        return key

    def remove(self, attributes: Attributes | None = None) -> None:
        """Remove the series with exactly these attributes in all processes; nothing happens when there is none.

        As :meth:`mpmetrics.Counter.remove`.
        """
        self._remove(self._key(attributes))

    def clear(self) -> None:
        """Remove all series, of all meters that have this instrument, in all processes."""
        self._memory.remove(self._family, [], is_subset=True)


class MeterCounter(Attributed[CounterSeries]):
    """A total that only grows, summed over all processes, the dead included."""

    def add(self, amount: float, attributes: Attributes | None = None) -> None:
        """Add ``amount``, which is not negative, else ValueError; nothing is changed then."""
        if not amount >= 0:  # before the series is made
            msg = f"{self!r} can only go up: it cannot be increased by {amount!r}"
            raise ValueError(msg)
        self._series(attributes).inc(amount)

    def inc(self, attributes: Attributes | None = None) -> None:
        """Add 1."""
        self._series(attributes).inc()


class MeterUpDownCounter(Attributed[UpDownSeries]):
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


class MeterGauge(Attributed[GaugeSeries]):
    """A value of the moment, merged over processes by its mode."""

    def set(self, value: float, attributes: Attributes | None = None) -> None:
        """Set this process's value."""
        self._series(attributes).set(value)


class MeterHistogram(Attributed[DistributionSeries]):
    """Counts values by buckets, and adds them up."""

    def record(self, value: float, attributes: Attributes | None = None) -> None:
        """Count ``value``; ValueError when it is NaN, and nothing is changed then."""
        if value != value:  # noqa: PLR0124 (only NaN differs from itself)
            msg = f"{self!r} cannot record {value!r}, which is not a number: it belongs to no bucket"
            raise ValueError(msg)
        self._series(attributes).observe(value)
