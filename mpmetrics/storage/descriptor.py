"""File descriptors that close with their owner, and files of a store opened as they have to be."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FILE_MODE", "Descriptor", "open_private", "open_regular", "secure"]

FILE_MODE = 0o600


class Descriptor:
    """An open file descriptor, closed when this object goes, at the latest. For whatever takes a ``fileno()``."""

    _number = -1  # of one that an exception out of a signal handler left half made

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
            # No ``suppress``: a signal handler that interrupts its call, and raises, would leave the file open.
            try:  # noqa: SIM105
                _close(number)
            except OSError:
                pass

    def __del__(self) -> None:
        self.close()


def open_regular(path: str, flags: int = os.O_RDONLY) -> Descriptor:
    """Open a regular file, never through a symbolic link; FormatError when it is something else, else OSError."""
    descriptor = Descriptor(os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(descriptor.fileno()).st_mode):
        msg = f"{path}: not a regular file"
        raise FormatError(msg)
    return descriptor


def open_private(path: str, flags: int, owner: tuple[int, int] | None) -> int:
    """Open ``path``, never through a symbolic link; a file that this creates has mode 0600 and belongs to ``owner``."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    create = flags & os.O_CREAT
    try:
        # Exclusively: what is made our owner's has to be what we made.
        descriptor = os.open(path, flags | (os.O_EXCL if create else 0), FILE_MODE)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags & ~os.O_CREAT)
    if create:
        try:
            secure(descriptor, FILE_MODE, owner)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def secure(descriptor: int, mode: int, owner: tuple[int, int] | None) -> None:
    """Give a file of ours its mode, whatever the umask was, and its owner where a privileged process made it."""
    os.fchmod(descriptor, mode)
    if owner is not None and (os.geteuid(), os.getegid()) != owner and os.geteuid() == 0:
        os.fchown(descriptor, *owner)
