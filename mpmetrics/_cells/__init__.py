"""The hot words: what ``inc``, ``set`` and ``observe`` come down to, and what a scrape does with all of them.

The contract, which both twins of this package keep. The writing part:

* A :class:`Map` maps a file, or memory, for as long as anything refers to it, and keeps no descriptor.
* A :class:`Process` is the state of one provider in this process. Its words ``counting`` and ``begun`` are in memory
  that a forked child finds wiped, whoever forked. For what is rare it has an ``owner``
  (:class:`~mpmetrics._cells.process.Owner`): the first write of a process, a declaration, growth, removals.
* A :class:`Slab` writes records into the process's slab, and gives its words to series.
* :class:`Children` are the series of one metric in this process, by their keys. A series' first use writes its record;
  when it returns, other processes see it. An ended series' words are another's only after its END is committed.
* A cell is one series: :class:`CounterCell`, :class:`GaugeCell`, :class:`RecentCell`, :class:`DistributionCell`,
  :class:`SketchCell`. Its words mean what ``mpmetrics.storage.format`` says. An operation compares the cell's stamp
  with ``counting``; while they are equal, the words are this process's, and the operation writes to them. Else the cell
  gets words first: those of a forked child are its own. A cell that was ended has memory of its own, that nobody sees.
* :class:`Labelled` finds a series by its label values, once the removals of other processes are taken in.

Each operation is one step among the threads of the process, signal handlers, finalisers and forks, without a lock: in C
one stretch that calls nothing in Python, in Python a straight line that calls nothing at all. A process that is killed
anywhere leaves a series as before the operation or as after it.

The reading part: a :class:`Table` has the rows of a metric, a :class:`Source` follows one slab, and the functions of
:mod:`mpmetrics._cells.merging` merge what many processes counted, and write it down as lines. Both twins give the same
numbers to the last bit, and the same bytes.

``compiled`` is the twin in C; the other modules are the one in Python. The compiled one is used where it was built,
unless ``MPMETRICS_DISABLE_EXT=1`` was set when this package was imported: that is the one variable which is read at
import, since a class cannot change its base later.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpmetrics._cells.records import FamilyRecord
from mpmetrics._cells.sketch import LAYOUTS, RECORD, Layout

__all__ = [
    "LAYOUTS",
    "RECORD",
    "TWIN",
    "WHY",
    "Cell",
    "Children",
    "CounterCell",
    "DistributionCell",
    "FamilyRecord",
    "GaugeCell",
    "Labelled",
    "Layout",
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
    from mpmetrics._cells.children import Children
    from mpmetrics._cells.files import make_slab, read_tail
    from mpmetrics._cells.index import Table, Texts
    from mpmetrics._cells.labelled import Labelled
    from mpmetrics._cells.maps import Map, new_token
    from mpmetrics._cells.merging import (
        distributions,
        extremes,
        folded_distributions,
        levels,
        recents,
        retired_ordinals,
        sums,
        sums_and_rests,
    )
    from mpmetrics._cells.process import Process
    from mpmetrics._cells.pure import Cell, CounterCell, DistributionCell, GaugeCell, RecentCell, without_gc
    from mpmetrics._cells.removals import find_removals
    from mpmetrics._cells.rows import created, pack_rows, present
    from mpmetrics._cells.sketch import SketchCell
    from mpmetrics._cells.slab import Slab
    from mpmetrics._cells.source import Source
    from mpmetrics._cells.text import lines, number
else:
    from mpmetrics._cells.compiled import (
        Cell,
        Children,
        CounterCell,
        DistributionCell,
        GaugeCell,
        Labelled,
        Map,
        Process,
        RecentCell,
        SketchCell,
        Slab,
        Source,
        Table,
        Texts,
        created,
        distributions,
        extremes,
        find_removals,
        folded_distributions,
        levels,
        lines,
        make_slab,
        new_token,
        number,
        pack_rows,
        present,
        read_tail,
        recents,
        retired_ordinals,
        sums,
        sums_and_rests,
        without_gc,
    )
