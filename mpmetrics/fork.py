"""The one place that handles forks.

Objects that hold something a forked child must not share register here: their ``after_fork_in_child`` is called in the
child, before the application's code goes on there, in no particular order. Once all have put themselves right, those
that have a ``resume_in_child`` may start what is to go on in the child. We lock nothing before a fork, so a fork never
waits for us; each object replaces its own locks instead. Children that were started in another way (spawn, forkserver,
exec) come with fresh memory and need no hook.

What a process writes to does not depend on this: some servers fork without Python's hooks. There a child notices by
itself that it is one, see ``mpmetrics._cells``.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "blind", "register"]


class ForkAware(Protocol):
    """An object that puts itself right in a forked child."""

    def after_fork_in_child(self) -> None:
        """Replace locks, drop leases and maps; must not raise, log or wait."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(item: ForkAware) -> None:
    """Have ``item.after_fork_in_child()`` called in each forked child for as long as ``item`` lives."""
    _registered.add(item)


def blind(path: str, dir_fd: int | None = None) -> None:
    """In a forked child: have whatever descriptors lead to ``path`` lead nowhere; OSError when there is no such file.

    They stay open: code that was interrupted while opening one, and goes on here, closes it.
    """
    status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of the listing is closed by now
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
