"""What goes wrong with a store is said in the log: once for each cause, in each process."""

from __future__ import annotations

import logging
import os

__all__ = ["Complaints"]

log = logging.getLogger("mpmetrics")

_COMES_TO = {"fold": "the dead stay for the next process"}


class Complaints:
    """Says the first complaint of each cause; never raises."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, cause: str, error: Exception) -> None:
        """Say ``error``, and what it comes to, unless there was one of this cause."""
        if cause not in self._said:
            self._said.add(cause)
            what = _COMES_TO.get(cause, f"values stay in process {os.getpid()} until the store can take them")
            # As text: whoever keeps the record would keep what the traceback holds, open files too.
            log.warning("%s; %s", str(error), what)
