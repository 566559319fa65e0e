"""Fork handling: what the objects of this process do in a forked child.

Only this module and ``_cells/maps.py`` register fork hooks with Python; the latter does so for the Python twin.

An object that holds something a forked child must not share (a lock, a thread, a socket) registers here. In the child,
before the application's code continues, this module calls ``after_fork_in_child`` of each registered object, in no
particular order. Then it calls ``resume_in_child`` of those that have it, which may start threads.

Nothing is locked before a fork, so a fork never waits; each object replaces its own locks in the child. Children that
are started in another way (spawn, forkserver, exec) begin with fresh memory and need no hook.

Where a process counts does not depend on this module, because some servers fork without Python's hooks (uWSGI). There
the cells notice the fork themselves, see ``mpmetrics._cells``.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "blind", "register"]


class ForkAware(Protocol):
    """An object that must change something in a forked child."""

    def after_fork_in_child(self) -> None:
        """Replace locks, drop leases and maps. Must not raise, log or wait."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(item: ForkAware) -> None:
    """Call ``item.after_fork_in_child()`` in each forked child, as long as ``item`` lives."""
    _registered.add(item)


def blind(path: str, dir_fd: int | None = None) -> None:
    """In a forked child: point each descriptor of the file ``path`` to /dev/null. OSError if there is no such file.

    The descriptors stay open: the fork may have interrupted code that opened one, continues here, and closes it.
    """
    status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
                if os.path.samestat(os.fstat(int(name)), status):
                    os.dup2(nowhere, int(name), inheritable=False)
    finally:
        os.close(nowhere)


def _in_child() -> None:
    items = list(_registered)
    for item in items:
        item.after_fork_in_child()
    for item in items:
        resume = getattr(item, "resume_in_child", None)
        if resume is not None:
            resume()


os.register_at_fork(after_in_child=_in_child)
