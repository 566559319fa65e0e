"""How requests come to their answers where the system gives no threads."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from mpmetrics.http.dispatch import Dispatch
from mpmetrics.http.limits import Limits
from mpmetrics.http.messages import Request, Response, plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


class Handler:
    """Answers everything alike; requests of one kind together, or each by itself."""

    def __init__(self, kind: Hashable | None) -> None:
        self._kind = kind

    def immediate(self, request: Request) -> None:
        """Never at once."""

    def kind(self, request: Request) -> Hashable | None:  # noqa: ARG002
        """Always the same."""
        return self._kind

    def __call__(self, requests: Sequence[Request]) -> Response:  # noqa: ARG002
        """The same to everybody."""
        return plain(200)


@pytest.mark.parametrize("kind", ["together", None])
def test_without_a_thread_it_is_503_until_there_is_one(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left without an answer, neither then nor later."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask(dispatch: Dispatch, handler: Handler) -> int:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        dispatch.ask(handler, Request("GET", "/metrics", "", {}), answer.set_result)
        return (await answer).status

    async def run() -> list[int]:
        handler, dispatch = Handler(kind), Dispatch(Limits(), lambda: False)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            refused = [await ask(dispatch, handler) for _ in range(3)]
        return [*refused, await ask(dispatch, handler), await ask(dispatch, handler)]

    assert [503, 503, 503, 200, 200] == asyncio.run(run())
