"""What a series directory says, in memory: the families and series that its records add up to.

A catalog belongs to one reader or writer in one process and is changed only by :meth:`Catalog.apply`. It does no
input or output.
"""

from __future__ import annotations

import bisect
import math
from array import array
from dataclasses import astuple, dataclass, field, fields
from itertools import chain
from typing import Any, NamedTuple

from mpmetrics._cells import LAYOUTS, RECORD
from mpmetrics.errors import ConflictError, FormatError
from mpmetrics.storage import format as fmt

__all__ = ["Catalog", "Family", "Key", "Series"]

Key = tuple[str, ...] | None
"""Label values of a series, in the order of its family's label names; None is the family's overflow series."""

_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}


@dataclass(frozen=True)
class Family:
    """A metric as all processes agree on it.

    ``kind`` is counter, updowncounter, gauge, histogram, summary, info, enum or sketch. ``mode`` is how a gauge or an
    up-down counter merges over processes, and which layout a sketch has. ``bounds`` are the upper bounds of a
    histogram's buckets, the last one infinite; ``states`` an enum's. ``original`` is the name in the Meter API, of a
    metric that has one. ``scope`` is where the callbacks of an asynchronous metric run, host or worker, and
    ``temporality`` what they observe: cumulative or delta; or observed, of a registry's gauge with a function.
    ``role`` is what a registry's metric is there: counter, gauge, meter, histogram, timer or healthcheck,
    or what a counter went down by, decrease. Such a family
    is named ``registry/role/registry's name/name``, and shows through a driver alone. ``origin`` says where it was
    declared, for messages, and is no part of what must agree.
    """

    name: str
    kind: str
    help: str = field(compare=False)
    unit: str = ""
    labels: tuple[str, ...] = ()
    mode: str = ""
    bounds: tuple[float, ...] = ()
    states: tuple[str, ...] = ()
    original: str = ""
    scope: str = ""
    temporality: str = ""
    role: str = ""
    origin: str = field(default="", compare=False)

    @property
    def width(self) -> int:
        """Slots of one series."""
        if self.kind in ("histogram", "summary"):
            return 2 + max(1, len(self.bounds))
        if self.kind in ("info", "enum") or self.mode in ("mostrecent", "livemostrecent"):
            return 4
        if self.kind == "sketch":
            return 2 * RECORD + LAYOUTS[self.mode].size
        return 1

    @property
    def is_open(self) -> bool:
        """Whether a series carries names and values of more labels behind the values of ``labels``."""
        return self.kind == "info" or bool(self.original or self.role)

    def pairs(self, key: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Label names and values of the series ``key``."""
        if not self.is_open:
            return tuple(zip(self.labels, key, strict=True))
        size = len(self.labels)
        more = key[size:]
        return (*zip(self.labels, key, strict=False), *zip(more[::2], more[1::2], strict=True))

    @property
    def sample_names(self) -> frozenset[str]:
        """Every name that the exposition of this family takes."""
        return frozenset(self.name + suffix for suffix in _SUFFIXES.get(self.kind, ("",)))

    def dump(self) -> dict[str, Any]:
        """The fields of a FAMILY record; bounds in ``float.hex`` form, so that they come back to the bit."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["bounds"] = [bound.hex() for bound in self.bounds]
        return values

    @classmethod
    def load(cls, values: dict[str, Any]) -> Family:
        """The family of a FAMILY record; TypeError, ValueError or KeyError when the fields are not a family's."""
        return cls(
            name=str(values["name"]),
            kind=str(values["kind"]),
            help=str(values["help"]),
            unit=str(values["unit"]),
            labels=tuple(map(str, values["labels"])),
            mode=str(values["mode"]),
            bounds=tuple(map(float.fromhex, values["bounds"])),
            states=tuple(map(str, values["states"])),
            original=str(values.get("original", "")),
            scope=str(values.get("scope", "")),
            temporality=str(values.get("temporality", "")),
            role=str(values.get("role", "")),
            origin=str(values["origin"]),
        )

    def difference(self, other: Family) -> str:
        """In words, what keeps two families of one name apart."""
        for name in ("kind", "original", "labels", "unit", "mode", "bounds", "states", "scope", "temporality", "role"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} {_words(mine)}, not {_words(theirs)}"
        return "nothing"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        finite = [item for item in value if not (isinstance(item, float) and math.isinf(item))]
        return "(" + ", ".join(map(str, finite)) + ")"
    return repr(value)


@dataclass(slots=True)
class Series:
    """One series: its family's number, label values and slots, when it was made (Unix time, s), and in which order."""

    family: int
    key: Key
    first: int
    width: int
    created: float
    generation: int
    serial: int


class Rest(NamedTuple):
    """Slots of a removed series: the generation of its removal, how many they are, and its serial."""

    generation: int
    width: int
    serial: int


class Catalog:
    """Families and series by the records of a series directory, and which slots are taken, resting or free."""

    def __init__(self) -> None:
        self.families: dict[int, Family] = {}
        self.numbers: dict[str, int] = {}
        self.series: dict[int, dict[Key, Series]] = {}
        self.by_slot: dict[int, Series] = {}
        self.resting: dict[int, Rest] = {}
        self.touched: set[int] = set()
        """First slots of series that came or went since a reader last emptied this."""
        self.removals: dict[int, int] = {}
        """How many series of each family were removed so far."""
        self._younger: list[Series] = []
        """Series that were made after removals, in the order of these; some of them are gone."""
        self._spans: array[int] | None = array("q")
        self.next_slot = 0
        self.next_family = 0
        self.next_serial = 1
        self.generation = 0
        """The latest generation of a removal among the records."""
        self.damaged = 0
        self.dead_records = 0
        self._sample_names: dict[str, int] = {}
        self._folded: dict[str, int] = {}
        """Families of the Meter API, whose names are the same whatever their case."""

    def apply(self, kind: int, body: list[Any] | None) -> None:
        """Take one record in; one that makes no sense is counted in ``damaged`` and left out."""
        try:
            if body is None:
                raise FormatError("damaged")
            getattr(self, _APPLY[kind])(*body)
        except (ValueError, TypeError, KeyError, FormatError):
            self.damaged += 1

    def check(self, family: Family) -> int | None:
        """The number of an equal family, or None; :class:`ConflictError` when the name is taken by another."""
        number = self.numbers.get(family.name)
        if number is not None:
            other = self.families[number]
            if other != family:
                msg = (
                    f"metric {family.name!r} declared at {family.origin} has {family.difference(other)}"
                    f" as declared at {other.origin}; give it another name, or the same {_WHAT}"
                )
                raise ConflictError(msg)
            return number
        number = self._folded.get(family.name.casefold()) if family.original else None
        if number is not None:
            other = self.families[number]
            msg = (
                f"instrument {family.original!r} declared at {family.origin} differs from {other.original!r} declared"
                f" at {other.origin} in the case of letters alone; give it another name, or the same"
            )
            raise ConflictError(msg)
        for name in sorted(family.sample_names):
            number = self._sample_names.get(name)
            if number is not None:
                other = self.families[number]
                msg = (
                    f"metric {family.name!r} ({family.kind}, declared at {family.origin}) would expose {name!r}, which"
                    f" {other.name!r} ({other.kind}, declared at {other.origin}) does already; give it another name"
                )
                raise ConflictError(msg)
        return None

    def _family(self, number: int, values: dict[str, Any]) -> None:
        family = Family.load(values)
        if number in self.families or family.name in self.numbers:
            raise ValueError(number)
        self.families[number] = family
        self.numbers[family.name] = number
        self.series[number] = {}
        self.removals[number] = 0
        for name in family.sample_names:
            self._sample_names[name] = number
        if family.original:
            self._folded[family.name.casefold()] = number
        self.next_family = max(self.next_family, number + 1)

    def _series(
        self,
        number: int,
        values: list[str] | None,
        first: int,
        width: int,
        created: float,
        generation: int,
        serial: int,
    ) -> None:
        family = self.families[number]
        key: Key = None if values is None else tuple(map(str, values))
        more = 0 if key is None else len(key) - len(family.labels)
        long_enough = more == 0 or (family.is_open and more > 0 and more % 2 == 0)
        if width != family.width or first < 0 or not long_enough or key in self.series[number] or first in self.by_slot:
            raise ValueError(first)
        series = Series(number, key, int(first), width, float(created), int(generation), int(serial))
        self.series[number][key] = series
        self.by_slot[series.first] = series
        self.touched.add(series.first)
        if series.generation:
            bisect.insort(self._younger, series, key=_generation)
        if width > 1 and self._spans is not None:
            self._spans.extend((series.first, width))
        self.next_slot = max(self.next_slot, series.first + width)
        self.next_serial = max(self.next_serial, series.serial + 1)
        self.resting.pop(series.first, None)

    def _removed(self, generation: int, slots: list[int]) -> None:
        self.generation = max(self.generation, int(generation))
        for first in slots:
            series = self.by_slot.pop(first, None)
            if series is not None:
                del self.series[series.family][series.key]
                self.resting[series.first] = Rest(int(generation), series.width, series.serial)
                self.touched.add(series.first)
                self.removals[series.family] += 1
                if series.width > 1:
                    self._spans = None
                self.dead_records += 2

    def _free(self, generation: int, first: int, width: int, serial: int) -> None:
        self.resting[int(first)] = Rest(int(generation), int(width), int(serial))
        self.next_slot = max(self.next_slot, first + width)

    def younger(self, generation: int) -> list[Series]:
        """The series that were made after a later generation of removals."""
        made = self._younger[bisect.bisect_right(self._younger, generation, key=_generation) :]
        return [series for series in made if self.by_slot.get(series.first) is series]

    @property
    def spans(self) -> array[int]:
        """First slot and width, one after the other, of each series of several words."""
        if self._spans is None:
            compound = (series for series in self.by_slot.values() if series.width > 1)
            self._spans = array("q", chain.from_iterable((series.first, series.width) for series in compound))
        return self._spans

    def difference(self, other: Catalog) -> set[int]:
        """First slots whose series is not the same here and in ``other``."""
        slots = self.by_slot.keys() | other.by_slot.keys()
        return {first for first in slots if self.by_slot.get(first) != other.by_slot.get(first)}

    def snapshot_records(self) -> list[tuple[int, list[Any]]]:
        """The shortest list of records that adds up to this catalog."""
        records: list[tuple[int, list[Any]]] = []
        records += [(fmt.FAMILY, [number, family.dump()]) for number, family in self.families.items()]
        records += [(fmt.SERIES, [series.family, series.key, *astuple(series)[2:]]) for series in self.by_slot.values()]
        records += [
            (fmt.FREE, [rest.generation, first, rest.width, rest.serial]) for first, rest in self.resting.items()
        ]
        return records


def _generation(series: Series) -> int:
    return series.generation


_WHAT = "kind, labels, unit, mode, buckets, scope and temporality"

_APPLY = {fmt.FAMILY: "_family", fmt.SERIES: "_series", fmt.REMOVED: "_removed", fmt.FREE: "_free"}
