"""Which requests are answered when, and which together. Belongs to the event loop's thread.

Requests that can be given the very same answer wait in one group, and are answered by one call of the handler. Where
nothing else goes on, a group begins at once. It waits for others to join while an answer of its kind is being made, and
while much is unsent, for each answer may then be one more that nobody reads; but never longer than `PACE`.

Answers that are for one request only have threads and a queue of their own, so that they do not delay the others. No
more of them are made, or made and not yet taken over by the loop, than there are such threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mpmetrics.http.messages import Handler, Request, Response, plain
from mpmetrics.http.threads import HandlerThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from mpmetrics.http.limits import Limits

__all__ = ["Dispatch"]

logger = logging.getLogger("mpmetrics")

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

PACE = 0.1
"""Seconds after which waiting requests are answered, whatever else goes on."""

_APART = 4
"""Threads for answers that are for one request only: a few of them may wait for the same collection."""


class _Asked(NamedTuple):
    """A request, and whom to tell."""

    request: Request
    reply: Callable[[Response], None]


class Dispatch:
    """Has handlers answer requests on threads; `crowded` says whether much is unsent."""

    def __init__(self, limits: Limits, crowded: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._crowded = crowded
        self._threads = HandlerThreads(limits.threads)
        self._groups: dict[tuple[Handler, Hashable], list[_Asked]] = {}
        self._running: Counter[tuple[Handler, Hashable]] = Counter()
        self._apart = HandlerThreads(min(limits.threads, _APART))
        self._most_apart = limits.apart
        self._alone: deque[tuple[Handler, _Asked]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, handler: Handler, request: Request, reply: Callable[[Response], None]) -> None:
        """Have `reply` called with the handler's answer, now or later."""
        response = _guard(handler.immediate, request, request)
        if response is not None:
            reply(response)
            return
        kind = _guard(handler.kind, request, request)
        if isinstance(kind, Response):
            reply(kind)
        elif kind is not None:
            self._groups.setdefault((handler, kind), []).append(_Asked(request, reply))
            self._begin(now=False)
        elif len(self._alone) + self._apart.open >= self._most_apart:
            reply(plain(503, ("Retry-After", "1")))
        else:
            self._alone.append((handler, _Asked(request, reply)))
            self._begin(now=False)

    def close(self) -> None:
        """Begin nothing more. What runs is left to itself."""
        if self._timer is not None:
            self._timer.cancel()
        self._groups.clear()
        self._alone.clear()
        self._threads.close()
        self._apart.close()

    def _begin(self, *, now: bool) -> None:
        """Begin what may begin, or with `now` all there are threads for."""
        for key in list(self._groups):
            if now or not (self._running[key] or self._crowded()):
                self._running[key] += 1
                self._run(self._threads, key[0], self._groups.pop(key), key)
        while self._alone and self._apart.idle and (now or not self._crowded()):
            handler, asked = self._alone.popleft()
            self._run(self._apart, handler, [asked], None)
        if self._timer is None and (self._groups or self._alone):
            self._timer = self._loop.call_later(PACE, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._begin(now=True)

    def _run(
        self, threads: HandlerThreads, handler: Handler, group: Sequence[_Asked], key: tuple[Handler, Hashable] | None
    ) -> None:
        loop = self._loop

        def finish(response: Response) -> None:
            if key is not None:
                self._running[key] -= 1
                self._running += Counter()  # forgets those that do not run any more
            for asked in group:
                asked.reply(response)
            self._begin(now=False)

        def done(response: Response) -> None:
            threads.finished()
            finish(response)

        def job() -> None:
            response = _guard(handler, [asked.request for asked in group], group[0].request)
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(done, response)

        try:
            threads.submit(job)
        except RuntimeError as error:
            logger.error("cannot answer %s: %s", group[0].request.path, error)
            loop.call_soon(finish, plain(503))


def _guard(answer: Callable[[Asked], Answer], asked: Asked, request: Request) -> Answer | Response:
    """What ``answer`` says to what it is asked; a 500, without what went wrong, when it raises."""
    try:
        return answer(asked)
    except BaseException:
        logger.exception("answering %s %s failed", request.method, request.path)
        return plain(500)
