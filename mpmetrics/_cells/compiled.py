"""The compiled twin; its sources are in ``src``. ImportError if it was not built."""

from __future__ import annotations

from mpmetrics._cells import _native

__all__ = [
    "Cell",
    "Children",
    "CounterCell",
    "DistributionCell",
    "GaugeCell",
    "Labelled",
    "Map",
    "Process",
    "RecentCell",
    "SketchCell",
    "Slab",
    "Source",
    "Table",
    "Texts",
    "created",
    "distributions",
    "extremes",
    "find_removals",
    "folded_distributions",
    "levels",
    "lines",
    "make_slab",
    "new_token",
    "number",
    "pack_rows",
    "present",
    "read_tail",
    "recents",
    "retired_ordinals",
    "sums",
    "sums_and_rests",
    "without_gc",
]

CONTRACT = 7
"""Version of the contract with the extension: an extension built for another version is not used."""

if _native.CONTRACT != CONTRACT:
    msg = f"{_native.__file__} was built from other sources than this package: install the package again"
    raise ImportError(msg)

Cell = _native.Cell
Children = _native.Children
CounterCell = _native.CounterCell
DistributionCell = _native.DistributionCell
GaugeCell = _native.GaugeCell
Labelled = _native.Labelled
Map = _native.Map
Process = _native.Process
RecentCell = _native.RecentCell
SketchCell = _native.SketchCell
Slab = _native.Slab
Source = _native.Source
Table = _native.Table
Texts = _native.Texts
created = _native.created
distributions = _native.distributions
extremes = _native.extremes
find_removals = _native.find_removals
folded_distributions = _native.folded_distributions
levels = _native.levels
lines = _native.lines
make_slab = _native.make_slab
new_token = _native.new_token
number = _native.number
pack_rows = _native.pack_rows
present = _native.present
read_tail = _native.read_tail
recents = _native.recents
retired_ordinals = _native.retired_ordinals
sums = _native.sums
sums_and_rests = _native.sums_and_rests
without_gc = _native.without_gc
