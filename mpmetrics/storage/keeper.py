"""Folding for a collector, which remembers the retired file and puts it back when somebody removes it.

It looks at the file after each of its folds, and not only with a scrape: a collector folds every two seconds, and what
it folded since the last scrape would be gone with the file, as a total that goes back and that nobody counts as lost.
"""

from __future__ import annotations

import contextlib
import os

from mpmetrics.errors import FormatError
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.fold import fold, put_back
from mpmetrics.storage.retired import Retired, is_same, read_retired, retired_identity

__all__ = ["Keeper"]


class Keeper:
    """Folds, and remembers the retired file of the epoch that was folded last. Any thread may use it."""

    def __init__(self) -> None:
        # The file stays open, so that its number is not given to another.
        self._kept = ("", Retired(), Descriptor(-1))

    def fold(self, path: str) -> bool:
        """Fold the dead of the epoch at ``path``; whether its retired file was gone and has been put back.

        Raises as :func:`~mpmetrics.storage.fold.fold` does.
        """
        status = os.stat(path)
        owner = status.st_uid, status.st_gid
        where, retired, _ = self._kept
        is_back = where == path and put_back(path, retired, owner)
        try:
            fold(path, owner=owner)
        finally:
            with contextlib.suppress(OSError, FormatError):  # what was read last is what there is to remember
                self._look(path)
        return is_back

    def _look(self, path: str) -> None:
        where, _, file = self._kept
        identity = retired_identity(path)
        if any(identity) and not (where == path and is_same(file, identity)):
            self._kept = (path, *read_retired(path))
