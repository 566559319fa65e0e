"""The one place that handles forks.

Objects that hold something a forked child must not share register here: their ``after_fork_in_child`` is called in the
child, before the application's code goes on there, in no particular order. Once all have put themselves right, those
that have a ``resume_in_child`` may start what is to go on in the child. We lock nothing before a fork, so a fork never
waits for us; each object replaces its own locks instead. Children that were started in another way (spawn, forkserver,
exec) come with fresh memory and need no hook.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "register"]


class ForkAware(Protocol):
    """An object that puts itself right in a forked child."""

    def after_fork_in_child(self) -> None:
        """Replace locks, drop leases and maps; must not raise, log or wait."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(item: ForkAware) -> None:
    """Have ``item.after_fork_in_child()`` called in each forked child for as long as ``item`` lives."""
    _registered.add(item)


def _in_child() -> None:
    items = list(_registered)
    for item in items:
        item.after_fork_in_child()
    for item in items:
        resume = getattr(item, "resume_in_child", None)
        if resume is not None:
            resume()


os.register_at_fork(after_in_child=_in_child)
