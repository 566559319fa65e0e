"""Folding: what dead processes counted moves into the retired file, exactly once, and their slabs go.

Under the fold lock: read the retired file; unlink slabs that it names (a folder was killed before it could); read the
slabs of the dead; add them up; write a new retired file that names them and rename it into place, which is the commit;
unlink them. A kill before the commit leaves everything as it was; after it, slabs that nobody counts again.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError
from mpmetrics.storage.exclusive import mutex
from mpmetrics.storage.locks import remove_unheld
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retire import retire
from mpmetrics.storage.retired import load_retired, write_retired
from mpmetrics.storage.survey import is_alive, list_slabs

if TYPE_CHECKING:
    from collections.abc import Collection

    from mpmetrics.storage.retired import Retired

__all__ = ["fold", "put_back"]

DAMAGED_AT = 64
"""Dead slabs that have to be there before they are folded although records are damaged: a collector that read those
records before the damage still shows what the dead counted in their series, and a fold is the end of that."""

_NONE = array("q")
"""Nobody writes to a dead process's words any more, so none of them have to be read together."""


def fold(path: str, *, owner: tuple[int, int] | None = None, at_least: int = 1, timeout: float = 0.0) -> int:
    """Fold the dead of the epoch at ``path`` when there are ``at_least`` of them; returns how many were.

    With ``at_least=0`` the retired file is written anew in any case, which drops removed series from it. Waits
    ``timeout`` seconds for another folder and returns 0 when it goes on longer. Slabs that cannot be read are left
    where they are; where records of the series directory are damaged, so are the others, unless they are many. Raises
    :class:`~mpmetrics.errors.FormatError` or OSError when the retired file or the series directory cannot be used or
    written, or slabs that were folded cannot be removed; nothing is lost then.
    """
    if at_least and len(_dead(path)) < at_least:
        return 0
    try:
        with mutex(os.path.join(path, "fold.lock"), timeout):
            return _fold(path, owner, at_least)
    except LockTimeoutError:
        return 0


def put_back(path: str, retired: Retired, owner: tuple[int, int] | None) -> bool:
    """Write the retired file of the epoch at ``path`` as it was when it was ``retired``, if it is gone; whether it was.

    It names the slabs that it contains, so none of them counts twice, whether it is still there or not. What others
    folded since is not in it. OSError when it cannot be written.
    """
    if not retired.incarnation or _has_retired(path):
        return False
    try:
        with mutex(os.path.join(path, "fold.lock"), 1.0):
            if _has_retired(path):
                return False
            write_retired(path, retired, owner)
    except LockTimeoutError:
        return False
    return True


def _has_retired(path: str) -> bool:
    return os.path.lexists(os.path.join(path, "retired"))


def _dead(path: str) -> list[str]:
    return [slab.file for slab in list_slabs(path) if not is_alive(os.path.join(path, slab.file))]


def _fold(path: str, owner: tuple[int, int] | None, at_least: int) -> int:
    _sweep(path)
    retired = load_retired(path)
    stay = _unlink(path, [slab.file for slab in list_slabs(path) if slab.identity in retired.slabs])
    fresh = _open_dead(path, stay)
    try:
        if len(fresh) < at_least:
            return _done(0, stay)
        # After the last of their writers died, and so with all the series that they can have written to.
        series = SeriesReader(path)
        try:
            generation = series.sync()
        finally:
            series.close()
        if series.catalog.damaged and len(fresh) < DAMAGED_AT:
            return _done(0, stay)
        readings = [(slab, slab.read(series.catalog.next_slot, _NONE)) for slab in fresh]
        new = retire(retired, readings, series.catalog, generation)
        # As long as they are there, they have to be known.
        new.slabs.update(name.rpartition("-")[2] for name in stay)
        write_retired(path, new, owner)
        stay |= _unlink(path, [os.path.basename(slab.path) for slab in fresh])
        return _done(len(fresh), stay)
    finally:
        for slab in fresh:
            slab.close()


def _open_dead(path: str, contained: Collection[str]) -> list[SlabReader]:
    """The slabs to fold, but for those that the retired file contains."""
    fresh: list[SlabReader] = []
    for name in _dead(path):
        if name in contained:
            continue
        with contextlib.suppress(FormatError, OSError):
            slab = SlabReader(os.path.join(path, name))
            if not slab.alive:
                slab.read(0, _NONE)  # whether it can be read
                fresh.append(slab)
    return fresh


def _unlink(path: str, names: list[str]) -> dict[str, OSError]:
    """Unlink these slabs, which the retired file contains; returns those that stay, which it has to go on naming."""
    stay = {}
    for name in names:
        try:
            os.unlink(os.path.join(path, name))
        except FileNotFoundError:
            continue
        except OSError as error:
            stay[name] = error
    return stay


def _done(count: int, stay: dict[str, OSError]) -> int:
    """So many were folded; raises what kept a file of theirs from being removed."""
    for error in stay.values():
        raise error
    return count


def _sweep(path: str) -> None:
    """Remove what killed processes left unfinished. Retired files are made under the fold lock, which we hold."""
    for name in os.listdir(path):
        if name.startswith("new-retired-"):
            _unlink(path, [name])
        elif name.startswith("new-slab-"):
            remove_unheld(os.path.join(path, name))
        elif name.startswith(("ask-", "new-ask-")):
            owners = (slab.file for slab in list_slabs(path) if slab.identity == name.rpartition("-")[2])
            if not any(is_alive(os.path.join(path, owner)) for owner in owners):
                _unlink(path, [name])
