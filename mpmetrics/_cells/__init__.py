"""The hot path: what ``inc``, ``set`` and ``observe`` do to words, and how a scrape reads and merges them.

Both twins of this package keep this contract. The writing part:

* A :class:`Map` maps a file or memory while anything refers to it, and keeps no descriptor.
* A :class:`Process` is the state of one provider in this process. Its words ``counting`` and ``begun`` are in memory
  that the kernel wipes in a forked child, however it was forked. Its ``owner``
  (:class:`~mpmetrics._cells.process.Owner`) does the rare work: the first write of a process, a declaration, growth,
  removals.
* A :class:`Slab` writes records into the process's slab and gives words to series.
* :class:`Children` are the series of one metric in this process, by key. The first use of a series writes its record;
  when it returns, other processes see the series. The words of an ended series are reused only after the commit of its
  END.
* A cell is one series: :class:`CounterCell`, :class:`GaugeCell`, :class:`RecentCell`, :class:`DistributionCell`,
  :class:`SketchCell`. ``mpmetrics.storage.format`` says what its words mean. An operation compares the cell's stamp
  with ``counting``. If they are equal, the words belong to this process, and the operation writes to them. If not, the
  cell first gets words of this process. An ended cell writes to private memory that no reader sees.
* :class:`Labelled` finds a series by its label values, after it has applied the removals of other processes.

Each operation is atomic for the threads, signal handlers, finalisers and forks of its process, without a lock: in C it
is a stretch that calls no Python code, in Python a straight line without any call. A kill at any point leaves a series
as before the operation or as after it.

The reading part: a :class:`Table` holds the rows of a metric, a :class:`Source` reads one slab, and the functions of
:mod:`mpmetrics._cells.merging` and :mod:`mpmetrics._cells.text` merge the sources and write the result as lines. Both
twins give the same bytes, and the same numbers to the last bit.

``compiled`` is the twin in C; the other modules are the twin in Python. The compiled twin is used if it was built and
``MPMETRICS_DISABLE_EXT=1`` was not set when this package was imported. That is the only variable read at import: a
class cannot change its base later.
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
"""Why this twin is in use."""

if os.environ.get("MPMETRICS_DISABLE_EXT", "") not in ("", "0"):
    TWIN, WHY = "pure", "MPMETRICS_DISABLE_EXT is set"
else:
    try:
        from mpmetrics._cells import compiled as _  # noqa: F401 (to find out whether it was built)
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
