"""Values of this process that are not in the store: all of them without a store, stragglers with one."""

from __future__ import annotations

import contextlib
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from mpmetrics.collector.snapshot import Column, Snapshot
from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry
from mpmetrics.storage.catalog import Catalog

if TYPE_CHECKING:
    from mpmetrics.storage.memory import Memory

__all__ = ["add_private"]


def add_private(snapshot: Snapshot, memory: Memory) -> Snapshot:
    """``snapshot`` with the private series of ``memory`` as those of one more live process.

    Families that the store could not take are shown empty, as they would be in it.
    """
    private = list(memory.private_values())
    missing = [family for family in memory.families() if family.name not in snapshot.catalog.numbers]
    if not private and not missing:
        return snapshot
    catalog = Catalog()
    for kind, body in snapshot.catalog.snapshot_records():
        catalog.apply(kind, body)
    for family in missing:
        with contextlib.suppress(FormatError):  # its samples have the names of another's there
            catalog.take(fmt.FAMILY, [catalog.next_family, family.dump()])
    catalog.damaged, catalog.problems = snapshot.catalog.damaged, snapshot.catalog.problems
    values: dict[int, list[float]] = {}
    for entry in private:
        words = entry.words
        number = catalog.numbers.get(entry.family.name)
        if number is None or catalog.families[number] != entry.family:
            continue  # the store has another metric of that name, which was said when ours was attached
        series = catalog.series[number].get(entry.key)
        if series is None:
            first = geometry.fit(catalog.next_slot, len(words))
            place = [first, len(words), entry.created, 0, catalog.next_serial]
            with contextlib.suppress(FormatError):  # the store's slots go as far as slots can
                catalog.take(fmt.SERIES, [number, entry.key, *place])
            series = catalog.series[number].get(entry.key)
            if series is None:
                continue
        values[series.first] = words
    column = array("d", bytes(fmt.WORD * catalog.next_slot))
    for first, words in values.items():
        column[first : first + len(words)] = array("d", words)
    ordinal = 0 if memory.segments is None else memory.segments.ordinal
    own = Column(ordinal, alive=True, created=0.0, words=column)
    return replace(snapshot, catalog=catalog, columns=[*snapshot.columns, own])
