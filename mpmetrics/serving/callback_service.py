"""CallbackService: makes the callbacks of a process known to collectors.

Host callbacks are announced by a gauge. For worker callbacks, an agent thread answers collectors; it starts with the
first worker callback in a store, so a process without one has no thread.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from mpmetrics import fork
from mpmetrics.serving.agent import Agent
from mpmetrics.serving.callback_metrics import announce, withdraw
from mpmetrics.serving.worker_callbacks import WorkerCallbacks
from mpmetrics.turns import Turns

if TYPE_CHECKING:
    from mpmetrics.callbacks.callback import Callback
    from mpmetrics.provider_base import ProviderBase

__all__ = ["CallbackService"]

log = logging.getLogger("mpmetrics")


class CallbackService:
    """Serves the callbacks of ``provider`` in this process and its forked children. Any thread may call the methods.

    With ``is_on`` False, it serves none before :meth:`start`.
    """

    def __init__(self, provider: ProviderBase, *, is_on: bool) -> None:
        self.is_on = is_on
        """True if this process serves its callbacks."""
        self._provider = provider
        self._lock = Turns()
        self._agent: Agent | None = None
        self._worker_callbacks: WorkerCallbacks | None = None
        provider.callbacks.on_added = self._serve
        provider.callbacks.on_removed = self._withdraw
        fork.register(self)

    @property
    def worker_callbacks(self) -> WorkerCallbacks:
        """The runner of this process's worker callbacks, made at its first use."""
        with self._lock:
            if self._worker_callbacks is None:
                self._worker_callbacks = WorkerCallbacks(self._provider)
            return self._worker_callbacks

    def start(self) -> None:
        """Serve all callbacks from now on, registered ones and later ones."""
        self.is_on = True
        self.resume()

    def resume(self) -> None:
        """Serve all registered callbacks, because the provider has a store now."""
        for callback in self._provider.callbacks:
            self._serve(callback)

    def close(self) -> None:
        """Stop serving; the agent's thread ends."""
        self.is_on = False
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _serve(self, callback: Callback) -> None:
        """Make ``callback`` known to collectors, if this process serves and has a store."""
        if not self.is_on or self._provider.memory.epoch is None:
            return
        if callback.scope == "host":
            announce(self._provider, callback)
            return
        with self._lock:
            if self._agent is None:
                self._agent = Agent(self._provider.memory, self.worker_callbacks.refresh)
                try:
                    self._agent.start()
                except RuntimeError as error:  # the system has no thread for us; the application continues
                    log.error("process %d cannot start a thread, so its callbacks do not run: %s", os.getpid(), error)

    def _withdraw(self, callback: Callback) -> None:
        """Withdraw the announcement of ``callback``, which was removed."""
        if self.is_on and self._provider.memory.epoch is not None and callback.scope == "host":
            withdraw(self._provider, callback)

    def after_fork_in_child(self) -> None:
        """The agent's thread runs in the parent: close its socket here."""
        self._lock.after_fork_in_child()
        if self._worker_callbacks is not None:
            self._worker_callbacks.reset()
        if self._agent is not None:
            self._agent.abandon()

    def resume_in_child(self) -> None:
        """Start an agent of this child's own, if the parent had one."""
        if self._agent is not None:
            self._agent = None
            for callback in self._provider.callbacks.of("worker")[:1]:
                self._serve(callback)
