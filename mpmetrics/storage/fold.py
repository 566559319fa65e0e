"""Folding: what dead processes counted moves into the retired file, exactly once, and their slabs go.

Under the fold lock: read the retired file; unlink slabs that it names (a folder was killed before it could); read the
slabs of the dead; add them up; write a new retired file that names them and rename it into place, which is the commit;
unlink them. A kill before the commit leaves everything as it was; after it, slabs that nobody counts again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError
from mpmetrics.storage.locks import mutex, remove_unheld
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retire import retire
from mpmetrics.storage.retired import load_retired, write_retired
from mpmetrics.storage.survey import is_alive, list_slabs

if TYPE_CHECKING:
    from mpmetrics._cells.vectors import Vector

__all__ = ["fold"]

_NONE = array("q")
"""Nobody writes to a dead process's words any more, so none of them have to be read together."""


def fold(path: str, *, owner: tuple[int, int] | None = None, at_least: int = 1, timeout: float = 0.0) -> int:
    """Fold the dead of the epoch at ``path`` when there are ``at_least`` of them; returns how many were.

    With ``at_least=0`` the retired file is written anew in any case, which drops removed series from it. Waits
    ``timeout`` seconds for another folder and returns 0 when it goes on longer. Slabs that cannot be read are left
    where they are. Raises :class:`~mpmetrics.errors.FormatError` or OSError when the retired file or the series
    directory cannot be used or written; nothing is lost then.
    """
    if at_least and len(_dead(path)) < at_least:
        return 0
    try:
        with mutex(os.path.join(path, "fold.lock"), timeout):
            return _fold(path, owner, at_least)
    except LockTimeoutError:
        return 0


def _dead(path: str) -> list[str]:
    return [slab.file for slab in list_slabs(path) if not is_alive(os.path.join(path, slab.file))]


def _fold(path: str, owner: tuple[int, int] | None, at_least: int) -> int:
    _sweep(path)
    retired = load_retired(path)
    fresh: list[tuple[SlabReader, Vector]] = []
    unlinked: list[str] = []
    try:
        for name in _dead(path):
            if name.rpartition("-")[2] in retired.slabs:
                unlinked.append(name)
                continue
            with contextlib.suppress(FormatError, OSError):
                slab = SlabReader(os.path.join(path, name))
                if not slab.alive:
                    fresh.append((slab, slab.read(sys.maxsize, _NONE)))
        for name in unlinked:
            os.unlink(os.path.join(path, name))
        if len(fresh) < at_least:
            return 0
        series = SeriesReader(path)
        try:
            generation = series.sync()
        finally:
            series.close()
        write_retired(path, retire(retired, fresh, series.catalog, generation), owner)
        for slab, _ in fresh:
            os.unlink(slab.path)
        return len(fresh)
    finally:
        for slab, _ in fresh:
            slab.close()


def _sweep(path: str) -> None:
    """Remove what killed processes left unfinished. Retired files are made under the fold lock, which we hold."""
    for name in os.listdir(path):
        if name.startswith("new-retired-"):
            os.unlink(os.path.join(path, name))
        elif name.startswith("new-slab-"):
            remove_unheld(os.path.join(path, name))
        elif name.startswith(("ask-", "new-ask-")):
            owners = (slab.file for slab in list_slabs(path) if slab.identity == name.rpartition("-")[2])
            if not any(is_alive(os.path.join(path, owner)) for owner in owners):
                os.unlink(os.path.join(path, name))
