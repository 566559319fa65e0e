"""Providers: where the values of a set of instruments go.

A provider belongs to one process and is inherited by its forked children, in which it goes on by itself. It is the one
thing that knows both the store and the memory of the process.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from mpmetrics.errors import ConflictError, MpmetricsError, StoreError
from mpmetrics.storage import fork
from mpmetrics.storage.memory import Memory
from mpmetrics.storage.store import Epoch, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Provider", "get_provider", "set_provider"]

log = logging.getLogger("mpmetrics")


class Provider:
    """Instruments' values, in the store in ``directory`` or, without one, in the memory of this process.

    The store is created when it is not there; its current epoch is joined, or the first one begun. ``epoch`` joins a
    certain epoch instead.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` when the store cannot be created, opened or trusted.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, *, epoch: int | None = None) -> None:
        self.memory = Memory()
        self.epoch: Epoch | None = None
        self.unavailable: str | None = None
        self._closed = False
        if directory is not None:
            self.attach(Store(directory).join(epoch))

    @classmethod
    def deferred(cls) -> Provider:
        """A provider whose store is attached later: until then values wait in this process."""
        provider = cls()
        provider.memory.expect_store()
        return provider

    @property
    def directory(self) -> str | None:
        """The store's directory, or None without one."""
        return None if self.epoch is None else os.path.dirname(self.epoch.path)

    def attach(self, epoch: Epoch) -> None:
        """Move everything into ``epoch`` and write there from now on.

        Raises :class:`~mpmetrics.errors.StoreError` when that cannot be done, values stay here then; and
        :class:`~mpmetrics.errors.ConflictError` when a metric of ours is a different one there: that metric's values
        stay here, the others are attached.
        """
        try:
            self.memory.attach(epoch)
        except ConflictError:
            self.epoch = epoch
            raise
        except OSError as error:
            msg = f"the epoch {epoch.path} cannot be used: {error}"
            raise StoreError(msg) from error
        self.epoch = epoch

    def force_flush(self) -> None:
        """Move what is still private into the store now, as far as it can take it. Values are never buffered else."""
        self.memory.retry()

    def shutdown(self) -> None:
        """Give up the store; calling it again does nothing. What is written later stays in this process.

        The values written so far remain in the store, as a dead process's do.
        """
        if not self._closed:
            self._closed = True
            self.memory.close()
            epoch, self.epoch = self.epoch, None
            if epoch is not None:
                epoch.lease.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`shutdown` was called."""
        return self._closed


class _Default:
    """The default provider of the process and its forked children."""

    def __init__(self) -> None:
        self.provider: Provider | None = None
        # Re-entrant: a signal handler or a finaliser may make an instrument while its thread makes the first one.
        self.lock = threading.RLock()
        fork.register(self)

    def after_fork_in_child(self) -> None:
        """A thread that held the lock is not here."""
        self.lock = threading.RLock()


_default = _Default()


def get_provider(environ: Mapping[str, str] = os.environ) -> Provider:
    """The default provider, made at the first call: in the store that ``MPMETRICS_DIR`` names, else in private memory.

    A store that cannot be used is said once in the log, and values stay private: the application goes on.
    """
    with _default.lock:
        if _default.provider is None:
            made = _from_environment(environ)
            if _default.provider is None:  # else whoever interrupted this was first
                _default.provider = made
        return _default.provider


def _from_environment(environ: Mapping[str, str]) -> Provider:
    directory = environ.get("MPMETRICS_DIR")
    if not directory:
        return Provider()
    epoch = environ.get("MPMETRICS_EPOCH")
    try:
        return Provider(directory, epoch=int(epoch) if epoch and epoch.isdecimal() else None)
    except MpmetricsError as error:
        log.error("%s; metrics of process %d stay private", error, os.getpid())
        provider = Provider()
        provider.unavailable = str(error)
        return provider


def set_provider(provider: Provider | None) -> None:
    """Make ``provider`` the default one for instruments made from now on; None: decide anew at the next use."""
    with _default.lock:
        _default.provider = provider
