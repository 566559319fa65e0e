"""Where instruments put their values: the memory of this process and its callbacks, and the default of both.

:class:`mpmetrics.Provider` is the destination that applications hold. What it adds stands above the instruments.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mpmetrics import fork
from mpmetrics.callbacks.callback import Callbacks
from mpmetrics.storage.memory import Memory
from mpmetrics.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Destination", "default"]


class Destination:
    """The memory of this process, and the callbacks that observe for it. ``clock`` tells the Unix time in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.memory = Memory(clock=clock)
        self.callbacks = Callbacks()

    def shutdown(self) -> None:
        """Give up the store; values written from now on stay in this process."""
        self.memory.close()


class Default:
    """The destination of instruments that are given none, in this process and its forked children.

    ``make`` makes it from the environment when it is first asked for; whoever defines the type of destination sets it.
    """

    make: Callable[[Mapping[str, str]], Destination]

    def __init__(self) -> None:
        self._destination: Destination | None = None
        self._lock = Turns()
        fork.register(self)

    def get(self, environ: Mapping[str, str] = os.environ) -> Destination:
        """The one that there is, or a new one."""
        with self._lock:
            if self._destination is None:
                made = self.make(environ)
                if self._destination is None:
                    self._destination = made
                else:  # a signal handler that interrupted this, or a thread that did not wait for it, was quicker
                    made.shutdown()
            return self._destination

    def set(self, destination: Destination | None) -> None:
        """Have this one from now on; None: make one at the next use."""
        with self._lock:
            self._destination = destination

    def after_fork_in_child(self) -> None:
        """A thread that held the lock is not here."""
        self._lock.after_fork_in_child()


default = Default()
