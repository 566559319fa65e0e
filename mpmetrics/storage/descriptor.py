"""File descriptors that close with their owner."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Descriptor", "open_regular"]


class Descriptor:
    """An open file descriptor, closed when this object goes, at the latest. For whatever takes a ``fileno()``."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number; -1 once it is closed."""
        return self._number

    # ``close`` is bound here because module globals may be gone when an interpreter that ends drops this object.
    def close(self, _close: Callable[[int], None] = os.close) -> None:
        """Close it; again does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            with contextlib.suppress(OSError):
                _close(number)

    def __del__(self) -> None:
        self.close()


def open_regular(path: str, flags: int = os.O_RDONLY) -> Descriptor:
    """Open a regular file, never through a symbolic link; FormatError when it is something else, else OSError."""
    descriptor = Descriptor(os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(descriptor.fileno()).st_mode):
        msg = f"{path}: not a regular file"
        raise FormatError(msg)
    return descriptor
