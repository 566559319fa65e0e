"""One run of a function for all who ask for it at the same time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SharedCall"]

Result = TypeVar("Result")


class SharedCall(Generic[Result]):
    """Calls ``function`` for many threads, never twice at a time.

    Each caller gets the result of a run that began after it asked, so nobody is given values older than its question;
    all who ask during a run share the next one. An exception goes to the caller that ran the function; the others try
    again themselves.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._changed = threading.Condition()
        self._running = False
        self._started = 0
        self._finished = 0
        self._result: Result | None = None

    def __call__(self) -> Result:
        """The result of a run that begins after this call; what the function raises when this caller runs it."""
        with self._changed:
            wanted = self._started + 1
            while self._running:
                self._changed.wait()
                if self._finished >= wanted:
                    return self._result  # type: ignore[return-value]
            self._running = True
            self._started += 1
            mine = self._started
        try:
            result = self._function()
        except BaseException:
            with self._changed:
                self._running = False
                self._changed.notify_all()
            raise
        with self._changed:
            self._running = False
            self._finished = mine
            self._result = result
            self._changed.notify_all()
        return result

    def reset(self) -> None:
        """In a forked child: nobody is running or waiting here."""
        self._changed = threading.Condition()
        self._running = False
