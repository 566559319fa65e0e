"""Folding: what dead processes counted moves into the retired file, exactly once, and their slabs go.

Under the fold lock: read the retired file; unlink slabs that it names (a folder was killed before it could); read the
slabs of the dead; add them up; write a new retired file that names them and rename it into place, which is the commit;
unlink them. A kill before the commit leaves everything as it was; after it, slabs that nobody counts again.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError
from mpmetrics.storage.arithmetic import distribution_sum, is_set, latest, total_and_rest
from mpmetrics.storage.locks import mutex, remove_unheld
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retired import Retired, load_retired, write_retired
from mpmetrics.storage.survey import is_alive, list_slabs

if TYPE_CHECKING:
    from mpmetrics.storage.catalog import Catalog, Family, Series

__all__ = ["fold"]


def fold(path: str, *, owner: tuple[int, int] | None = None, at_least: int = 1, timeout: float = 0.0) -> int:
    """Fold the dead of the epoch at ``path`` when there are ``at_least`` of them; returns how many were.

    With ``at_least=0`` the retired file is written anew in any case, which drops removed series from it. Waits
    ``timeout`` seconds for another folder and returns 0 when it goes on longer. Slabs that cannot be read are left
    where they are. Raises :class:`~mpmetrics.errors.FormatError` or OSError when the retired file or the series
    directory cannot be used or written; nothing is lost then.
    """
    if at_least and len(_dead(path)) < at_least:
        return 0
    try:
        with mutex(os.path.join(path, "fold.lock"), timeout):
            return _fold(path, owner, at_least)
    except LockTimeoutError:
        return 0


def _dead(path: str) -> list[str]:
    return [slab.file for slab in list_slabs(path) if not is_alive(os.path.join(path, slab.file))]


def _fold(path: str, owner: tuple[int, int] | None, at_least: int) -> int:
    _sweep(path)
    retired = load_retired(path)
    fresh: list[tuple[SlabReader, list[float]]] = []
    unlinked: list[str] = []
    try:
        for name in _dead(path):
            if name.rpartition("-")[2] in retired.slabs:
                unlinked.append(name)
                continue
            with contextlib.suppress(FormatError, OSError):
                slab = SlabReader(os.path.join(path, name))
                fresh.append((slab, slab.read(())))
        for name in unlinked:
            os.unlink(os.path.join(path, name))
        if len(fresh) < at_least:
            return 0
        series = SeriesReader(path)
        try:
            generation = series.sync()
        finally:
            series.close()
        write_retired(path, _add(retired, fresh, series.catalog, generation), owner)
        for slab, _ in fresh:
            os.unlink(slab.path)
        return len(fresh)
    finally:
        for slab, _ in fresh:
            slab.close()


def _sweep(path: str) -> None:
    """Remove what killed processes left unfinished. Retired files are made under the fold lock, which we hold."""
    for name in os.listdir(path):
        if name.startswith("new-retired-"):
            os.unlink(os.path.join(path, name))
        elif name.startswith("new-slab-"):
            remove_unheld(os.path.join(path, name))


def _add(old: Retired, slabs: list[tuple[SlabReader, list[float]]], catalog: Catalog, generation: int) -> Retired:
    zeros = bytes(8 * catalog.next_slot)
    new = Retired(array("d", zeros), array("d", zeros), generation=generation, incarnation=old.incarnation + 1)
    new.slabs = {slab.identity for slab, _ in slabs}
    new.folded = old.folded + len(slabs)
    readings = sorted(slabs, key=lambda reading: reading[0].created)
    for series in catalog.by_slot.values():
        columns = [
            (slab.ordinal, words[series.first : series.first + series.width])
            for slab, words in readings
            if len(words) >= series.first + series.width
        ]
        _add_series(catalog.families[series.family], series, old, columns, new)
    return new


def _add_series(
    family: Family, series: Series, old: Retired, columns: list[tuple[int, list[float]]], new: Retired
) -> None:
    """Merge one series. ``columns`` holds its words by slab, with the slab's ordinal, oldest slab first."""
    first, width = series.first, series.width
    known = first + width <= len(old.values)
    before = list(old.values[first : first + width]) if known else [0.0] * width
    rests = list(old.remainders[first : first + width]) if known else [0.0] * width
    if family.kind in ("histogram", "summary"):
        sums = [distribution_sum(words) for _, words in columns]
        _store_total(new, first, [before[0], rests[0], *sums])
        for position in range(2, width):
            _store_total(new, first + position, [before[position], *(words[position] for _, words in columns)])
    elif width == 4:
        if not family.mode.startswith("live"):
            for _, words in columns:
                before = max(before, words, key=latest)
            new.values[first : first + 4] = array("d", before)
    elif family.mode in ("", "sum"):
        addends = [before[0], rests[0], *(words[0] for _, words in columns)]
        _store_total(new, first, addends)
        if family.kind != "counter" and new.values[first] == 0.0 and any(map(is_set, addends)):
            new.values[first] = -0.0
    elif family.mode == "all":
        values = dict(old.by_ordinal.get(first, {}))
        values.update((ordinal, words[0]) for ordinal, words in columns if is_set(words[0]))
        if values:
            new.by_ordinal[first] = values
    elif family.mode in ("min", "max"):
        extremes = [value for value in (before[0], *(words[0] for _, words in columns)) if is_set(value)]
        if extremes:
            new.values[first] = (min if family.mode == "min" else max)(extremes) or -0.0


def _store_total(new: Retired, slot: int, addends: list[float]) -> None:
    new.values[slot], new.remainders[slot] = total_and_rest(addends)
