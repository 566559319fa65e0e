"""What a series directory says, in memory: the families and series that its records add up to.

A catalog belongs to one reader or writer in one process and is changed only by :meth:`Catalog.apply`. It does no
input or output.
"""

from __future__ import annotations

import bisect
import math
from array import array
from dataclasses import astuple, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmetrics.errors import ConflictError, FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry
from mpmetrics.storage.family import MAX_WIDTH, Family, Key

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Catalog", "Family", "Key", "Series"]

MOST_PROBLEMS = 20
"""Damaged records of which it is kept what is wrong with them; of all others there is the number."""


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
        self.youngest = 0
        """The latest generation of removals that a series was made after."""
        self._younger: list[Series] = []
        """Series that were made after removals, in the order of these; some of them are gone."""
        self._spans: array[int] | None = array("q")
        self.next_slot = 0
        self.next_family = 0
        self.next_serial = 1
        self.generation = 0
        """The latest generation of a removal among the records."""
        self.damaged = 0
        self.problems: list[str] = []
        """What is wrong with the first ones of those."""
        self.gone: list[tuple[int, int]] = []
        """First slot and width of the series that were removed since a writer last emptied this."""
        self.dead_records = 0
        self._taken = bytearray()
        """By slot, whether it is a series' or was one's: what overlaps would mix the values of two series."""
        self._sample_names: dict[str, int] = {}
        self._folded: dict[str, int] = {}
        """Families of the Meter API, whose names are the same whatever their case."""

    def take(self, kind: int, body: list[Any]) -> None:
        """Take one record in; FormatError, with nothing changed, when it makes no sense."""
        try:
            getattr(self, _APPLY[kind])(*body)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            msg = f"{_NAMES.get(kind, 'record')}: {error!r:.200}"
            raise FormatError(msg) from error

    def apply(self, kind: int, body: list[Any] | None, end: int = 0) -> None:
        """The same; one that is damaged or makes no sense is counted in ``damaged`` and left out.

        ``end`` is where in the file it ends, for who looks what became of it.
        """
        try:
            if body is None:
                raise FormatError("bytes that are no record, or a damaged one")
            self.take(kind, body)
        except FormatError as error:
            self.note(f"up to byte {end}: {error}")

    def note(self, problem: str) -> None:
        """Count some damage, and keep what it is."""
        self.damaged += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

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
        _whole(number, fmt.MAX_COUNT)
        if (
            number in self.families
            or family.name in self.numbers
            or not self._sample_names.keys().isdisjoint(family.sample_names)
        ):
            msg = f"metric {family.name!r} is there already, or another one of its number or of its samples' names"
            raise ValueError(msg)
        # By operations that nothing interrupts: a signal handler may declare a metric in a process' own catalog.
        if self.families.setdefault(number, family) is not family:
            msg = f"number {number} is another metric's"
            raise ValueError(msg)
        if self.numbers.setdefault(family.name, number) != number:
            del self.families[number]
            msg = f"metric {family.name!r} is there already"
            raise ValueError(msg)
        self.complete(number, family)

    def complete(self, number: int, family: Family) -> None:
        """Have all that goes with a family that is there; does nothing more when it is done again."""
        self.series.setdefault(number, {})
        self.removals.setdefault(number, 0)
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
        family = self.families[_whole(number, fmt.MAX_COUNT)]
        key = family.key(values)
        if not type(first) is type(width) is type(generation) is type(serial) is int:
            msg = f"{first!r:.50}, {width!r:.50}, {generation!r:.50} and {serial!r:.50} are no whole numbers"
            raise TypeError(msg)
        is_right = first >= 0 and 0 <= generation < fmt.MAX_COUNT and 0 <= serial < fmt.MAX_COUNT
        if not is_right or width != family.width or key in self.series[number] or not math.isfinite(created):
            msg = f"metric {family.name!r} cannot have a series {key} in {width} slots, made at {created}"
            raise ValueError(msg)
        self._claim(first, width, generation, serial)
        series = Series(number, key, first, width, float(created), generation, serial)
        self.series[number][key] = series
        self.by_slot[first] = series
        self.touched.add(first)
        self.youngest = max(self.youngest, generation)
        if generation:
            bisect.insort(self._younger, series, key=_generation)
        if width > 1 and self._spans is not None:
            self._spans.extend((first, width))
        self.next_serial = max(self.next_serial, serial + 1)

    def _claim(self, first: int, width: int, generation: int, serial: int) -> None:
        """Have slots for a series; ValueError when they are another one's, or none that a writer would give out."""
        rest = self.resting.get(first)
        if rest is not None and rest.width == width:
            del self.resting[first]
            return
        held = self.by_slot.get(first) if self.damaged else None
        if held is not None and held.width == width and generation > held.generation and serial > held.serial:
            # No writer gives out the slots of a series that is there: the record that removed it was lost.
            self.note(f"series {held.key} of {self.families[held.family].name!r} was removed, by a record that is lost")
            self._drop(held)
            return
        self._take(first, width)

    def _take(self, first: int, width: int) -> None:
        """Mark slots that were nobody's so far, and are no further away than a writer would go."""
        end = first + width
        if (
            not 0 < width <= MAX_WIDTH
            or first > self.next_slot + fmt.MAX_GAP
            or end > fmt.MAX_SLOTS
            or (width > 1 and geometry.fit(first, width) != first)
        ):
            msg = f"no series is in the slots {first} to {end - 1}, with {self.next_slot} given out before"
            raise ValueError(msg)
        if self._taken.find(1, first, end) >= 0:
            msg = f"the slots {first} to {end - 1} are another series'"
            raise ValueError(msg)
        if end > len(self._taken):
            self._taken.extend(bytes(end - len(self._taken)))
        self._taken[first:end] = b"\1" * width
        self.next_slot = max(self.next_slot, end)

    def _removed(self, generation: int, slots: list[int]) -> None:
        _whole(generation, fmt.MAX_COUNT)
        found = [self.by_slot.get(_whole(first, fmt.MAX_SLOTS)) for first in slots]
        if any(series is not None and series.generation >= generation for series in found):
            msg = f"generation {generation} is before that of a series that it removes"
            raise ValueError(msg)
        self.generation = max(self.generation, generation)
        for series in found:
            if series is not None and self.by_slot.get(series.first) is series:
                self._drop(series)
                self.resting[series.first] = Rest(generation, series.width, series.serial)

    def _drop(self, series: Series) -> None:
        del self.by_slot[series.first]
        del self.series[series.family][series.key]
        self.touched.add(series.first)
        self.gone.append((series.first, series.width))
        self.removals[series.family] += 1
        if series.width > 1:
            self._spans = None
        self.dead_records += 2

    def _free(self, generation: int, first: int, width: int, serial: int) -> None:
        rest = Rest(_whole(generation, fmt.MAX_COUNT), width, _whole(serial, fmt.MAX_COUNT))
        self._take(_whole(first, fmt.MAX_SLOTS), _whole(width, fmt.MAX_SLOTS))
        self.resting[first] = rest

    def keys(self, number: int) -> Collection[Key]:
        """The label values of a family's series; of an info in the order in which they were made."""
        members = self.series[number]
        is_info = self.families[number].kind == "info"
        return sorted(members, key=lambda key: members[key].serial) if is_info else members.keys()

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
        """The shortest list of records that adds up to this catalog; slots in order, as they were given out first."""
        slots: list[tuple[int, int, list[Any]]] = []
        slots += [
            (series.first, fmt.SERIES, [series.family, series.key, *astuple(series)[2:]])
            for series in self.by_slot.values()
        ]
        slots += [
            (first, fmt.FREE, [rest.generation, first, rest.width, rest.serial]) for first, rest in self.resting.items()
        ]
        records: list[tuple[int, list[Any]]] = []
        records += [(fmt.FAMILY, [number, family.dump()]) for number, family in self.families.items()]
        records += [(kind, body) for _, kind, body in sorted(slots)]
        return records


def _whole(number: int, limit: int) -> int:
    """``number``, which has to be a whole one from zero up to ``limit``."""
    if type(number) is not int or not 0 <= number < limit:
        msg = f"{number!r:.50} is not a whole number below {limit}"
        raise ValueError(msg)
    return number


def _generation(series: Series) -> int:
    return series.generation


_WHAT = "kind, labels, unit, mode, buckets, scope and temporality"

_APPLY = {fmt.FAMILY: "_family", fmt.SERIES: "_series", fmt.REMOVED: "_removed", fmt.FREE: "_free"}

_NAMES = {fmt.FAMILY: "family", fmt.SERIES: "series", fmt.REMOVED: "removal", fmt.FREE: "free slots"}
