"""AskedWorkers: asks workers to run their callbacks before the words are read, and remembers which did not answer.

Belongs to the collection that runs; one collection runs at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics.serving.ask import ask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics._cells import Table
    from mpmetrics.collector.snapshot import Column

__all__ = ["WORKER_TIMEOUT", "AskedWorkers", "WorkerAnswers"]

WORKER_TIMEOUT = 0.25
"""Default of the seconds that a collection waits for the callbacks of all workers."""


@dataclass
class _Known:
    """The series that a worker's callbacks observed last, by first word, and how often it did not answer since."""

    shown: frozenset[int] = frozenset()
    missed: int = 0
    has_answered: bool = False


@dataclass
class WorkerAnswers:
    """Which series the callbacks of workers observed: by identity of the slab, the first words of the series in it.

    ``stale`` are the identities of slabs whose owners have not answered for more than one collection. ``late`` are the
    ordinals of the workers that did not answer this time.
    """

    shown: dict[str, frozenset[int]] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    late: list[int] = field(default_factory=list)

    def rows(self, table: Table, columns: Iterable[Column]) -> set[int]:
        """Return the rows of a table that were observed."""
        rows: set[int] = set()
        for column in columns:
            firsts = self.shown.get(column.identity)
            if firsts:
                rows.update(column.source.rows_at(table, firsts))
        return rows


class AskedWorkers:
    """The workers of one epoch and their last answers."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def refresh(self, path: str, seconds: float, max_age: float, mine: str = "") -> WorkerAnswers:
        """Ask all workers of the epoch at ``path`` to run their callbacks, within ``seconds`` for all together.

        If a worker does not answer, its last answer counts once more, but not a second time. The owner of the slab
        ``mine``, this process, is not asked.
        """
        answers = WorkerAnswers()
        known: dict[str, _Known] = {}
        for asked, shown in ask(path, seconds, max_age, mine):
            worker = known[asked.identity] = self._known.get(asked.identity, _Known())
            if shown is not None:
                worker.shown, worker.missed, worker.has_answered = shown, 0, True
            else:
                worker.missed += 1
                answers.late.append(asked.ordinal)
            if worker.missed <= 1 and worker.has_answered:
                answers.shown[asked.identity] = worker.shown
            else:
                answers.stale.add(asked.identity)
        self._known = known
        return answers
