"""Reading the files that protect the endpoint, with messages that say what is wrong with them."""

from __future__ import annotations

import logging
import os
import stat

from mpmetrics.errors import SecurityError

__all__ = ["read", "signature"]

log = logging.getLogger("mpmetrics")

_MOST = 4 * 1024 * 1024
"""Bytes; a file that is larger is not what it is taken for."""


def read(path: str, what: str, *, secret: bool) -> bytes:
    """The content of a file that is ``what``; said in the log when it is secret and others may read or write it.

    SecurityError when it is not there, may not be read, is no regular file, is empty or is far too large.
    """
    try:
        # A pipe would have us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
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
    if secret and status.st_mode & stat.S_IRWXO:
        log.warning(
            "%s %r is open to every user of this host (mode %04o): chmod o= %s",
            what,
            path,
            status.st_mode & 0o7777,
            path,
        )
    return content


def signature(path: str) -> tuple[int, ...] | None:
    """What changes when the file does; None while it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
