"""A value that is made from files, and made again when they change."""

from __future__ import annotations

import logging
import stat
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from mpmetrics.http.security.files import signature
from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpmetrics.http.security.files import Signature

__all__ = ["LOOK_EVERY", "Reloaded"]

log = logging.getLogger("mpmetrics")

Value = TypeVar("Value")

LOOK_EVERY = 1.0
"""Seconds between two checks of the files."""


class Reloaded(Generic[Value]):
    """The result of ``make()``, which reads the files at ``paths``. It is called now, and again when a file changes.

    The constructor raises what ``make()`` raises. Later, the files are checked when the value is needed, at most once a
    second. If ``make()`` then fails, the last value stays in force, the error is logged once, and the next check tries
    again: a file may be half written, or descriptors may be short. If every user of the host may read or write one of
    the ``secrets``, this is logged once until that file changes. Any thread may call it; none waits for another.
    """

    def __init__(
        self,
        paths: Sequence[str],
        make: Callable[[], Value],
        clock: Callable[[], float] = time.monotonic,
        *,
        secrets: Sequence[str] = (),
    ) -> None:
        self._paths = paths
        self._secrets = secrets
        self._open_files = LogOnce()
        self._failures = LogOnce()
        self._make = make
        self._clock = clock
        self._looking = threading.Lock()
        # Checked before they are read, so that the next check notices a change in between.
        self._seen = self._look()
        self._value = make()
        self._due = clock() + LOOK_EVERY

    def __call__(self) -> Value:
        """Return the current value. Never raises."""
        if self._clock() >= self._due:
            self.renew()
        return self._value

    def renew(self) -> None:
        """Check the files now, unless another thread does. Never raises."""
        if self._looking.acquire(blocking=False):
            try:
                self._due = self._clock() + LOOK_EVERY
                self._read_changed()
            finally:
                self._looking.release()

    def _look(self) -> list[Signature | None]:
        seen = [signature(path) for path in self._paths]
        for path, found in zip(self._paths, seen, strict=True):
            if path in self._secrets and found is not None and found.is_open:
                self._open_files.warn(
                    (path, found),
                    "%r holds secrets, and every user of this host may read or write it (mode %04o): chmod o= %s",
                    path,
                    stat.S_IMODE(found.mode),
                    path,
                )
        return seen

    def _read_changed(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        try:
            self._value = self._make()
        except Exception as error:  # noqa: BLE001 (whatever it is, the old protection must stay in force)
            self._failures.error(str(error), "%s; the endpoint stays protected by what it said before", error)
            return
        self._seen = seen
        self._failures.clear()
        log.info("read again, since they changed: %s", ", ".join(self._paths))
