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
from mpmetrics.storage.retired import Retired, read_retired

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
        try:
            now = os.stat(os.path.join(path, "retired"), follow_symlinks=False)
        except FileNotFoundError:
            return
        known = os.fstat(file.fileno()) if file.fileno() >= 0 and where == path else None
        if known is None or (known.st_dev, known.st_ino) != (now.st_dev, now.st_ino):
            self._kept = (path, *read_retired(path))
