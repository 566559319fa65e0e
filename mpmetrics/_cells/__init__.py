"""The hot words: what ``inc``, ``set`` and ``observe`` come down to, and what a scrape does with all of them.

The contract, which both twins of this package keep:

* A :class:`Segment` is a run of 8-byte words, in a slab's map or in private memory. ``words`` may be replaced at any
  time by its owner; cells look it up on every write. Before a process has leased its slab, ``words`` is a stand-in that
  leases it at the first read or write of a word. For as long as a segment has them, its words cannot be unmapped.
* A :class:`Guard`, one a process, makes each operation on a cell atomic among the threads of the process and whatever
  interrupts them: signal handlers, finalisers, garbage collection callbacks. Nobody ever waits for it: an operation
  that finds it taken is queued, and whoever has taken it carries the queue out.
* A cell is a place of one or more words: :class:`CounterCell`, :class:`GaugeCell`, :class:`RecentCell`,
  :class:`DistributionCell`, :class:`SketchCell`.
  ``place`` moves it. Its words mean what ``mpmetrics.storage.format`` says.
* :class:`Labelled` finds a series by its label values, unless :class:`Removals` says that some were removed.
* The functions of :mod:`mpmetrics._cells.vectors` merge the words of many processes, and write them down as lines. Both
  twins give the same numbers to the last bit, and the same bytes.

``pure``, ``sketch``, ``labelled`` and ``vectors`` are the twin in Python, ``compiled`` is the one in C. The compiled
one is used where it was built, unless ``MPMETRICS_DISABLE_EXT=1`` was set when this package was imported: that is the
one variable which is read at import, since a class cannot change its base later.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpmetrics._cells.pure import Words
from mpmetrics._cells.sketch import LAYOUTS, RECORD, Layout

__all__ = [
    "LAYOUTS",
    "RECORD",
    "TWIN",
    "WHY",
    "CounterCell",
    "DistributionCell",
    "GaugeCell",
    "Guard",
    "Labelled",
    "Layout",
    "RecentCell",
    "Removals",
    "Segment",
    "SketchCell",
    "Words",
    "distributions",
    "extremes",
    "levels",
    "lines",
    "load",
    "number",
    "recents",
    "sums",
]

TWIN = "compiled"
"""Which twin is in use: compiled or pure."""

WHY = "it was built when the package was installed"
"""Why it is."""

if os.environ.get("MPMETRICS_DISABLE_EXT", "") not in ("", "0"):
    TWIN, WHY = "pure", "MPMETRICS_DISABLE_EXT is set"
else:
    try:
        from mpmetrics._cells import compiled as _  # noqa: F401 (whether there is one)
    except ImportError as error:
        TWIN, WHY = "pure", f"the extension cannot be imported: {error}"

if TYPE_CHECKING or TWIN == "pure":
    from mpmetrics._cells.labelled import Labelled, Removals
    from mpmetrics._cells.pure import CounterCell, DistributionCell, GaugeCell, Guard, RecentCell, Segment
    from mpmetrics._cells.sketch import SketchCell
    from mpmetrics._cells.vectors import distributions, extremes, levels, lines, load, number, recents, sums
else:
    from mpmetrics._cells.compiled import (
        CounterCell,
        DistributionCell,
        GaugeCell,
        Guard,
        Labelled,
        RecentCell,
        Removals,
        Segment,
        SketchCell,
        distributions,
        extremes,
        levels,
        lines,
        load,
        number,
        recents,
        sums,
    )
