"""The part of a provider that instruments use, and the default provider of instruments that are given none.

Instruments cannot import :mod:`mpmetrics.provider`: a provider makes meters, and a meter makes instruments. So they use
:class:`ProviderBase`, which :class:`mpmetrics.Provider` extends, and ``mpmetrics.provider`` tells
:data:`default_provider` how to make a provider. ``mpmetrics/__init__.py`` imports ``mpmetrics.provider``, so this has
happened before any instrument is made.
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

__all__ = ["ProviderBase", "default_provider"]


class ProviderBase:
    """The memory of this process, and its callbacks. ``clock`` returns the Unix time in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.memory = Memory(clock=clock)
        self.callbacks = Callbacks()

    def shutdown(self) -> None:
        """Leave the store. Values that are written later stay in this process."""
        self.memory.close()


class DefaultProvider:
    """The default provider of this process and its forked children. Any thread may call its methods.

    ``make`` makes it from the environment, at the first :meth:`get`. ``mpmetrics.provider`` sets ``make``.
    """

    make: Callable[[Mapping[str, str]], ProviderBase]

    def __init__(self) -> None:
        self._provider: ProviderBase | None = None
        self._lock = Turns()
        fork.register(self)

    def get(self, environ: Mapping[str, str] = os.environ) -> ProviderBase:
        """Return the default provider; make it if there is none."""
        with self._lock:
            if self._provider is None:
                made = self.make(environ)
                if self._provider is None:
                    self._provider = made
                else:  # a signal handler, or a thread that did not wait for this one, has set another meanwhile
                    made.shutdown()
            return self._provider

    def set(self, provider: ProviderBase | None) -> None:
        """Make ``provider`` the default one. None: the next :meth:`get` makes one."""
        with self._lock:
            self._provider = provider

    def after_fork_in_child(self) -> None:
        """The thread that held the lock does not exist here."""
        self._lock.after_fork_in_child()


default_provider = DefaultProvider()
