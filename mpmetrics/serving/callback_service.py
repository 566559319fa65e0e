"""What collectors get of a process's callbacks: an announcement of each, and an agent that runs the worker's.

The agent is started with the first worker callback in a store, since a thread that nobody asks would be of no use.
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
    """Serves the callbacks of ``provider`` in this process and its forked children; any thread may call its methods.

    A process with ``is_on`` False serves none before :meth:`start`.
    """

    def __init__(self, provider: ProviderBase, *, is_on: bool) -> None:
        self.is_on = is_on
        """Whether this process runs worker callbacks."""
        self._provider = provider
        self._lock = Turns()
        self._agent: Agent | None = None
        self._worker_callbacks: WorkerCallbacks | None = None
        provider.callbacks.on_added = self._serve
        provider.callbacks.on_removed = self._withdraw
        fork.register(self)

    @property
    def worker_callbacks(self) -> WorkerCallbacks:
        """What runs the worker callbacks of this process."""
        with self._lock:
            if self._worker_callbacks is None:
                self._worker_callbacks = WorkerCallbacks(self._provider)
            return self._worker_callbacks

    def start(self) -> None:
        """Serve from now on all callbacks that there are, and those that come."""
        self.is_on = True
        self.resume()

    def resume(self) -> None:
        """Serve all callbacks that there are, if any are to be served: the provider has a store now."""
        for callback in self._provider.callbacks:
            self._serve(callback)

    def close(self) -> None:
        """Serve none any more; the agent's thread ends."""
        self.is_on = False
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _serve(self, callback: Callback) -> None:
        """Make ``callback``, which is new here or in the store, known to collectors."""
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
                except RuntimeError as error:  # the system gives us no thread: the application goes on
                    log.error("the callbacks of process %d cannot be asked for: %s", os.getpid(), error)

    def _withdraw(self, callback: Callback) -> None:
        """Let collectors know that ``callback``, which was taken back, is not to be served any more."""
        if self.is_on and self._provider.memory.epoch is not None and callback.scope == "host":
            withdraw(self._provider, callback)

    def after_fork_in_child(self) -> None:
        """The agent's thread is the parent's."""
        self._lock.after_fork_in_child()
        if self._worker_callbacks is not None:
            self._worker_callbacks.reset()
        if self._agent is not None:
            self._agent.abandon()

    def resume_in_child(self) -> None:
        """A child of a process that answers collectors does so itself."""
        if self._agent is not None:
            self._agent = None
            for callback in self._provider.callbacks.of("worker")[:1]:
                self._serve(callback)
