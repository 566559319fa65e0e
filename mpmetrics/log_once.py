"""Log messages that appear once for each cause.

A cause is any hashable value. Two threads that meet the same new cause at the same moment may both log it.
"""

from __future__ import annotations

import _thread
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any

from mpmetrics import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["LogOnce", "LogOnceUnlocked"]

log = logging.getLogger("mpmetrics")


class LogOnce:
    """Logs the first message of each cause, at once; and again after ``again_after`` seconds, if that is given.

    Any thread may call its methods. A forked child does not repeat what its parent has logged.
    """

    def __init__(self, *, again_after: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._again_after = again_after
        self._clock = clock
        self._logged_at: dict[Hashable, float] = {}

    def warn(self, cause: Hashable, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log a warning, ``message % args``, with the traceback of ``error`` if it is given."""
        self._log(logging.WARNING, cause, message, args, error)

    def error(self, cause: Hashable, message: str, *args: object, error: BaseException | None = None) -> None:
        """The same as an error."""
        self._log(logging.ERROR, cause, message, args, error)

    def forget(self, cause: Hashable) -> None:
        """Log this cause again when it comes up again."""
        self._logged_at.pop(cause, None)

    def clear(self) -> bool:
        """Forget all causes; True if any was logged since the last time."""
        had_any = bool(self._logged_at)
        self._logged_at.clear()
        return had_any

    def _log(
        self, level: int, cause: Hashable, message: str, args: tuple[object, ...], error: BaseException | None
    ) -> None:
        now = self._clock()
        if now - self._logged_at.get(cause, -math.inf) >= self._again_after:
            self._logged_at[cause] = now
            # As text: a handler may keep an exception for long, and with it the open files of its frames.
            texts = tuple(str(each) if isinstance(each, BaseException) else each for each in args)
            self._emit(level, message, texts, error)

    def _emit(self, level: int, message: str, args: tuple[object, ...], error: BaseException | None) -> None:
        log.log(level, message, *args, exc_info=error)


class LogOnceUnlocked(LogOnce):
    """A lock, and a log for what comes up under it: messages wait until this thread has released the lock.

    ``with log, log.lock:`` takes the lock; the end of ``with log`` logs what waits. A log handler may wait for another
    thread that wants the lock, or may write a metric itself, so no message is logged while this thread holds it.

    The lock is a context manager of its own because it is compiled: if a signal handler raises an exception, the lock
    is either not taken or released. A method in Python that took it could be left between the two.
    """

    def __init__(self) -> None:
        super().__init__()
        self._locks: dict[int, _thread.RLock] = {}
        self._waiting: list[tuple[Any, ...]] = []
        fork.register(self)

    @property
    def lock(self) -> _thread.RLock:
        """The lock of this process. A forked child has another one, as a thread of its parent may hold the old one."""
        return self._locks.setdefault(os.getpid(), _thread.RLock())

    def after_fork_in_child(self) -> None:
        """Forget the locks of earlier processes: a process id can come again."""
        self._locks = {}

    def _emit(self, *message: Any) -> None:
        self._waiting.append(message)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._waiting and not self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            waiting, self._waiting = self._waiting, []
            for message in waiting:
                super()._emit(*message)
