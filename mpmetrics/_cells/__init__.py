"""The hot words: what ``inc``, ``set`` and ``observe`` come down to.

The contract, which every twin of this package keeps:

* A :class:`Segment` is a run of 8-byte words, in a slab's map or in private memory. ``words`` may be replaced at any
  time by its owner; cells look it up on every write. Before a process has leased its slab, ``words`` is a stand-in that
  leases it at the first read or write of a word.
* A :class:`Guard`, one a process, makes each operation on a cell atomic among the threads of the process and whatever
  interrupts them: signal handlers, finalisers, garbage collection callbacks. Nobody ever waits for it: an operation
  that finds it taken is queued, and whoever has taken it carries the queue out.
* A cell is a place of one or more words: :class:`CounterCell`, :class:`GaugeCell`, :class:`RecentCell`,
  :class:`DistributionCell`, :class:`SketchCell`.
  ``place`` moves it. Its words mean what ``mpmetrics.storage.format`` says.

``pure`` is the twin in Python. A compiled one goes beside it and is chosen here.
"""

from mpmetrics._cells.pure import CounterCell, DistributionCell, GaugeCell, Guard, RecentCell, Segment, Words
from mpmetrics._cells.sketch import LAYOUTS, RECORD, Layout, SketchCell

__all__ = [
    "LAYOUTS",
    "RECORD",
    "CounterCell",
    "DistributionCell",
    "GaugeCell",
    "Guard",
    "Layout",
    "RecentCell",
    "Segment",
    "SketchCell",
    "Words",
]
