"""What the retired file holds of the series that there are now."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpmetrics.storage.catalog import Catalog
    from mpmetrics.storage.retired import Retired

__all__ = ["Kept", "kept_of"]


class Kept(NamedTuple):
    """Values and remainders by slot, and ``all`` gauges by first slot and ordinal, as in the retired file."""

    values: array[float]
    remainders: array[float]
    by_ordinal: dict[int, dict[int, float]]


def kept_of(retired: Retired, catalog: Catalog) -> Kept:
    """What ``retired`` holds of the series of ``catalog``; in the slots of younger ones, another's then, nothing."""
    size = len(retired.values)
    younger = catalog.younger(retired.generation) if size else []
    young = [series for series in younger if series.first < size]
    if not young:
        return Kept(retired.values, retired.remainders, retired.by_ordinal)
    values, remainders, by_ordinal = retired.values[:], retired.remainders[:], dict(retired.by_ordinal)
    for series in young:
        zeros = array("d", bytes(8 * (min(size, series.first + series.width) - series.first)))
        values[series.first : series.first + len(zeros)] = zeros
        remainders[series.first : series.first + len(zeros)] = zeros
        by_ordinal.pop(series.first, None)
    return Kept(values, remainders, by_ordinal)
