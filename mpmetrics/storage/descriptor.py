"""File descriptors that close themselves, and safe ways to open a store's files.

A descriptor lives for one operation. A process maps what it needs for longer: code that daemonizes a process closes all
descriptors and may open its own files under the same numbers.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells.files import Where

__all__ = [
    "FILE_MODE",
    "Descriptor",
    "Directory",
    "check_trust",
    "open_directory",
    "open_private",
    "open_regular",
    "replace",
    "secure",
    "write_all",
]

FILE_MODE = 0o600


class Descriptor:
    """An open file descriptor, closed at the latest when this object is deleted. Has a ``fileno()``."""

    _number = -1  # until ``__init__`` has run: a signal handler's exception may prevent that

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number; -1 once it is closed."""
        return self._number

    # ``os.close`` is a default argument because module globals may be gone when the interpreter ends.
    def close(self, _close: Callable[[int], None] = os.close) -> None:
        """Close it; a second call does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            # No ``suppress``: an exception that a signal handler raises during its call would leave the file open.
            try:  # noqa: SIM105
                _close(number)
            except OSError:
                pass

    def __enter__(self) -> int:
        return self._number

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True)
class Directory:
    """A directory of a store. Each use opens it again and checks that it still is the same directory.

    ``identity`` is its device and inode number, ``owner`` its user and group. Another directory or a symbolic link in
    its place is refused.
    """

    path: str
    identity: tuple[int, int]
    owner: tuple[int, int]

    @classmethod
    def at(cls, path: str) -> Directory:
        """The directory at ``path`` now; OSError when ``path`` is missing or a symbolic link."""
        with open_directory(path) as descriptor:
            status = os.fstat(descriptor)
        return cls(path, (status.st_dev, status.st_ino), (status.st_uid, status.st_gid))

    def open(self) -> Descriptor:
        """Open it. StoreUnavailableError when another directory is in its place, OSError for other failures."""
        descriptor = open_directory(self.path)
        status = os.fstat(descriptor.fileno())
        if (status.st_dev, status.st_ino) != self.identity or status.st_uid != self.owner[0]:
            msg = f"{self.path} has been replaced by another directory"
            raise StoreUnavailableError(msg)
        return descriptor

    @property
    def where(self) -> Where:
        """Path, device, inode number and owner: the cells' functions open and check the directory with these."""
        return (self.path, *self.identity, self.owner[0])

    @property
    def is_foreign(self) -> bool:
        """Whether this process is root and another user owns the directory, and so controls its contents."""
        return 0 in (os.getuid(), os.geteuid()) and self.owner[0] != 0


def open_directory(path: str, *, dir_fd: int | None = None) -> Descriptor:
    """Open a directory, never through a symbolic link; OSError when that fails."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return Descriptor(os.open(path, flags, dir_fd=dir_fd))


def open_regular(path: str, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> Descriptor:
    """Open a regular file, never through a symbolic link. FormatError for another type of file, else OSError."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = Descriptor(os.open(path, flags, dir_fd=dir_fd))
    if not stat.S_ISREG(os.fstat(descriptor.fileno()).st_mode):
        msg = f"{path}: not a regular file"
        raise FormatError(msg)
    return descriptor


def open_private(path: str, flags: int, owner: tuple[int, int] | None, *, dir_fd: int | None = None) -> Descriptor:
    """Open ``path``, never through a symbolic link; a file that this creates has mode 0600 and belongs to ``owner``."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    create = flags & os.O_CREAT
    try:
        # O_EXCL: the file whose owner we set must be the one that we made.
        descriptor = Descriptor(os.open(path, flags | (os.O_EXCL if create else 0), FILE_MODE, dir_fd=dir_fd))
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return Descriptor(os.open(path, flags & ~os.O_CREAT, dir_fd=dir_fd))
    if create:
        secure(descriptor.fileno(), FILE_MODE, owner)
    return descriptor


def secure(descriptor: int, mode: int, owner: tuple[int, int] | None) -> None:
    """Set the mode of a file that we made, whatever the umask; root also gives it to ``owner``."""
    os.fchmod(descriptor, mode)
    if owner is not None and (os.geteuid(), os.getegid()) != owner and os.geteuid() == 0:
        os.fchown(descriptor, *owner)


def _is_open_to_root(path: str) -> bool:
    """Whether root may use another user's directory. On a read-only disk, reading is enough."""
    mode = os.R_OK | os.X_OK
    with contextlib.suppress(OSError):
        mode |= 0 if os.statvfs(path).f_flag & os.ST_RDONLY else os.W_OK
    return os.access(path, mode)


def check_trust(path: str, status: os.stat_result, what: str = "store") -> None:
    """Raise StoreUnavailableError if another user could put values into the directory whose status this is."""
    if not stat.S_ISDIR(status.st_mode):
        msg = f"the {what} {path} is no directory (a symbolic link does not count); choose another MPMETRICS_DIR"
        raise StoreUnavailableError(msg)
    if os.geteuid() not in (status.st_uid, 0):
        owner, user = status.st_uid, os.geteuid()
        msg = f"the {what} {path} belongs to user {owner}, not to {user}; choose another MPMETRICS_DIR"
        raise StoreUnavailableError(msg)
    if status.st_uid != os.geteuid() and not _is_open_to_root(path):
        msg = (
            f"the {what} {path} belongs to user {status.st_uid}, whose files root cannot use here"
            " (a user namespace without that user, or dropped capabilities); run as that user,"
            " or choose another MPMETRICS_DIR"
        )
        raise StoreUnavailableError(msg)
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        msg = f"the {what} {path} can be written by others (mode {mode:04o}); run: chmod 0700 {path}"
        raise StoreUnavailableError(msg)


def write_all(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def replace(dir_fd: int, name: str, owner: tuple[int, int], write: Callable[[int], object]) -> None:
    """Replace ``name`` with a new file that ``write`` fills. After an exception the old file is unchanged."""
    temporary = f"new-{name}-{secrets.token_hex(16)}"
    file = open_private(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, owner, dir_fd=dir_fd)
    try:
        with file as descriptor:
            write(descriptor)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with contextlib.suppress(OSError):  # the rename is done already
            os.unlink(temporary, dir_fd=dir_fd)
        raise
