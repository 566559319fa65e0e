"""The files that protect the endpoint: reading them, with messages that say what is wrong, and telling a change."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from mpmetrics.errors import SecurityError

__all__ = ["Signature", "read", "signature"]

_MOST = 4 * 1024 * 1024
"""Bytes; a file that is larger is not what it is taken for."""


def read(path: str, what: str) -> bytes:
    """The content of a file that is ``what``.

    SecurityError when it is not there, may not be read, is no regular file, is empty or is far too large.
    """
    try:
        # A pipe would have us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                msg = f"{what} {path!r} is not a regular file"
                raise SecurityError(msg)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(_MOST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        msg = f"{what} {path!r} cannot be read: {error.strerror or error}"
        raise SecurityError(msg) from error
    if not content.strip():
        msg = f"{what} {path!r} is empty"
        raise SecurityError(msg)
    if len(content) > _MOST:
        msg = f"{what} {path!r} is larger than {_MOST} bytes"
        raise SecurityError(msg)
    return content


class Signature(NamedTuple):
    """What changes when a file does; times in nanoseconds."""

    device: int
    inode: int
    mode: int
    size: int
    modified: int
    changed: int

    @property
    def is_open(self) -> bool:
        """Whether every user of the host may read or write it."""
        return stat.S_ISREG(self.mode) and bool(self.mode & stat.S_IRWXO)


def signature(path: str) -> Signature | None:
    """The signature of now; None while the file cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Signature(
        status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
