"""Has handlers answer requests, each on a thread of its own. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from mpmetrics.http.messages import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.http.messages import Handler, Request, Response

__all__ = ["HandlerThreads"]

logger = logging.getLogger("mpmetrics")

Answer = TypeVar("Answer")


class HandlerThreads:
    """Runs handlers on at most `most` daemon threads, which start with their request and end with it.

    Rejected: a ThreadPoolExecutor, because the interpreter waits for its threads at exit, also for one whose handler
    hangs; and a pool of our own, because starting a thread takes 0.1 ms, and a scrape some milliseconds.
    """

    def __init__(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._since: dict[object, float] = {}
        """When each request that is being answered began, on the monotonic clock."""

    def ask(self, handler: Handler, request: Request, reply: Callable[[Response], None]) -> None:
        """Have `reply` called with the handler's answer, now or later, on the event loop's thread."""
        response = _ask(handler.immediate, request)
        if response is None and self.all_busy:
            response = plain(503, ("Retry-After", "1"))
        if response is not None:
            reply(response)
            return
        key = object()

        def finish(response: Response) -> None:
            del self._since[key]
            reply(response)

        def work() -> None:
            response = _ask(handler, request)
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                self._loop.call_soon_threadsafe(finish, response)

        self._since[key] = time.monotonic()
        try:
            threading.Thread(target=work, name="mpmetrics-http-request", daemon=True).start()
        except RuntimeError as error:
            logger.error("cannot answer %s: %s", request.path, error)
            finish(plain(503, ("Retry-After", "1")))

    @property
    def all_busy(self) -> bool:
        """Whether one more request would be refused."""
        return len(self._since) >= self._most

    def busy_for(self) -> float:
        """Seconds that the oldest request has been worked on; 0 when none is."""
        now = time.monotonic()
        return now - min(self._since.values(), default=now)


def _ask(answer: Callable[[Request], Answer], request: Request) -> Answer | Response:
    """The answer; a 500 when it raises, which says nothing about the error."""
    try:
        return answer(request)
    except BaseException:
        logger.exception("answering %s %s failed", request.method, request.path)
        return plain(500)
