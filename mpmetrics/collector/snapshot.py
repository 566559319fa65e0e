"""Snapshot: an epoch as it was read at one moment. Data only, but for :meth:`Snapshot.measure`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpmetrics._cells import Source
    from mpmetrics.storage.shapes import Shape

__all__ = ["Column", "Snapshot"]


@dataclass(slots=True)
class Column:
    """The words of one process, or of the retired file."""

    ordinal: int
    alive: bool
    is_retired: bool
    created: float
    identity: str
    source: Source


@dataclass
class Snapshot:
    """An epoch at one moment. ``columns``: the retired file first, then by ordinal, then by age."""

    shapes: dict[str, list[Shape]] = field(default_factory=dict)
    """The shapes of each metric, the shown one first."""
    hidden: list[tuple[Shape, str]] = field(default_factory=list)
    """The shapes that are not shown, and why."""
    columns: list[Column] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Messages about files that can only be read in part."""
    damaged: int = 0
    trouble: float = 0.0
    files: int = 0
    size: int = 0
    """Bytes that the files take on the disk."""
    folded: int = 0
    up: bool = False
    has_leftovers: bool = False
    """True if slabs exist that the retired file contains: a process that folded was killed before it removed them."""
    lacks_retired: bool = False
    """True if the retired file is gone, and is shown as it was read last."""

    def measure(self, folder: int) -> None:
        """Count the files, and their bytes, in the directory that is open as ``folder``."""
        # A file may vanish meanwhile; then only the files before it count.
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self.size += entry.stat(follow_symlinks=False).st_blocks * 512
                self.files += 1

    @property
    def series(self) -> int:
        """How many different series exist, over all processes."""
        return sum(shape.table.present for shapes in self.shapes.values() for shape in shapes)
