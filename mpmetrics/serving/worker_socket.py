"""The unix socket at which a worker answers collectors: in the epoch's directory, named after the worker's slab."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics.storage.slab import SlabName

__all__ = ["Worker", "list_workers", "short", "socket_name"]

_NAME = re.compile(r"ask-(\d{1,9})-([0-9a-f]{32})\Z")
_PATH_MAX = 100
"""Most bytes of a unix socket's path; every system allows this many."""


class Worker(NamedTuple):
    """A process that answers collectors: the file name of its socket, and ordinal and identity of its slab."""

    file: str
    ordinal: int
    identity: str


def socket_name(slab: SlabName) -> str:
    """Return the file name of the socket of the worker that owns ``slab``."""
    return f"ask-{slab.ordinal}-{slab.identity}"


def list_workers(path: str) -> list[Worker]:
    """Return the workers with a socket in the epoch at ``path``; none if the directory cannot be read."""
    try:
        found = (_NAME.match(name) for name in os.listdir(path))
    except OSError:
        return []
    return sorted(Worker(match[0], int(match[1]), match[2]) for match in found if match)


@contextlib.contextmanager
def short(directory: str, name: str) -> Iterator[str]:
    """Give a path to ``name`` in ``directory`` that is short enough for a socket, valid within the context."""
    path = os.path.join(directory, name)
    if len(os.fsencode(path)) <= _PATH_MAX:
        yield path
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
