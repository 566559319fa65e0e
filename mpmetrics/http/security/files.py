"""Reading the files that protect the endpoint, and noticing that they have changed."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from mpmetrics.errors import SecurityError

__all__ = ["Signature", "read", "signature"]

_MOST = 4 * 1024 * 1024
"""Bytes; a larger file is not a certificate, key or list of credentials."""


def read(path: str, what: str) -> bytes:
    """Return the content of a file; ``what`` names its purpose in errors.

    SecurityError if it is missing, unreadable, not a regular file, empty or far too large.
    """
    try:
        # Opening a pipe would wait for its writer.
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
    """Attributes that change when a file changes; times in nanoseconds."""

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
    """Return the current signature; None if the file cannot be examined."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Signature(
        status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
