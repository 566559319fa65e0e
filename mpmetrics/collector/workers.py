"""What the workers' own callbacks observe: asked for before the words are read. One collection at a time."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics.callbacks.ask import ask

if TYPE_CHECKING:
    from mpmetrics.collector.snapshot import Snapshot

__all__ = ["WORKER_TIMEOUT", "Refreshed", "Workers"]

WORKER_TIMEOUT = 0.25
"""Seconds that a collection waits for the workers' callbacks unless told otherwise."""


@dataclass
class _Known:
    """The series that a worker's callbacks last observed, by first slot, and how often it has not answered since."""

    shown: frozenset[int] = frozenset()
    missed: int = 0
    has_answered: bool = False


@dataclass
class Refreshed:
    """Which series the workers' callbacks observed, by first slot.

    ``stale`` are those whose words a worker has not brought up to date for more than one collection, by the identity of
    its slab; None for one that never answered. ``late`` are the ordinals of the workers that did not answer.
    """

    shown: set[int] = field(default_factory=set)
    stale: dict[str, frozenset[int] | None] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)

    def forget_stale(self, snapshot: Snapshot) -> None:
        """Make the stale words of a snapshot as if they had never been set; totals stay, as they were true."""
        for column in snapshot.columns:
            if column.identity not in self.stale:
                continue
            slots = self.stale[column.identity]
            column.words = array("d", column.words)  # what was read is kept for the next time, as it was
            for series in list(snapshot.catalog.by_slot.values()):
                family = snapshot.catalog.families[series.family]
                is_ours = family.scope == "worker" if slots is None else series.first in slots
                if is_ours and family.kind != "counter" and family.temporality != "delta":
                    end = min(series.first + series.width, len(column.words))
                    for slot in range(series.first, end):
                        column.words[slot] = 0.0


class Workers:
    """The workers of one epoch, as a collector knows them."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def refresh(self, path: str, seconds: float, max_age: float, mine: str = "") -> Refreshed:
        """Have all workers of the epoch at ``path`` run their callbacks, within ``seconds`` for all together.

        What a worker observed counts once more when it does not answer, and not after that. The owner of the slab
        ``mine`` is not asked: that is this process.
        """
        refreshed = Refreshed()
        known: dict[str, _Known] = {}
        for slab, shown in ask(path, seconds, max_age, mine):
            worker = known[slab.identity] = self._known.get(slab.identity, _Known())
            if shown is not None:
                worker.shown, worker.missed, worker.has_answered = shown, 0, True
            else:
                worker.missed += 1
                refreshed.late.append(slab.ordinal)
            if worker.missed <= 1 and worker.has_answered:
                refreshed.shown |= worker.shown
            else:
                refreshed.stale[slab.identity] = worker.shown if worker.has_answered else None
        self._known = known
        return refreshed
