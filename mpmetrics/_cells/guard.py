"""The guard of the pure-Python twin: what makes operations on cells atomic within a process.

Why the guard never waits: a lock that is waited for deadlocks when a signal handler or a finaliser interrupts its
holder on the same thread, and a re-entrant lock lets the handler's addition fall between the load and the store of the
one it interrupted, which then is lost. So an operation tries the guard once. Taken: it goes to the end of a queue, and
the holder, who looks at the queue after giving the guard back, carries it out.

A signal handler may raise an exception wherever the interpreter lets it in: at the start of a function, after a call,
and when a loop begins anew, but not between other instructions. So the guard is a key that is taken out of a dict and
put back, without a call: no exception leaves it taken. And an operation of a cell that is carried out for somebody
else takes itself out of the queue without a call after the store that completes it: one that was cut short is done
again, and none is done twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mpmetrics._cells.unraisable import Unraisable

__all__ = ["Guard", "Queue"]

_MOST_TRIES = 3
"""How often an operation of a cell is tried that exceptions cut short, before it is dropped as one that cannot be."""

_Entry = tuple[Callable[[Any], object], Any, bool]
"""An operation, its argument, and whether it takes itself out of the queue."""

Queue = deque[_Entry]
"""Operations that are to be carried out, in order."""


class Guard:
    """Makes operations on cells atomic within a process, without ever waiting."""

    __slots__ = ("_begun", "_tries", "free", "queue")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """In a forked child: nobody has it, and the parent's queue is carried out in the parent."""
        self.free: dict[int, None] = {0: None}
        """Without its key while somebody has the guard."""
        self.queue: Queue = deque()
        self._begun: _Entry | None = None
        self._tries = 0

    def run(self, operation: Callable[[Any], object], argument: Any) -> None:
        """Carry out ``operation(argument)`` alone: now, or by whoever holds the guard as soon as it lets go."""
        self.queue.append((operation, argument, False))
        self.drain()

    def later(self, operation: Callable[[Any], object], argument: Any) -> None:
        """The same for an operation of a cell, which takes itself out of the queue."""
        self.queue.append((operation, argument, True))
        self.drain()

    def settle(self, seconds: float = 0.1) -> bool:
        """Wait, at most so long, until all operations that were queued before have been carried out; whether they were.

        Not for the hot path, and not for whoever may have interrupted an operation.
        """
        # Not an Event: a signal handler that interrupts its wait, and then sets it, would wait for itself.
        done: list[None] = []
        self.run(done.append, None)
        deadline = time.monotonic() + seconds
        while not done and time.monotonic() < deadline:
            time.sleep(0.0002)
        return bool(done)

    def drain(self) -> None:
        """Carry out what is queued, unless another holder is going to.

        An operation that raises does not keep the others from being carried out: what the first one raised is raised
        in the end, what others raise goes to ``sys.unraisablehook``.
        """
        raised: BaseException | None = None
        while self.queue:
            try:
                if not self._carry_out():
                    break
            except BaseException as error:  # noqa: BLE001 (raised below)
                if raised is None:
                    raised = error
                elif self._tries == 1:  # not of one that was tried again: it has been said
                    Unraisable(error)
        if raised is not None:
            raise raised

    def _carry_out(self) -> bool:
        """Carry out what is queued, until something raises; False when somebody else has the guard."""
        free, queue = self.free, self.queue
        try:
            del free[0]
        except KeyError:
            return False
        try:
            while queue and queue is self.queue:  # which a forked child begins anew
                operation, argument, goes_itself = entry = queue[0]
                self._tries = self._tries + 1 if entry is self._begun else 1
                self._begun = entry
                if not goes_itself or self._tries > _MOST_TRIES:
                    del queue[0]
                if self._tries <= _MOST_TRIES:
                    operation(argument)
        finally:
            free[0] = None
        return True
