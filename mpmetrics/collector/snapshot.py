"""A consistent view of an epoch, as it was read at one moment. No input or output."""

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
    """What an epoch held at one moment. ``columns``: the retired file, then by ordinal, and by age within one."""

    shapes: dict[str, list[Shape]] = field(default_factory=dict)
    """The shapes of each metric, the one that is shown first."""
    hidden: list[tuple[Shape, str]] = field(default_factory=list)
    """What is not shown, and why."""
    columns: list[Column] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Files that can be read in part."""
    damaged: int = 0
    trouble: float = 0.0
    files: int = 0
    size: int = 0
    """Bytes of the files on the disk."""
    folded: int = 0
    up: bool = False
    has_leftovers: bool = False
    """Whether slabs are there that the retired file contains: a folder was killed before it removed them."""
    lacks_retired: bool = False
    """Whether somebody has removed the retired file, which is shown as it was read last."""

    def measure(self, folder: int) -> None:
        """Count the files in the directory that is open as ``folder``, and their bytes."""
        # One may vanish: then those that were seen before it count.
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self.size += entry.stat(follow_symlinks=False).st_blocks * 512
                self.files += 1

    @property
    def series(self) -> int:
        """How many different series there are, over all processes."""
        return sum(shape.table.present for shapes in self.shapes.values() for shape in shapes)
