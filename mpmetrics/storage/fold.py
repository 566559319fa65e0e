"""Folding: what dead processes counted moves into the retired file, exactly once, and their slabs go.

Under the fold lock: read the retired file; unlink slabs that it names (a folder was killed before it could); read the
slabs of the dead; add them up; write a new retired file that names them and rename it into place, which is the commit;
unlink them. A kill before the commit leaves everything as it was; after it, slabs that nobody counts again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError, StoreError
from mpmetrics.storage.exclusive import mutex
from mpmetrics.storage.locks import remove_unheld, unheld
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retire import retire
from mpmetrics.storage.retired import load_retired, new_birth, write_retired
from mpmetrics.storage.survey import is_alive, list_slabs

if TYPE_CHECKING:
    from collections.abc import Collection

    from mpmetrics.storage.catalog import Catalog
    from mpmetrics.storage.retired import Retired

__all__ = ["LostError", "fold", "put_back"]

DAMAGED_AT = 64
"""Dead slabs that have to be there before they are folded although records are damaged: a collector that read those
records before the damage still shows what the dead counted in their series, and a fold is the end of that."""

PATIENCE = 0.1
"""Seconds that who puts the retired file back waits for another folder: it remembers it, and comes again."""

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


class LostError(StoreError):
    """A retired file cannot be put back, nor ever will be: part of what it held may be in another one."""


def put_back(path: str, kept: Retired, left: Collection[str], owner: tuple[int, int] | None) -> bool:
    """See to it that the retired file of the epoch at ``path`` holds what it held when it was ``kept``.

    Where it is gone, it is written anew; where others began another one since, it is added to that. ``left`` are the
    slabs that ``kept`` names and that were there when it was. Whether there was something to do. Raises as :func:`fold`
    does, :class:`LostError` when something may count twice then, and :class:`~mpmetrics.errors.LockTimeoutError` when
    others have the fold lock for longer than ``PATIENCE``.
    """
    if load_retired(path).covers(kept.births):
        return False
    is_left = unheld(os.path.join(path, "lease"))  # or a cleaner removed that, too
    if is_left and not any(is_alive(os.path.join(path, slab.file)) for slab in list_slabs(path)):
        # Who removes a dead epoch is not to find another file in it. That of one that dies at this very moment, the
        # next server to start removes.
        raise FileNotFoundError(errno.ENOENT, "nobody is in this epoch any more", path)
    with mutex(os.path.join(path, "fold.lock"), PATIENCE):
        current = load_retired(path)
        if current.covers(kept.births):
            return False
        # A slab may be in both where the folder that put it into the first one was killed before it could unlink it,
        # and the second one began without the first. While it is there, both files name it. It was unlinked when at
        # most one of them was in its place; the other one is back since then, by this function, from somebody who had
        # last seen it beside that slab: which is refused here, as it was gone.
        is_apart = current.births.keys().isdisjoint(kept.births) and current.slabs.isdisjoint(kept.slabs)
        if not is_apart or not {slab.identity for slab in list_slabs(path)}.issuperset(left):
            raise LostError(f"{path}/retired was removed, and part of what it held may be in another one")
        new = replace(kept)
        if current.births:
            catalog, generation = _read_series(path)
            if catalog.damaged:
                msg = f"{path}/retired was removed; what it held is not added to the new one beside damaged records"
                raise FormatError(msg)
            new = retire([kept, current], [], catalog, generation)
            new.slabs = kept.slabs | current.slabs
        new.births = kept.births | current.births | new_birth()
        write_retired(path, new, owner)
    return True


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
        catalog, generation = _read_series(path)
        if catalog.damaged and len(fresh) < DAMAGED_AT:
            return _done(0, stay)
        readings = [(slab, slab.read(catalog.next_slot, _NONE)) for slab in fresh]
        new = retire([retired], readings, catalog, generation)
        new.births = retired.succeed()
        # As long as they are there, they have to be known.
        new.slabs.update(name.rpartition("-")[2] for name in stay)
        write_retired(path, new, owner)
        stay |= _unlink(path, [os.path.basename(slab.path) for slab in fresh])
        return _done(len(fresh), stay)
    finally:
        for slab in fresh:
            slab.close()


def _read_series(path: str) -> tuple[Catalog, int]:
    """The series that there are, as of which generation of removals."""
    series = SeriesReader(path)
    try:
        generation = series.sync()
    finally:
        series.close()
    return series.catalog, generation


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
