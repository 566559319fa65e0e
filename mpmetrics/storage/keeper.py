"""Folding for a collector, which remembers the retired file and puts it back when somebody removes it.

It looks at the file after each of its folds, and not only with a scrape: a collector folds every two seconds, and what
it folded since the last scrape would be gone with the file, as a total that goes back. What it remembers it keeps until
a file is there that holds all of that, whoever else folds meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics.errors import FormatError, LockTimeoutError
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.fold import LostError, fold, put_back
from mpmetrics.storage.retired import Retired, is_same, join, read_retired, retired_identity
from mpmetrics.storage.survey import list_slabs

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = ["Keeper"]


class _Kept(NamedTuple):
    """The retired file of the epoch at ``path``, and which slabs that it names were there beside it.

    The file stays open, so that its number is not given to another.
    """

    path: str
    retired: Retired
    file: Descriptor
    left: AbstractSet[str] = frozenset()


class Keeper:
    """Folds, and remembers the retired file of the epoch that was folded last. Any thread may use it."""

    def __init__(self) -> None:
        self._begin("")

    def _begin(self, path: str) -> None:
        self._kept = _Kept(path, Retired(), Descriptor(-1))
        self._lost: dict[str, int] = {}
        """The births of what could not be put back."""
        self._is_waiting = False

    def fold(self, path: str) -> bool:
        """Fold the dead of the epoch at ``path``; whether its retired file was gone and has been put back.

        Raises as :func:`~mpmetrics.storage.fold.fold` does. As long as the file cannot be put back, nothing is folded.
        """
        status = os.stat(path)
        owner = status.st_uid, status.st_gid
        if self._kept.path != path:
            self._begin(path)
        try:
            is_back = self._put_back(owner)
        except LockTimeoutError:  # who has the lock may be beginning a new file, and goes on with that
            return False
        try:
            fold(path, owner=owner)
        finally:
            with contextlib.suppress(OSError, FormatError):  # what was read last is what there is to remember
                self._look()
        return is_back

    def lacks(self, path: str) -> bool:
        """Whether the retired file of the epoch at ``path`` does not hold all that it once did."""
        kept = self._kept
        return kept.path == path and (self._is_waiting or not kept.retired.covers(self._lost))

    def _put_back(self, owner: tuple[int, int]) -> bool:
        path, kept, file, left = self._kept
        if not kept.births or is_same(file, retired_identity(path)):
            self._is_waiting = False
            return False
        self._is_waiting, is_back = True, False
        try:
            is_back = put_back(path, kept, left, owner)
        except LostError:  # what is there now is what there is to remember
            self._lost = join(self._lost, kept.births)
            self._kept = _Kept(path, Retired(), Descriptor(-1))
        self._is_waiting = False
        return is_back

    def _look(self) -> None:
        """Remember the file that is there, if all that is remembered is in it."""
        path, kept, file, left = self._kept
        identity = retired_identity(path)
        if is_same(file, identity):
            if not left:
                return
            retired = kept
        else:
            retired, file = read_retired(path)
        # A slab that is missing while the file is there was unlinked when no other file was in its place.
        left = retired.slabs & {slab.identity for slab in list_slabs(path)}
        if retired.covers(kept.births) and is_same(file, retired_identity(path)):
            self._kept = _Kept(path, retired, file, left)
