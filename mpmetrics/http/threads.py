"""The threads on which a server's handler runs."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HandlerThreads"]


class HandlerThreads:
    """The handler's threads, started one by one as they are needed.

    Not a ThreadPoolExecutor: the interpreter waits for its threads at exit, so a hanging handler would hang that too.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._open = 0

    @property
    def open(self) -> int:
        """Jobs that run or wait."""
        return self._open

    @property
    def idle(self) -> bool:
        """Whether a job would begin at once."""
        return self._open < self._most

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job`, which must not raise. Raises RuntimeError if the system does not give us even one thread.

        Like `finished`, which is to be called once a job has ended, this belongs to the loop's thread.
        """
        if self._open >= self._started and self._started < self._most:
            try:
                threading.Thread(target=self._work, name=f"mpmetrics-http-{self._started}", daemon=True).start()
                self._started += 1
            except RuntimeError:
                if not self._started:
                    raise
        self._open += 1
        self._jobs.put(job)

    def finished(self) -> None:
        """One job has ended."""
        self._open -= 1

    def close(self) -> None:
        """Forget the jobs not begun; let each thread end after its present one. Does not wait."""
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # or it would keep its request and connection until the next one
